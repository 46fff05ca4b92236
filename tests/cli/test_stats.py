"""``virtmeter stats``, over real guests where those can show it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import virtmeter
from tests.cli.exporter import Exporter
from tests.support import cli, sample, xdr
from tests.support.libvirtd import HangUp, Never, Then
from tests.support.procedures import (
    BULK,
    VIR_DOMAIN_PAUSED,
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_INTERNAL_ERROR,
    VIR_FROM_NONE,
    Disk,
    Error,
)
from virtmeter.cli.export.choice import Choice
from virtmeter.cli.stats import table
from virtmeter.cli.stats.readings import Reading
from virtmeter.cli.targets import Target

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd

ODD = ("ünï-☃", "a\nb\x1b[2J", "[red]x[/red]", "x" * 150, 'q",; \x9b31m', "-\u202eabc")
FORMATS = ("table", "json", "jsonl", "csv")


def read(uri: str, *arguments: str) -> list[dict[str, Any]]:
    done = cli.run("stats", "--format", "json", "--uri", uri, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def names(readings: list[dict[str, Any]]) -> list[str]:
    return [reading["name"].removeprefix("virtmeter-test-") for reading in readings]


@pytest.fixture
def odd(daemon: Daemon) -> Daemon:
    for number, name in enumerate(ODD, 1):
        domain = sample.domain(number, bulk=True)
        domain.name = name
        daemon.add(domain)
    return daemon


def test_json_has_what_the_library_reads(rig: Libvirtd) -> None:
    guest = rig.guests["disks"]  # it is paused, so nothing moves but its memory on the host
    [told] = read(rig.uri, guest.name)
    with virtmeter.LibvirtInspector(rig.uri) as inspector:
        stats = inspector.inspect_instance(guest.uuid)._asdict()
        disks = [
            counters._asdict() | sizes._asdict()
            for counters, sizes in zip(
                inspector.inspect_disks(guest.uuid), inspector.inspect_disk_info(guest.uuid)
            )
        ]
    moving = ("cpu_time", "memory_resident", "vcpu_delay", "vcpu_time", "vcpu_wait")
    assert (told["id"], told["name"], told["state"]) == (guest.uuid, guest.name, "paused")
    assert told["hung"] is False
    assert {k: told[k] for k in stats if k not in moving} == {
        k: v for k, v in stats.items() if k not in moving
    }
    assert all(told[name] >= 0 for name in moving)
    assert [disk.pop("errors") for disk in disks] == [-1] * 5, "QEMU does not count them"
    assert [disk.pop("errors") for disk in told["disks"]] == [None] * 5
    assert {disk.pop("start") for disk in disks} == {told["start"]}, "told once"
    assert told["disks"] == disks
    assert {disk["device"] for disk in disks} == {"vda", "vdb", "vdc", "sda", "hda"}
    assert told["nics"] == []
    [nics] = read(rig.uri, rig.guests["nics"].uuid.upper())
    assert len(nics["nics"]) == 5, "and the one without a target"
    assert nics["nics"][0]["mac"] == "52:54:00:00:00:11"


def test_which_are_shown(rig: Libvirtd) -> None:
    running = ["booted", "disks", "many-vcpus", "nics", "no-balloon", "perf"]
    assert names(read(rig.uri)) == running
    assert names(read(rig.uri, "--all")) == [*running, "shutoff"]
    assert names(read(rig.uri, "*-n*", "virtmeter-test-disks")) == ["disks", "nics", "no-balloon"]
    assert names(read(rig.uri, "*-s*")) == []
    [off] = read(rig.uri, "virtmeter-test-shutoff")
    assert (off["state"], off["cpu_number"], off["nics"]) == ("shutoff", 1, None)
    assert off["disks"][0]["capacity"] == 16 << 20
    unknown = cli.run("stats", "--uri", rig.uri, "nobody")
    assert unknown.returncode == 2
    assert "no VM is named 'nobody'" in unknown.stderr


def test_csv_has_the_sums_of_json(rig: Libvirtd) -> None:
    done = cli.run("stats", "--format", "csv", "--uri", rig.uri, "*-disks", "*-nics")
    assert (done.returncode, done.stderr) == (0, "")
    disks, nics = csv.DictReader(io.StringIO(done.stdout))
    whole = dict(zip(("disks", "nics"), read(rig.uri, "*-disks", "*-nics")))
    assert disks["id"] == whole["disks"]["id"]
    assert (disks["disks"], disks["nics"], nics["nics"], nics["disks"]) == ("5", "0", "5", "0")
    for field in ("read_bytes", "flush_requests", "capacity", "allocation"):
        assert disks[f"disk_{field}"] == str(sum(disk[field] for disk in whole["disks"]["disks"]))
    for field in ("rx_bytes", "tx_packets"):
        assert nics[f"nic_{field}"] == str(sum(nic[field] or 0 for nic in whole["nics"]["nics"]))
    assert disks["disk_errors"] == "", "QEMU does not count them"


def test_a_hung_guest_is_marked_and_told(rig: Libvirtd) -> None:
    guest = rig.guests["booted"]
    with guest.sigstopped():
        common = ("stats", "--timeout", "1", "--uri", rig.uri, guest.name, "*-disks")
        table, whole = (cli.run(*common, "--format", form) for form in ("table", "json"))
    for done in (table, whole):
        [line] = done.stderr.splitlines()
        assert line.startswith(f"virtmeter: {guest.name} hangs: it did not answer within 1 s")
        assert done.returncode == 1
    hung, well = json.loads(whole.stdout)
    assert (hung["hung"], hung["state"], well["hung"]) == (True, "running", False)
    assert hung["cpu_time"] > 0
    assert hung["nics"][0]["rx_bytes"] > 0
    assert (hung["memory_usage"], hung["disks"]) == (None, None)
    assert well["disks"] != []
    assert "2 VMs: 1 hung, 1 paused" in table.stdout
    [row] = [line for line in table.stdout.splitlines() if line.startswith(guest.name)]
    assert "  hung  " in row


def test_memory_of_long_ago_is_marked(daemon: Daemon) -> None:
    """It goes by the time at which the guest told it, unless that is yet to come."""
    now = int(time.time())
    updated = {"old": now - 7200, "new": now, "ahead": now + 7200, "never": 0}
    for number, (name, when) in enumerate(updated.items(), 1):
        domain = sample.domain(number, bulk=True)
        domain.name, domain.memory[9] = name, when
        daemon.add(domain)
    done = cli.run("stats", "--uri", daemon.uri)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[4:7] for line in done.stdout.splitlines()[4:]}
    assert rows.pop("old") == ["100M?", "500M?", "300M"], "what the host tells is of now"
    assert rows.pop("?"), "and below the table it is said what that means"
    assert "'virtmeter doctor'" in done.stdout.splitlines()[-1]
    assert rows == {name: ["100M", "500M", "300M"] for name in ("ahead", "never", "new")}
    told = {each["name"]: each["memory_updated"] for each in read(daemon.uri)}
    assert told == {**updated, "never": None}


def test_without_a_terminal_nothing_is_coloured_or_cut(odd: Daemon) -> None:
    done = cli.run("stats", "--uri", odd.uri, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("6 VMs: 6 running at qemu+unix://")
    assert len(lines) == 4 + len(ODD)
    assert any(line.startswith("x" * 150 + "  running  ") for line in lines)
    assert "writes" in lines[3]


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_steers_no_terminal_and_breaks_no_format(odd: Daemon, form: str) -> None:
    done = cli.run("stats", "--uri", odd.uri, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert [char for char in done.stdout if not char.isprintable() and char != "\n"] == []
    if form == "json":
        assert {each["name"] for each in json.loads(done.stdout)} == set(ODD)
    if form == "jsonl":
        assert {json.loads(line)["name"] for line in done.stdout.splitlines()} == set(ODD)
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert {row["name"] for row in rows} >= {"ünï-☃", "a\\nb\\x1b[2J", "[red]x[/red]"}
        assert [row["name"] for row in rows if "abc" in row["name"]] == ["'-\\u202eabc"]
        assert {row["disk_capacity"] for row in rows} == {str(1 << 30)}


def test_what_libvirt_does_not_count_is_absent(daemon: Daemon) -> None:
    domain = sample.domain(1)
    domain.interfaces["tap1"] = (-1, 2, -1, 4, 5, 6, 7, 8)
    domain.disks["vda"].stats = (-1, 2, 3, -1, -1)
    domain.disks["vda"].flags["flush_operations"] = xdr.LLong(-1)
    domain.stats["perf.cpu_cycles"] = xdr.LLong(-1)
    daemon.add(domain)
    [told] = read(daemon.uri)
    [nic], [disk] = told["nics"], told["disks"]
    assert told["cpu_cycles"] is None
    assert (nic["rx_bytes"], nic["rx_errors"], nic["tx_bytes"]) == (None, None, 5)
    unknown = ("read_requests", "write_bytes", "errors", "flush_requests")
    assert [disk[name] for name in unknown] == [None] * 4
    assert (disk["read_bytes"], disk["write_requests"]) == (2, 3)
    [row] = csv.DictReader(
        io.StringIO(cli.run("stats", "--uri", daemon.uri, "--format", "csv").stdout)
    )
    assert [row[f"disk_{name}"] for name in unknown] == [""] * 4
    assert (row["nic_rx_bytes"], row["nic_tx_bytes"], row["cpu_cycles"]) == ("", "5", "")
    [line] = cli.run("stats", "--uri", daemon.uri).stdout.splitlines()[4:]
    assert line.split()[7:13] == ["-", "5B", "2B", "-", "-", "3"]


def test_a_sum_of_which_a_part_is_unknown_is_unknown(daemon: Daemon) -> None:
    """One of two NICs is refused, one of two disks, and the size of one; or nothing is."""
    more = (
        "<interface type='hostdev'><mac address='52:54:00:00:00:03'/></interface>"
        "<interface><mac address='52:54:00:00:00:02'/><target dev='tap9'/></interface>"
        "<disk type='file'><source file='/x'/><target dev='vdb'/></disk></devices>"
    )
    domains = [sample.domain(number, bulk=True) for number in range(1, 5)]
    for domain in domains:
        domain.xml = domain.xml.replace("</devices>", more)
        domain.interfaces["tap9"] = (1,) * 8
        domain.disks["vdb"] = Disk(stats=(1,) * 5, info=(1 << 30, 1, 1), path="/x")
    _, no_nic, no_disk, no_size = domains
    del no_nic.interfaces["tap9"]
    del no_disk.disks["vdb"]
    refusal = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "no")
    daemon.on("DOMAIN_GET_BLOCK_INFO", refusal, uuid=no_size.uuid, device="vdb", repeat=True)
    daemon.add(*domains)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "csv")
    assert done.returncode == 0
    fields = ("nic_rx_bytes", "disk_read_requests", "disk_capacity")
    sums = [[row[field] for field in fields] for row in csv.DictReader(io.StringIO(done.stdout))]
    size = str(2 << 30)
    assert sums == [["2", "2", size], ["", "3", size], ["4", "", ""], ["5", "5", ""]]
    table = cli.run("stats", "--uri", daemon.uri).stdout.splitlines()[4:]
    cells = [(row[7], row[9], row[13]) for row in map(str.split, table)]
    size = "2.00G"
    assert cells == [("2B", "3B", size), ("-", "3B", size), ("4B", "-", "-"), ("5B", "3B", "-")]
    whole = cli.run("stats", "--uri", daemon.uri, "--format", "jsonl").stdout.splitlines()
    nics = [len(json.loads(each)["nics"]) for each in whole]
    assert nics == [3, 2, 3, 3], "what is known is there"


def test_a_device_that_is_refused_is_missing_whatever_else_is_told(daemon: Daemon) -> None:
    """Neither what only libvirt knows stands in for it, nor is it unmissed where the XML fails."""
    nvme = "<source type='pci'><address domain='0x0' bus='0x1' slot='0x0' function='0x0'/></source>"
    more = (
        "<interface><mac/><target dev='tap8'/></interface>"
        "<interface><mac address='52:54:00:00:00:02'/><target dev='tap9'/></interface>"
        "<disk><source file='json:{}'/><target dev='vdb'/></disk>"
        f"<disk>{nvme}<target dev='vdc'/></disk></devices>"
    )
    no_nic, no_disk, no_nvme, no_xml = domains = [
        sample.domain(number, bulk=True) for number in range(1, 5)
    ]
    for domain in domains:
        domain.xml = domain.xml.replace("</devices>", more)
        domain.interfaces.update(dict.fromkeys(("tap8", "tap9"), (1,) * 8))
        domain.disks.update((name, Disk(stats=(1,) * 5)) for name in ("vdb", "vdc"))
    for domain in (no_nic, no_xml):
        del domain.interfaces["tap9"]
    del no_disk.disks["vda"], no_nvme.disks["vdc"]
    refusal = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "no")
    daemon.on("DOMAIN_GET_XML_DESC", refusal, uuid=no_xml.uuid)
    daemon.add(*domains)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "csv")
    rows = csv.DictReader(io.StringIO(done.stdout))
    sums = [(row["nic_rx_bytes"], row["disk_read_requests"]) for row in rows]
    assert sums == [("", "3"), ("4", ""), ("5", ""), ("", "")]


def test_csv_begins_no_formula(daemon: Daemon) -> None:
    names = ("=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\uff1d1", "\t=1", "'x", "x=1")
    for number, name in enumerate(names, 1):
        domain = sample.domain(number)
        domain.name = name
        domain.disks["vda"].stats = (-5, 2, 3, 4, -1)
        daemon.add(domain)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    told = {row["name"] for row in rows}
    assert told == {*(f"'{name}" for name in names[:5]), "\\t=1", "'x", "x=1"}
    assert {row["disk_read_requests"] for row in rows} == {"-5"}, "numbers are numbers"
    assert {row["disk_read_bytes"] for row in rows} == {"2"}


def test_why_a_vm_does_not_run_and_what_it_is(daemon: Daemon) -> None:
    broken, off, runs = (sample.domain(number, bulk=True) for number in (1, 2, 3))
    broken.state, broken.reason = VIR_DOMAIN_PAUSED, 5
    off.state, off.reason = VIR_DOMAIN_SHUTOFF, 3
    daemon.add(broken, off, runs)
    done = cli.run("stats", "--all", "--uri", daemon.uri)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("sample")}
    assert "paused   I/O error" in rows["sample-1"]
    assert "shutoff  crashed" in rows["sample-2"]
    assert "512M" in rows["sample-2"] or "1.00G" in rows["sample-2"], "what it will have"
    done = cli.run("stats", "--uri", daemon.uri, "sample-3")
    assert "why" not in done.stdout, "all run"
    done = cli.run("stats", "--all", "--uri", daemon.uri, "--format", "json")
    told = {each["name"]: each for each in json.loads(done.stdout)}
    assert told["sample-1"]["reason"] == "I/O error"
    details = told["sample-2"]["details"]
    assert (details["memory_maximum"], details["memory_configured"]) == (1024.0, 512.0)
    assert [disk["source"] for disk in details["disks"]] == ["/images/2", None]
    done = cli.run("stats", "--all", "--uri", daemon.uri, "--format", "csv")
    rows_ = {row["name"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert rows_["sample-2"]["reason"] == "crashed"
    assert rows_["sample-2"]["memory_configured"] == "512.0"


def test_two_disks_of_one_name_stay_two(daemon: Daemon) -> None:
    domain = sample.domain(1)
    disk = "<disk><source file='/x'/><target dev='vda'/></disk>"
    domain.xml = domain.xml.replace("</devices>", f"{disk}</devices>")
    daemon.add(domain)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "json")
    [one] = json.loads(done.stdout)
    assert [each["device"] for each in one["disks"]] == ["vda", "vda"]
    assert all(each["capacity"] and each["read_requests"] for each in one["disks"])
    done = cli.run("stats", "--uri", daemon.uri, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(done.stdout))
    assert (row["disks"], row["disk_capacity"]) == ("2", str(2 << 30))


def test_csv_has_names_as_they_are(daemon: Daemon) -> None:
    """Even one that looks like a URL with a password: two VMs would have one name."""
    names = ["x//u:p@h", "x//u:q@h"]
    for number, name in enumerate(names, 1):
        domain = sample.domain(number)
        domain.name = name
        daemon.add(domain)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "csv")
    assert [row["name"] for row in csv.DictReader(io.StringIO(done.stdout))] == names


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_may_be_a_number_of_thousands_of_digits(daemon: Daemon, form: str) -> None:
    long, short = sample.domain(1, bulk=True), sample.domain(2, bulk=True)
    long.name, short.name = "9" * 5000, "8"
    daemon.add(long, short)
    done = cli.run("stats", "--uri", daemon.uri, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    # Longer ones than 1,024 bytes are cut.
    first, second = (done.stdout.index(name) for name in (short.name, "9" * 1024))
    assert first < second
    assert "9" * 1025 not in done.stdout


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_terminal_is_not_too_narrow(tmp_path: Path, width: int) -> None:
    uri = cli.some_host(tmp_path, "instance-0000002a", "instance-0000002b")
    with cli.terminal("stats", "--uri", uri, columns=width) as child:
        said = cli.everything(child)
    assert child.exitstatus == 0
    assert "\x1b[32mrunning" in said, "in colours"
    lines = [plain(line) for line in said.splitlines()]
    assert max(map(len, lines)) <= width
    assert ("writes" in said) == (width == 120)
    assert sum(line.startswith("instance") for line in lines) == 2
    assert sum(line.startswith("instance-0000002") for line in lines) == (2 if width > 30 else 0)


@pytest.mark.parametrize(
    "name", ["web", "instance-00000001", "x" * 100, "☃" * 100, "漢" * 50], ids=lambda name: name[:9]
)
def test_a_row_is_one_line_however_long_the_name_and_narrow_the_terminal(name: str) -> None:
    stats = virtmeter.InstanceStats(cpu_number=128, memory_usage=1 << 20, power_state=1)
    readings = [Reading(virtmeter.Instance("id", each, 1), stats) for each in (name, "a", "b")]
    targets = [Target("", "", {}, 1, 1, ask_sizes=False, choice=Choice())]
    columns = []
    for width in range(1, 250):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(table.shown(readings, targets, 1, width))
        assert isinstance(console.file, io.StringIO)
        *_, first, second, third = (line.rstrip() for line in console.file.getvalue().splitlines())
        assert (second[0], third[0]) == ("a", "b"), width
        assert max(map(cell_len, (first, second, third))) <= width
        shown, *others = first.replace(" …", "…").split()  # half of a wide character is a space
        assert name.startswith(shown.removesuffix("…"))
        assert shown == name or shown.endswith("…")
        assert cell_len(shown) >= min(width, 7, cell_len(name)) - 1
        assert not any("…" in each for each in others), "a number that is cut is another one"
        columns.append(len(others))
    assert columns == sorted(columns)
    assert (columns[0], columns[-1]) == (0, len(table.COLUMNS) - 2), "without why"
    assert shown == name


@pytest.mark.parametrize("form", FORMATS)
def test_the_vms_are_sorted_as_people_count(tmp_path: Path, form: str) -> None:
    ordered = ("Web-1", "web-2", "web-10", "web-10b")
    uri = cli.some_host(tmp_path, *reversed(ordered))
    told = cli.run("stats", "--uri", uri, "--format", form).stdout
    watched = cli.run("watch", "--uri", uri, "--count", "1").stdout
    for said in (told, watched):
        places = [said.index(name) for name in ordered]
        assert places == sorted(places)


def plain(line: str) -> str:
    return Text.from_ansi(line).plain


@pytest.mark.parametrize(
    ("form", "said"), [("table", "no VM at "), ("json", "[]"), ("jsonl", ""), ("csv", "id,name,")]
)
def test_a_host_without_any_vm(daemon: Daemon, form: str, said: str) -> None:
    done = cli.run("stats", "--uri", daemon.uri, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
    assert len(done.stdout.splitlines()) == (1 if said else 0)


def test_a_vm_that_goes_away_meanwhile_is_left_out(daemon: Daemon) -> None:
    gone, stays = sample.domain(1), sample.domain(2)
    daemon.add(gone, stays)
    leave = Then(lambda daemon: daemon.domains.pop(gone.uuid, None))
    daemon.on("DOMAIN_GET_XML_DESC", leave, uuid=gone.uuid)
    assert [each["id"] for each in read(daemon.uri)] == [stays.uuid]


@pytest.mark.parametrize("wanted", [(), ("sample-*",)])
@pytest.mark.parametrize("starts", [True, False])
def test_a_vm_that_comes_or_goes_in_the_last_reading_is_no_failure(
    daemon: Daemon, starts: bool, wanted: tuple[str, ...]
) -> None:
    stays, changes = sample.domain(1, bulk=True), sample.domain(2, bulk=True)
    daemon.add(*(stays,) if starts else (stays, changes))

    def change(daemon: Daemon) -> None:
        if daemon.calls["CONNECT_GET_ALL_DOMAIN_STATS"] > first:
            daemon.domains.pop(changes.uuid, None)
            daemon.add(*(changes,) if starts else ())

    first = 1 + len(daemon.domains)  # the list, and each VM
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Then(change), uuid=stays.uuid, repeat=True)
    rows = read(daemon.uri, *wanted, "--interval", "0.1")
    assert rows[0]["cpu_utilization"] is not None
    assert all(row["cpu_utilization"] is None for row in rows[1:])


def test_a_vm_that_libvirt_refuses_to_read_is_told_in_one_line(daemon: Daemon) -> None:
    bad, good = sample.domain(1), sample.domain(2)
    daemon.add(bad, good)
    refusal = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "not\ntoday")
    daemon.on("DOMAIN_GET_XML_DESC", refusal, uuid=bad.uuid, repeat=True)
    done = cli.run("stats", "--uri", daemon.uri, "--format", "jsonl")
    one, two = map(json.loads, done.stdout.splitlines())
    [line] = done.stderr.splitlines()
    assert line.startswith("virtmeter: sample-1: ")
    assert "not\\ntoday" in line
    assert (one["cpu_number"], one["nics"], one["disks"]) == (1, None, None)
    assert two["nics"][0]["rx_bytes"] == 2
    assert done.returncode == 1


def test_a_reader_that_has_seen_enough(odd: Daemon) -> None:
    odd.add(*(sample.domain(number, bulk=True) for number in range(10, 60)))
    stats = subprocess.Popen(
        [*cli.COMMAND, "stats", "--uri", odd.uri, "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment(),
    )
    with stats:
        assert stats.stdout
        assert stats.stderr
        assert stats.stdout.readline() == "[\n"
        stats.stdout.close()
        assert stats.stderr.read() == ""
        assert stats.wait(cli.TIMEOUT) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_is_full(daemon: Daemon, form: str) -> None:
    daemon.add(sample.domain(1, bulk=True))
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*cli.COMMAND, "stats", "--uri", daemon.uri, "--format", form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=cli.environment(),
        )
    assert done.stderr == "virtmeter: [Errno 28] No space left on device\n"
    assert done.returncode == 1


def test_an_output_that_is_closed(tmp_path: Path) -> None:
    shell = 'exec "$@" >&-'
    command = [*cli.COMMAND, "stats", "--uri", cli.some_host(tmp_path, "one")]
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_waits_for_nobody(daemon: Daemon) -> None:
    daemon.add(*(sample.domain(number, bulk=True) for number in range(1, 20)))
    daemon.on("DOMAIN_GET_XML_DESC", Never(), repeat=True)
    completed = cli.interrupted(
        *("stats", "--uri", daemon.uri, "--timeout", "1000"),
        when=lambda: bool(daemon.calls["DOMAIN_GET_XML_DESC"]),
    )
    assert (completed.returncode, completed.stdout, completed.stderr.strip()) == (130, "", "")


def test_a_vm_whose_reading_breaks_each_connection_costs_the_others_nothing(
    daemon: Daemon,
) -> None:
    for number in range(1, 5):
        daemon.add(sample.domain(number, bulk=True))
    broken, *_ = (domain.uuid for domain in daemon.domains.values())
    daemon.on(BULK, HangUp(), uuid=broken, repeat=True)
    done = cli.run("stats", "--format", "json", "--uri", daemon.uri)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "sample-1: no connection" in done.stderr
    assert [vm.get("cpu_time") for vm in json.loads(done.stdout)] == [None, 2001, 3001, 4001]
    # Named, so that they are asked one by one.
    watch = ("watch", "--format", "jsonl", "--interval", "1", "--count", "2", "sample-*")
    done = cli.run(*watch, "--uri", daemon.uri)
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    known = [(row["name"], row["cpu_number"] is not None) for row in told]
    assert known == 2 * [(f"sample-{number}", number > 1) for number in range(1, 5)]
    with Exporter(daemon.uri) as exporter:
        samples = exporter.scrape()
    assert samples("virtmeter_up") == 1
    assert len(samples.all("virtmeter_domain_cpu_seconds_total")) == 3
