"""The commands over a simulated pool of XenServer."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.support import cli, remote
from tests.support.qemu import wait_for
from tests.support.xapi import PASSWORD, Pool, synthetic
from virtmeter.cli.doctor import xenserver
from virtmeter.cli.export import metrics
from virtmeter.cli.export.reading import Pass

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PROMTOOL = ROOT / "build/prometheus/usr/bin/promtool"
MASTER, MEMBER = "xcp1", "xcp2"
SECRETS = (PASSWORD, "hunter2")


def run(*arguments: str, password: str = PASSWORD, **more: str) -> subprocess.CompletedProcess[str]:
    return remote.run(*arguments, password=password, secrets=SECRETS, **more)


def findings(*arguments: str, **more: Any) -> tuple[list[dict[str, str]], int]:
    return remote.findings(run("doctor", "--format", "json", *arguments, **more))


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Two hosts, a minute after a recording began; time stands still."""
    with Pool("xapi-26.17_steady", hosts=2) as pool:
        pool.now = pool.start + 60
        yield pool


@pytest.fixture
def live() -> Iterator[Pool]:
    """Two hosts with three VMs each, whose time is the real one."""
    with synthetic(hosts=2, vms=3, delay=0.0) as pool:
        yield pool


def test_stats_shows_the_vms_of_all_hosts(pool: Pool) -> None:
    done = run("stats", "--uri", pool.uri())
    assert (done.returncode, done.stderr) == (0, "")
    title, _, _, head, *rows = done.stdout.splitlines()
    place = pool.uri().partition("?")[0]
    assert title == f"14 VMs: 14 running at {place}", "neither the pin nor other options"
    assert head.split()[:2] == ["VM", "state"]
    assert [row.split()[0] for row in rows if row.startswith("vm-B")] == ["vm-B", "vm-B"]
    # Used is a part of what it was given, as what its kernel sees is not told.
    used, given = next(row for row in rows if row.startswith("vm-B")).split()[4:6]
    assert (used, given) == ("1.33G", "2.00G")
    assert next(row for row in rows if row.startswith("vm-G")).split()[4:6] == ["-", "1.00G"]
    # Requests have no counter since the start.
    assert next(row for row in rows if row.startswith("vm-B")).split()[-4:-2] == ["-", "-"]


def test_stats_asks_each_host_once_and_each_vm_once(pool: Pool) -> None:
    assert run("stats", "--uri", pool.uri()).returncode == 0
    for host in range(2):
        assert pool.count("GET /rrd_updates", host) == 1
        assert pool.count("GET /vm_rrd", host) == 7
    assert pool.count("event.from") == pool.count("session.login_with_password") == 1
    assert pool.count("session.logout") == 1


def test_stats_for_programs(pool: Pool) -> None:
    done = run("stats", "--format", "json", "--uri", pool.uri(), "vm-B")
    vms = json.loads(done.stdout)
    assert len(vms) == 2, "one on each host has this name"
    for vm in vms:
        truth = pool.truth(vm["id"], "vif_0_rx", pool.now)
        assert truth is not None
        assert vm["nics"][0]["rx_bytes"] == pytest.approx(truth, rel=0.01)
        assert vm["nics"][0]["rx_packets"] is None, "it is not counted"
        assert vm["disks"][0]["read_requests"] is None
        assert vm["details"]["memory_maximum"] == 2048
        assert vm["state"] == "running"
    done = run("stats", "--format", "csv", "--all", "--uri", pool.uri())
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["state"] for row in rows if row["name"] == "vm-C"] == ["shutoff", "shutoff"]


def test_a_host_that_is_away_costs_its_own_vms(pool: Pool) -> None:
    pool.hosts[1].away()
    done = run("stats", "--uri", pool.uri())
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("vm-B")]
    assert sorted(row[3] == "-" for row in rows) == [False, True], "one of them has its CPU time"
    said = done.stderr.splitlines()
    assert len(said) == 7, "one line for each of its VMs, and no other"
    assert all(f"its host {MEMBER} does not answer: " in line for line in said)


def test_usage_within_an_interval(live: Pool) -> None:
    live.hosts[1].away()
    done = run("stats", "--interval", "6", "--format", "json", "--uri", live.uri())
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"host {MEMBER} does not answer" in line
    vms = json.loads(done.stdout)
    away = [vm for vm in vms if vm["cpu_utilization"] is None]
    assert (len(vms), len(away)) == (6, 3)
    for vm in vms:
        if vm in away:
            assert vm["memory_used"] is vm["network_read_kib"] is None
            continue
        assert vm["cpu_interval"] >= 5, "a row at least"
        assert 0 < vm["cpu_utilization"] <= 100
        assert vm["network_read_kib"] > 0
        assert vm["disk_write_requests"] >= 0


def test_an_interval_in_which_there_may_be_no_new_values_is_refused() -> None:
    done = run("stats", "--interval", "5", "--uri", "xenserver://monitor@127.0.0.1/")
    assert done.returncode == 2
    assert "XenServer has new values every 5 s: give --interval 6 or more" in done.stderr


def test_watch_for_programs(live: Pool) -> None:
    """By default, each reading has something new."""
    done = run("watch", "--format", "jsonl", "--count", "2", "--uri", live.uri())
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * 6
    assert [line["cpu_utilization"] for line in lines[:6]] == [None] * 6
    assert all(0 < line["cpu_utilization"] <= 100 for line in lines[6:])


def test_watch_shows_which_host_is_away(live: Pool) -> None:
    live.hosts[1].away()
    with cli.terminal(
        *("watch", "--uri", live.uri()), script=f"VIRTMETER_PASSWORD='{PASSWORD}' exec {{}}"
    ) as child:
        child.expect_exact(f"no answer from {MEMBER} for ")
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def samples(text: str, name: str) -> dict[str, float]:
    """The samples of a metric, by their labels."""
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.M)
    return {labels: float(value) for labels, value in found}


def test_export_tells_of_the_pool(pool: Pool) -> None:
    done = run("export", "--once", "--uri", pool.uri())
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    labels = {
        host.index: f'{{host="{name}",uuid="{host.uuid}"}}'
        for host, name in zip(pool.hosts, (MASTER, MEMBER))
    }
    assert samples(text, "virtmeter_host_up") == {labels[0]: 1, labels[1]: 1}
    assert samples(text, "virtmeter_host_rows_wrong") == {labels[0]: 0, labels[1]: 0}
    info = samples(text, "virtmeter_domain_info")
    assert len(info) == 16
    assert all('hypervisor="xenserver"' in labels for labels in info)
    calls = samples(text, "virtmeter_calls_total")
    assert calls['{call="rrd_updates"}'] == pool.count("GET /rrd_updates") == 2
    assert "libvirt_calls" not in text
    assert len(samples(text, "virtmeter_domain_cpu_seconds_total")) == 14

    pool.hosts[1].away()
    done = run("export", "--once", "--uri", pool.uri())
    assert done.returncode == 1
    assert samples(done.stdout, "virtmeter_host_up") == {labels[0]: 1, labels[1]: 0}
    assert samples(done.stdout, "virtmeter_up") == {"": 1}
    assert len(samples(done.stdout, "virtmeter_domain_cpu_seconds_total")) == 7


def test_export_leaves_out_what_is_never_told(pool: Pool) -> None:
    """What a XenServer never tells, is asked for in vain and costs nothing else."""
    done = run("export", "--once", "--uri", pool.uri(), "--collect", "jobs", "--collect", "vcpus")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(samples(done.stdout, "virtmeter_domain_cpu_seconds_total")) == 14
    assert samples(done.stdout, "virtmeter_domain_job_elapsed_seconds") == {}


def test_every_metric_of_a_pool_is_documented(pool: Pool) -> None:
    text = run("export", "--once", "--uri", pool.uri()).stdout
    exported = set(re.findall(r"^# TYPE (\S+) (\S+)", text, re.M))
    page = (ROOT / "docs/commands/export.md").read_text()
    assert exported <= set(re.findall(r"^\| `(virtmeter_\w+)` \| (\w+)", page, re.M))
    assert ("virtmeter_calls_total", "counter") in exported


def test_promtool_finds_nothing_wrong(pool: Pool) -> None:
    if not PROMTOOL.exists():
        pytest.skip("Prometheus' promtool is not here")
    text = run("export", "--once", "--uri", pool.uri()).stdout
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_doctor_says_what_a_report_needs(live: Pool) -> None:
    live.database.update(
        "VM_metrics", next(iter(live.database.tables["VM_metrics"])), VCPUs_number=1
    )
    found, status = findings("--uri", live.uri())
    assert status == 0
    said = [each["what"] for each in found]
    assert any(line == "2 host(s), 6 VM(s), 6 of them running" for line in said)
    for name, host in zip((MASTER, MEMBER), live.hosts):
        about = next(line for line in said if line.startswith(f"host {name}: {host.address}, "))
        assert f"xapi {live.release}" in about
        [age] = [each for each in found if each["what"].startswith(f"host {name}: its newest row")]
        assert age["level"] == "ok"
    assert any("makes up for" in line and "sources that have gone read 0" in line for line in said)
    assert "its certificate is the one that is pinned by sha256=" in said
    [waits] = [each for each in found if "is not recorded" in each["what"]]
    assert waits["level"] == "ok"
    assert "xe vm-data-source-record uuid=" in waits["advice"]
    assert "libvirt's" not in " ".join(said)
    assert live.count("session.login_with_password") == live.count("session.logout") == 1


def test_doctor_finds_what_is_wrong(pool: Pool, tmp_path: Path) -> None:
    pool.hosts[1].away()
    file = tmp_path / "pool+password"
    file.write_text(PASSWORD)
    file.chmod(0o644)
    uri = f"{pool.uri().partition('?')[0]}?insecure=1&password_file={file}"
    found, status = findings("--uri", uri, password="not this one")
    assert status == 1
    levels = {each["what"]: each["level"] for each in found}
    [away] = [each for each in found if each["level"] == "problem"]
    assert away["what"].startswith(f"host {MEMBER} does not answer: ")
    [insecure] = [each for each in found if each["what"].startswith("insecure=1: ")]
    assert f"sha256={pool.hosts[0].certificate.sha256}" in insecure["advice"]
    assert levels[f"everybody can read the password file {file} (mode 644)"] == "warning"
    [silent] = [each for each in found if "whose guest does not report it" in each["what"]]
    assert silent["what"].endswith(": vm-G")
    assert "guest tools" in silent["advice"]
    # Recorded a while ago, as its clock has it.
    [age] = [each for each in found if "newest row" in each["what"]]
    assert age["level"] == "warning"
    assert "NTP" in age["advice"]


def test_doctor_compares_rows_with_counters() -> None:
    began = time.monotonic()
    with Pool("xapi-26.17_boundary", now=lambda: 0.0) as pool:
        # A second takes a twelfth, so that there is a minute between two readings.
        pool._clock = lambda: pool.start + 60 + (time.monotonic() - began) * 12
        found, status = findings("--uri", pool.uri(), "--check-rows", "12.5")
    assert status == 0
    # Whether enough of them differ to call the rows wrong depends on when they were read.
    said = " ".join(each["what"] for each in found)
    assert "its rows were not compared" not in said
    compared = re.search(r"of (\d+) counters have grown|: (\d+) counters? compared", said)
    assert compared
    assert int(compared[1] or compared[2]) > 0


LYING = virtmeter.Host(
    *("0a", "liar", "192.0.2.1", True, "XenServer 8.4", "26.17.0", 8, 1, [], 1, 2.0),
    compared=16,
    differed=5,
    exact=True,
)


def test_a_host_whose_rows_are_wrong() -> None:
    _, age, rows = xenserver.of_host(LYING, {})
    assert (age.level, age.what[:9]) == ("ok", "host liar")
    assert rows.level == "warning"
    assert "its rows are wrong: 5 of 16 counters" in rows.what
    read = Pass("xenserver")
    read.hosts = [LYING]
    with virtmeter.Inspector("xenserver://monitor@127.0.0.1/") as inspector:
        up, wrong = metrics.of_hosts(read.snapshot(), inspector.health())
    labels = '{host="liar",uuid="0a"}'
    assert up.block().lines[:] == f"virtmeter_host_up{labels} 1.0\n".encode()
    assert wrong.block().lines[:] == f"virtmeter_host_rows_wrong{labels} 1.0\n".encode()


def test_a_clock_that_is_ahead() -> None:
    _, age, _ = xenserver.of_host(LYING._replace(lag=-120.0), {})
    assert age.level == "warning"
    assert "2m00s in the future" in age.what


def test_doctor_advises_a_comparison_where_rows_may_be_wrong(pool: Pool) -> None:
    found, _ = findings("--uri", pool.uri())
    advice = [each["advice"] for each in found if "its rows were not compared" in each["what"]]
    assert len(advice) == 2
    assert all("--check-rows" in each for each in advice)
    with Pool("xapi-24.19_drift") as older:
        older.now = older.start + 60
        found, _ = findings("--uri", older.uri())
    advice = [each["advice"] for each in found if "its rows were not compared" in each["what"]]
    assert advice == [""]


def test_doctor_says_where_rows_cannot_be_compared() -> None:
    with Pool("xapi-26.17_steady", release="25.2.0") as pool:
        pool.now = pool.start + 60
        found, status = findings("--uri", pool.uri())
    assert status == 0
    [rows] = [each for each in found if "exact counters" in each["what"]]
    assert rows["level"] == "warning"
    assert "its rows may be wrong, and cannot be compared" in rows["what"]
    assert "xapi 25.2.0" in rows["what"]
    assert "25.3" in rows["advice"]
    assert "--check-rows" not in rows["advice"]
    [known] = [each["what"] for each in found if "is known for" in each["what"]]
    assert known.startswith("virtmeter makes up for all but wrong rows of what xapi 25.2.0 ")


def test_a_wrong_password_is_tried_once(pool: Pool) -> None:
    for command in (("stats",), ("watch",), ("export", "--once"), ("stats", "--interval", "6")):
        pool.forget()
        done = run(*command, "--uri", pool.uri(), password="wr0ng")
        assert done.returncode == 3
        [line] = done.stderr.splitlines()
        assert "refuses the login: wrong user name or password" in line
        assert pool.count("session.login_with_password") == 1
    pool.forget()
    found, status = findings("--uri", pool.uri(), password="wr0ng")
    assert status == 1
    assert "wrong user name or password" in " ".join(each["what"] for each in found)
    assert pool.count("session.login_with_password") == 1


def test_a_served_pool_is_read_once_the_password_is_right(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wr0ng")
    file.chmod(0o600)
    uri = f"{pool.uri()}&password_file={file}"
    with Exporter(uri) as exporter:
        for _ in range(3):
            assert exporter.scrape()("virtmeter_up") == 0
        assert pool.count("session.login_with_password") == 1
        file.write_text(PASSWORD)
        wait_for(lambda: exporter.scrape()("virtmeter_up") == 1, "the pool is read")
        assert pool.count("session.login_with_password") == 2
        samples = exporter.scrape()
        assert samples("virtmeter_host_up", host=MEMBER) == 1
        pool.hosts[1].away()
        wait_for(lambda: exporter.scrape()("virtmeter_host_up", host=MEMBER) == 0, "it is missed")
        assert exporter.scrape()("virtmeter_host_up", host=MASTER) == 1
    told = "".join(exporter.started) + exporter.said
    assert pool.uri().partition("?")[0] in told
    assert not any(secret in told for secret in (PASSWORD, "wr0ng", "sha256"))


def test_no_command_leaves_a_session_behind(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    uri = f"{pool.uri()}&password_file={file}"
    with Exporter(uri) as exporter:
        assert exporter.scrape()("virtmeter_up") == 1
        assert len(pool.sessions.open) == 1
    assert not pool.sessions.open, "it was ended by a signal"
    assert run("stats", "--uri", uri, "no-such-vm").returncode == 2
    assert pool.sessions.logins == 2
    assert not pool.sessions.open, "it has failed"


def test_a_wrong_pin_is_told_with_the_right_one(pool: Pool) -> None:
    uri = f"{pool.uri().partition('?')[0]}?sha256={'AB' * 32}"
    for command in ("stats", "watch"):
        done = run(command, "--uri", uri)
        assert done.returncode == 3
        [line] = done.stderr.splitlines()
        assert pool.hosts[0].certificate.sha256 in line
        assert "libvirt" not in line
    assert pool.count("session.login_with_password") == 0


def test_a_password_file_that_cannot_be_read(pool: Pool, tmp_path: Path) -> None:
    uri = f"{pool.uri()}&password_file={tmp_path / 'nothing'}"
    done = run("stats", "--uri", uri)
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert f"the password file {tmp_path / 'nothing'} cannot be used" in line
    assert pool.calls == {}


@pytest.mark.parametrize(
    "uri",
    [
        "xenserver://monitor:hunter2@127.0.0.1/",
        "xenserver://monitor%3Ahunter2@127.0.0.1/",
        "xenserver://monitor:hun/ter2hunter2@127.0.0.1/",
        "xenserver://monitor:hunter2",
        "xenserver://127.0.0.1/?password=hunter2",
        "xenserver://monitor@127.0.0.1/?password=hunter2",
        "xenserver://monitor@hunter2@127.0.0.1/",
        "XenServer://monitor:hunter2@[::1]/",
    ],
)
def test_a_password_in_the_uri_is_never_shown(uri: str) -> None:
    done = run("doctor", "--uri", uri)
    assert done.returncode == 1
    assert "the URI " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command", [("stats",), ("watch",), ("check",), ("export", "--once")])
def test_no_command_shows_a_password_in_the_uri(command: tuple[str, ...]) -> None:
    uri = "xenserver://monitor:hunter2@127.0.0.1/"
    for done in (run(*command, "--uri", uri), run(*command, LIBVIRT_DEFAULT_URI=uri)):
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        assert done.stderr


def test_check_is_for_libvirt_alone() -> None:
    done = run("check", "--uri", "xenserver://monitor@127.0.0.1/")
    assert done.returncode == 2
    assert "Ceilometer has no inspector of XenServer" in done.stderr
