"""``stats`` and ``watch`` over several hypervisors: ``--targets``."""

from __future__ import annotations

import csv
import io
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import cli, sample
from tests.support.libvirtd import Daemon, Never, Then
from tests.support.procedures import VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, Error
from tests.support.xapi import PASSWORD, Pool, synthetic
from virtmeter.cli import tables
from virtmeter.cli.stats import formats
from virtmeter.cli.watch import formats as formats_of_usage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

FORMATS = ("json", "jsonl", "csv")
AWAY = "qemu+unix:///system?socket=/nonexistent/sock"
REFUSAL = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "not today")


@pytest.fixture
def second() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def pool() -> Iterator[Pool]:
    with synthetic(hosts=1, vms=2, delay=0.0) as pool:
        yield pool


class Targets:
    """A file of targets, each a URI and lines for its table."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "targets.toml"
        self._directory = directory
        self._passwords = 0

    def write(self, **targets: str | tuple[str, str]) -> str:
        tables = []
        for name, told in targets.items():
            uri, more = (told, "") if isinstance(told, str) else told
            tables.append(f'[targets.{name.replace("_", "-")}]\nuri = "{uri}"\n{more}\n')
        self.path.write_text("".join(tables))
        return str(self.path)

    def uri(self, pool: Pool, password: str = PASSWORD) -> str:
        """The URI of a pool, with a file of the password."""
        self._passwords += 1
        file = self._directory / f"password-{self._passwords}"
        file.touch(mode=0o600)
        file.write_text(password)
        return f"{pool.uri()}&password_file={file}"


@pytest.fixture
def targets(tmp_path: Path) -> Targets:
    return Targets(tmp_path)


def records(done: subprocess.CompletedProcess[str], form: str) -> list[dict[str, Any]]:
    if form == "csv":
        return list(csv.DictReader(io.StringIO(done.stdout)))
    if form == "json":
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found
    return [json.loads(line) for line in done.stdout.splitlines()]


def stats(*arguments: str, form: str = "jsonl") -> tuple[list[dict[str, Any]], list[str], int]:
    """What the command says in this format, and on stderr, and its status."""
    done = cli.run("stats", "--format", form, *arguments)
    assert "Traceback" not in done.stderr
    return records(done, form), done.stderr.splitlines(), done.returncode


def test_the_vms_of_all_targets_are_in_one_table(
    daemon: Daemon, second: Daemon, pool: Pool, targets: Targets
) -> None:
    """Two that have one UUID and one name are two: of which target, is said of each."""
    for each in (daemon, second):
        each.add(sample.domain(1, bulk=True), sample.domain(2, bulk=True))
    file = targets.write(kvm_10=daemon.uri, kvm_9=second.uri, pool=targets.uri(pool))
    done = cli.run("stats", "--targets", file)
    assert (done.returncode, done.stderr) == (0, "")
    title, _, _, header, *rows = done.stdout.splitlines()
    assert title == "6 VMs: 6 running at 3 targets"
    assert header.split()[:3] == ["target", "VM", "state"]
    told = [row.split()[:3] for row in rows]
    assert told[:4] == [
        ["kvm-9", "sample-1", "running"],
        ["kvm-9", "sample-2", "running"],
        ["kvm-10", "sample-1", "running"],
        ["kvm-10", "sample-2", "running"],
    ]
    assert [row[0] for row in told[4:]] == ["pool"] * 2
    assert PASSWORD not in done.stdout


@pytest.mark.parametrize("form", FORMATS)
def test_programs_are_told_the_target_first(
    daemon: Daemon, second: Daemon, targets: Targets, form: str
) -> None:
    daemon.add(sample.domain(1))
    second.add(sample.domain(1))
    file = targets.write(a=daemon.uri, b=second.uri)
    told, said, status = stats("--targets", file, form=form)
    assert (said, status) == ([], 0)
    assert [list(each)[:3] for each in told] == [["target", "id", "name"]] * 2
    assert [(each["target"], each["name"]) for each in told] == [
        ("a", "sample-1"),
        ("b", "sample-1"),
    ]
    [alone], _, _ = stats("--uri", daemon.uri, form=form)
    assert list(alone) == list(told[0])[1:], "and all else is as without targets"


def test_one_that_fails_costs_its_own_rows(
    daemon: Daemon, second: Daemon, pool: Pool, targets: Targets
) -> None:
    """It is away, hangs, or refuses the password, which is tried once."""
    daemon.add(sample.domain(1))
    second.add(sample.domain(2))
    second.on("CONNECT_OPEN", Never(), repeat=True)
    file = targets.write(
        away=AWAY,
        hangs=(second.uri, "timeout = 0.5"),
        refuses=targets.uri(pool, "hunter2"),
        well=daemon.uri,
    )
    told, said, status = stats("--targets", file)
    assert [(each["target"], each["name"]) for each in told] == [("well", "sample-1")]
    assert [line.split(": ")[:2] for line in said] == [
        ["virtmeter", name] for name in ("away", "hangs", "refuses")
    ]
    assert "/nonexistent/sock" in said[0]
    assert "has not answered for" in said[1]
    assert "refuses the login" in said[2]
    assert not any("keeps trying" in line or "hunter2" in line for line in said)
    assert status == 1
    assert pool.count("session.login_with_password") == 1
    title = cli.run("stats", "--targets", file).stdout.splitlines()[0]
    assert title == "1 VM: 1 running at 1 of 4 targets"


@pytest.mark.parametrize("command", [("stats",), ("stats", "--interval", "0.2"), ("watch",)])
def test_only_if_none_can_be_reached_that_is_the_status(
    daemon: Daemon, targets: Targets, command: tuple[str, ...]
) -> None:
    done = cli.run(*command, "--targets", targets.write(a=AWAY, b=AWAY))
    assert (done.returncode, done.stdout) == (3, "")
    assert sorted(line.split(": ")[1] for line in done.stderr.splitlines()) == ["a", "b"]
    daemon.on("CONNECT_LIST_ALL_DOMAINS", REFUSAL, repeat=True)
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", REFUSAL, repeat=True)
    done = cli.run(*command, "--targets", targets.write(a=AWAY, b=daemon.uri))
    assert done.returncode == 1, "it was reached"


def test_a_vm_that_hangs_is_told_with_its_target_and_that_ones_timeout(
    daemon: Daemon, second: Daemon, targets: Targets
) -> None:
    for each in (daemon, second):
        each.add(sample.domain(1))
    second.on("DOMAIN_MEMORY_STATS", Never(), repeat=True)
    file = targets.write(well=daemon.uri, ill=(second.uri, "timeout = 0.4"))
    for interval in ((), ("--interval", "0.2")):
        told, [line], status = stats("--targets", file, "--timeout", "50", *interval)
        assert [(each["target"], each["hung"]) for each in told] == [("ill", True), ("well", False)]
        assert line.startswith("virtmeter: ill: sample-1 hangs: it did not answer within 0.4 s")
        assert status == 1


def test_what_is_logged_names_the_target(daemon: Daemon, second: Daemon, targets: Targets) -> None:
    for each in (daemon, second):
        each.add(sample.domain(1))
    second.on("DOMAIN_INTERFACE_STATS", REFUSAL, repeat=True)
    file = targets.write(well=daemon.uri, ill=second.uri)
    _, said, _ = stats("--targets", file)
    assert [line.startswith("virtmeter: ill: ") for line in said] == [True]
    done = cli.run("watch", "--targets", file, "--count", "1")
    assert [line.startswith("virtmeter: ill: ") for line in done.stderr.splitlines()] == [True]
    alone = cli.run("watch", "--uri", second.uri, "--count", "1")
    assert alone.stderr.splitlines() == [done.stderr.splitlines()[0].replace("ill: ", "")]


def test_vms_are_looked_for_in_all_targets(
    daemon: Daemon, second: Daemon, targets: Targets
) -> None:
    daemon.add(sample.domain(1), sample.domain(2))
    second.add(sample.domain(2), sample.domain(3))
    file = targets.write(a=daemon.uri, b=second.uri)
    told, said, status = stats("--targets", file, "sample-2", "*-3")
    assert [each["target"] + each["name"][-2:] for each in told] == ["a-2", "b-2", "b-3"]
    assert (said, status) == ([], 0)
    _, said, status = stats("--targets", file, "sample-1", "nobody")
    assert "no VM is named 'nobody'" in said[-1]
    assert status == 2
    # It may be where nobody could look.
    told, said, status = stats("--targets", targets.write(a=daemon.uri, b=AWAY), "*-1", "nobody")
    assert [each["name"] for each in told] == ["sample-1"]
    assert "no VM is named 'nobody'" in said[0]
    assert said[1].startswith("virtmeter: b: ")
    assert status == 1
    file = targets.write(a=daemon.uri, b=second.uri)
    done = cli.run("watch", "--targets", file, "--count", "1", "nobody")
    assert done.returncode == 2
    assert "no VM is named 'nobody'" in done.stderr
    done = cli.run("watch", "--targets", file, "--count", "1", "--format", "jsonl", "*-3")
    assert [each["target"] for each in records(done, "jsonl")] == ["b"]


def test_what_the_file_chooses_is_read(daemon: Daemon, second: Daemon, targets: Targets) -> None:
    for each in (daemon, second):
        each.add(sample.domain(1), sample.domain(2))
    file = targets.write(
        some=(daemon.uri, 'vms = ["*-2"]\nno_collect = ["nics", "disks", "memory"]'),
        all=second.uri,
    )
    told, _, status = stats("--targets", file)
    assert status == 0
    assert [each["target"] + each["name"][-2:] for each in told] == ["all-1", "all-2", "some-2"]
    whole, some = told[1:]
    assert some["nics"] is some["memory_usage"] is None
    assert whole["nics"]
    assert whole["memory_usage"]
    assert some["cpu_time"] == whole["cpu_time"]
    assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 0, "what is not wanted is not asked for"
    done = cli.run("watch", "--targets", file, "--count", "1", "--format", "jsonl")
    told = records(done, "jsonl")
    assert sorted(each["target"] + each["name"][-2:] for each in told) == [
        "all-1",
        "all-2",
        "some-2",
    ]


def test_targets_and_a_uri_exclude_each_other(daemon: Daemon, targets: Targets) -> None:
    daemon.add(sample.domain(1))
    file = targets.write(a=daemon.uri)
    for command in ("stats", "watch"):
        done = cli.run(command, "--targets", file, "--uri", daemon.uri)
        assert done.returncode == 2
        assert "--targets names the hypervisors: leave out --uri" in done.stderr
    done = cli.run("stats", "--targets", file, LIBVIRT_DEFAULT_URI=AWAY)
    assert (done.returncode, done.stderr) == (0, ""), "that of the environment is not used"
    file = targets.write(a=daemon.uri, b=AWAY)
    done = cli.run("stats", "--targets", file, LIBVIRT_DEFAULT_URI=daemon.uri)
    assert "LIBVIRT_DEFAULT_URI" not in done.stderr


def test_a_mistake_in_the_file_is_told(targets: Targets) -> None:
    done = cli.run("stats", "--targets", targets.write(a="no uri"))
    assert done.returncode == 1
    assert "in [targets.a]: uri is no URI" in done.stderr
    assert cli.run("stats", "--targets", "/nonexistent").returncode == 2


@pytest.mark.parametrize("form", FORMATS)
def test_usage_within_an_interval(
    daemon: Daemon, second: Daemon, targets: Targets, form: str
) -> None:
    daemon.add(sample.domain(1))
    second.add(sample.domain(1))
    file = targets.write(a=daemon.uri, b=second.uri, c=AWAY)
    told, [line], status = stats("--targets", file, "--interval", "0.3", form=form)
    assert [(each["target"], each["name"]) for each in told] == [
        ("a", "sample-1"),
        ("b", "sample-1"),
    ]
    assert list(told[0])[:3] == ["time", "target", "id"]
    assert all(float(each["interval"]) >= 0.3 for each in told)
    assert line.startswith("virtmeter: c: ")
    assert status == 1
    table = cli.run("stats", "--targets", file, "--interval", "0.3").stdout.splitlines()
    assert table[0] == "2 VMs: 2 running at 2 of 3 targets, within 0.3 s"
    assert [row.split()[0] for row in table[4:]] == ["a", "b"]


def test_one_that_goes_away_within_the_interval(
    daemon: Daemon, second: Daemon, targets: Targets
) -> None:
    for each in (daemon, second):
        each.add(sample.domain(1, bulk=True))
    answered, ends = Then(lambda _: None), Then(lambda daemon: daemon.stop())
    second.on("CONNECT_GET_ALL_DOMAIN_STATS", answered, ends)
    file = targets.write(a=daemon.uri, b=second.uri)
    told, [line], status = stats("--targets", file, "--interval", "0.3")
    assert second.calls["CONNECT_GET_ALL_DOMAIN_STATS"] >= 2
    assert [each["target"] for each in told] == ["a"]
    assert line.startswith("virtmeter: b: ")
    assert status == 1


def test_the_interval_is_that_of_the_slowest_kind(targets: Targets, tmp_path: Path) -> None:
    uri = f"xenserver://monitor@127.0.0.1/?password_file={tmp_path}/none"
    file = targets.write(a=AWAY, b=uri)
    done = cli.run("stats", "--targets", file, "--interval", "5")
    assert done.returncode == 2
    assert "XenServer has new values every 5 s: give --interval 6 or more" in done.stderr


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_watch_reads_each_target_at_its_own_pace(
    daemon: Daemon, pool: Pool, targets: Targets, form: str
) -> None:
    daemon.add(sample.domain(1, bulk=True))
    file = targets.write(kvm=daemon.uri, pool_with_a_long_name=targets.uri(pool), away=AWAY)
    done = cli.run(
        *("watch", "--targets", file, "--interval", "0.2", "--count", "2", "--format", form)
    )
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["away"], "once"
    assert done.returncode == 1
    if form == "table":
        header, *rows = done.stdout.splitlines()
        assert header.split()[:3] == ["time", "target", "state"]
        assert (
            len({len(row[: row.index("running")]) for row in rows} | {header.index("state")}) == 1
        )
        of = [row.split()[1] for row in rows]
        assert rows[0].split()[3] == "-", "there is nothing to compare a first reading with"
    else:
        told = records(done, form)
        assert list(told[0])[:3] == ["time", "target", "id"]
        of = [each["target"] for each in told]
        usage = [each["cpu_utilization"] for each in told if each["target"].startswith("pool")]
        assert usage[:2] == [None if form == "jsonl" else ""] * 2
        assert all(float(each) > 0 for each in usage[2:4]), "not before it has new values"
    # The pool's second reading comes after 6 s, and the other target is read on meanwhile.
    assert of.count("pool-with-a-long-name") == 4
    assert of.count("kvm") > 10
    assert of[-1] == "pool-with-a-long-name"


def test_watch_shows_all_targets_on_the_screen(
    daemon: Daemon, second: Daemon, targets: Targets
) -> None:
    daemon.add(sample.domain(1, bulk=True))
    second.add(sample.domain(1, bulk=True))
    file = targets.write(kvm_1=daemon.uri, kvm_2=second.uri, away=AWAY)
    with cli.terminal("watch", "--targets", file, "--interval", "0.2") as child:
        child.expect_exact("2 VMs: 2 running")
        child.expect_exact("2 of 3 targets")
        child.expect_exact("away: no connection to")
        child.expect_exact("target")
        child.expect_exact("kvm-")
        second.stop()
        child.expect_exact("trouble with kvm-2, away. kvm-2: ")
        child.send("/kvm-1")
        child.expect_exact("/kvm-1▏")
        child.send("\r")
        second.start()
        child.expect_exact("2 of 3 targets")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 1, "one is away"
    with cli.terminal("watch", "--targets", targets.write(a=daemon.uri)) as child:
        child.expect_exact("1 of 1 target")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def test_keys_are_heard_while_a_target_hangs(
    daemon: Daemon, second: Daemon, targets: Targets
) -> None:
    daemon.add(sample.domain(1, bulk=True))
    second.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
    file = targets.write(well=daemon.uri, hangs=(second.uri, "timeout = 1000"))
    with cli.terminal("watch", "--targets", file, "--interval", "0.2") as child:
        child.expect_exact("1 VM: 1 running")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


@pytest.mark.parametrize("command", [("stats", "--interval", "500"), ("watch",)])
def test_ctrl_c_leaves_no_session_behind(
    pool: Pool, daemon: Daemon, targets: Targets, command: tuple[str, ...]
) -> None:
    daemon.add(sample.domain(1))
    file = targets.write(pool=targets.uri(pool), kvm=daemon.uri)
    done = cli.interrupted(
        *(*command, "--targets", file),
        when=lambda: pool.count("GET /rrd_updates") > 0,
        number=signal.SIGINT,
    )
    assert done.returncode == 130
    assert done.stderr.strip() == ""
    assert pool.count("session.logout") == pool.count("session.login_with_password") == 1


def test_many_targets_may_have_more_descriptors_than_usual(
    daemon: Daemon, targets: Targets
) -> None:
    daemon.add(sample.domain(1))
    file = targets.write(**{f"kvm-{number}": daemon.uri for number in range(30)})
    done = cli.shell('ulimit -Sn 256; exec "$@"', "stats", "--targets", file, "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 30
    done = cli.shell('ulimit -n 256; exec "$@"', "stats", "--targets", file)
    assert done.returncode == 1
    assert "file descriptors may be needed, and only 256 are allowed" in done.stderr


def test_the_names_share_what_room_there_is() -> None:
    """Neither of them is left out, and no number is cut."""
    columns = [
        tables.Column[str]("target", lambda row: row, left=True, is_name=True),
        tables.Column[str]("VM", lambda row: row[::-1], left=True, is_name=True),
        *(tables.Column[str](str(n), lambda _: "1234567", spare=n) for n in range(4)),
    ]
    rows = ["kvm-" + "x" * 46]
    for width in range(1, 200):
        kept = tables.fitting(columns, rows, width)
        assert tables.total(kept) <= max(width, 1)
        assert all(room >= 7 for column, room in kept.items() if not column.is_name)
        if width >= 2 * tables.SHORTEST_NAME + tables.GAP:
            assert set(columns[:2]) <= kept.keys()
    assert [kept[column] for column in columns[:2]] == [50, 50]


def test_no_field_of_a_vm_is_called_as_the_target() -> None:
    assert "target" not in formats_of_usage.FIELDS
    assert "target" not in (*formats.NIC_COUNTERS, *formats.DISK_COUNTERS)
