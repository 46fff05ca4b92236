"""The commands over a simulated vCenter."""

from __future__ import annotations

import csv
import io
import json
import re
import ssl
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.support import cli, remote
from tests.support.qemu import wait_for
from tests.support.vcsim import PASSWORD, VCenter, unavailable
from tests.support.xapi.certificates import openssl
from virtmeter.cli import certificates, kinds, units
from virtmeter.cli.doctor import https, vsphere
from virtmeter.cli.doctor import samples as of_samples
from virtmeter.cli.export import metrics
from virtmeter.cli.export.reading import Pass

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=str(unavailable()))

ROOT = Path(__file__).parents[2]
PROMTOOL = ROOT / "build/prometheus/usr/bin/promtool"
SECRETS = (PASSWORD, "hunter2")


def run(*arguments: str, password: str = PASSWORD, **more: str) -> subprocess.CompletedProcess[str]:
    return remote.run(*arguments, password=password, secrets=SECRETS, **more)


def findings(*arguments: str, **more: Any) -> tuple[list[dict[str, str]], int]:
    return remote.findings(run("doctor", "--format", "json", *arguments, **more))


def said(found: list[dict[str, str]], what: str) -> dict[str, str]:
    """The one finding that says this."""
    [one] = [each for each in found if what in each["what"]]
    return one


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    """Two hosts, ten minutes after their start; time stands still."""
    with VCenter(hosts=2, vms=8, off=1) as vcenter:
        vcenter.step(600)
        yield vcenter


@pytest.fixture
def live() -> Iterator[VCenter]:
    """Two hosts, whose time is the real one."""
    with VCenter(hosts=2, vms=4, now=None) as vcenter:
        yield vcenter


def place(vcenter: VCenter) -> str:
    return vcenter.uri.partition("?")[0]


def samples(text: str, name: str) -> dict[str, float]:
    """The samples of a metric, by their labels."""
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.M)
    return {labels: float(value) for labels, value in found}


def test_stats_shows_the_vms_of_all_hosts(vcenter: VCenter) -> None:
    done = run("stats", "--uri", vcenter.uri)
    assert (done.returncode, done.stderr) == (0, "")
    title, _, _, head, *rows, legend, advice = done.stdout.splitlines()
    assert "of VMs that were started before are 0 here" in legend
    assert "'virtmeter stats --interval 25'" in advice
    assert title == f"8 VMs: 8 running at {place(vcenter)}", "neither the pin nor other options"
    assert head.split()[:2] == ["VM", "state"]
    vm = next(vm for vm in vcenter.vms() if vm.name in rows[0])
    # What its kernel uses is not told, what it was given is.
    used, given = rows[0].removeprefix(vm.name).split()[3:5]
    assert used == "-"
    balloon = vm.value("mem.vmmemctl.average", "", vm.times(vcenter.now)[-1])
    assert given == units.size(vm.mib * 2**20 - balloon * 1024)


def test_stats_for_programs(vcenter: VCenter) -> None:
    vm = next(vm for vm in vcenter.vms() if len(vm.nics) == 2)
    [told] = json.loads(run("stats", "--format", "json", "--uri", vcenter.uri, vm.uuid).stdout)
    [*_, newest] = vm.times(vcenter.now)
    assert told["id"] == vm.uuid
    assert told["memory_usage"] is None, "the host does not see it"
    assert told["memory_active"] == vm.value("mem.active.average", "", newest) / 1024
    assert told["memory_resident"] == vm.value("mem.consumed.average", "", newest) / 1024
    assert [nic["name"] for nic in told["nics"]] == [nic["key"] for nic in vm.nics]
    assert all(nic["rx_errors"] is None for nic in told["nics"]), "they are not counted"
    assert told["cpu_time"] == 0, "it was started more than an hour ago"

    vcenter.create(name="young")
    vcenter.step(130)
    vm = vcenter.vm("young")
    [told] = json.loads(run("stats", "--format", "json", "--uri", vcenter.uri, "young").stdout)
    times = vm.times(vcenter.now)
    ran = sum(vm.value("cpu.run.summation", "", time) for time in times)
    assert told["cpu_time"] == told["vcpu_time"] == ran * 10**6
    nic = told["nics"][0]
    received = (vm.value("net.received.average", nic["name"], time) for time in times)
    assert nic["rx_bytes"] == sum(received) * 20 * 1024

    done = run("stats", "--format", "csv", "--all", "--uri", vcenter.uri)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert sorted(row["state"] for row in rows) == ["running"] * 9 + ["shutoff"]


def test_usage_within_an_interval_and_live() -> None:
    """Time runs: what is read 25 s later is new, for ``stats`` and, by default, for ``watch``."""
    with VCenter(hosts=1, vms=2, now=None) as vcenter:
        vms = {vm.uuid: vm for vm in vcenter.vms()}
        # There is a sample of each by then.
        with virtmeter.Inspector(vcenter.uri, password=lambda: PASSWORD, max_age=0.0) as inspector:
            wait_for(lambda: len(inspector.usage_all()) == 2, "they have samples", timeout=60)
        done = run("watch", "--format", "jsonl", "--count", "2", "--uri", vcenter.uri)
        assert (done.returncode, done.stderr) == (0, "")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == 4
        assert [line["cpu_utilization"] for line in lines[:2]] == [None] * 2
        for line in lines[2:]:
            assert line["cpu_interval"] % 20 == pytest.approx(0)
            assert 0 <= line["cpu_utilization"] <= 60, "as it is made"
            assert line["memory_used"] is None
            assert line["memory_total"] == vms[line["id"]].mib * 1024
        done = run("stats", "--interval", "25", "--format", "json", "--uri", vcenter.uri)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(vm["network_read_kib"] > 0 for vm in json.loads(done.stdout))


def test_watch_on_a_terminal(live: VCenter) -> None:
    name = live.vms()[0].name
    with cli.terminal(
        *("watch", "--uri", live.uri), script=f"VIRTMETER_PASSWORD='{PASSWORD}' exec {{}}"
    ) as child:
        child.expect_exact("every 25 s")
        child.expect_exact(name)
        child.send("q")
        cli.everything(child)
        assert child.exitstatus == 0


def test_an_interval_in_which_there_may_be_no_new_values_is_refused() -> None:
    done = run("stats", "--interval", "20", "--uri", "vsphere://monitor@127.0.0.1/")
    assert done.returncode == 2
    assert "vSphere has new values every 20 s: give --interval 25 or more" in done.stderr


@pytest.mark.parametrize("command", ["stats", "watch", "export", "doctor"])
def test_help_names_vsphere(command: str) -> None:
    told = " ".join(run(command, "--help").stdout.split())
    assert "vsphere://USER@HOST/" in told
    if command == "watch":
        assert "with XenServer 6, with vSphere 25" in told


def test_a_host_that_is_away_costs_its_own_vms(vcenter: VCenter) -> None:
    vcenter.connection(1, "notResponding")
    lost = {vm.name for vm in vcenter.vms() if vm.host == 1 and vm.state == "poweredOn"}
    done = run("stats", "--uri", vcenter.uri)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(lost)
    assert all("is not connected" in line for line in lines)
    assert "libvirt" not in done.stderr


def test_export_tells_of_vcenter(vcenter: VCenter) -> None:
    done = run("export", "--once", "--uri", vcenter.uri)
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    labels = [f'{{host="{host["name"]}",uuid="{host["uuid"]}"}}' for host in vcenter.hosts()]
    assert samples(text, "virtmeter_host_up") == dict.fromkeys(labels, 1)
    assert "virtmeter_host_rows_wrong" not in text, "vSphere has no such rows"
    info = samples(text, "virtmeter_domain_info")
    assert len(info) == 9
    assert all('hypervisor="vsphere"' in labels for labels in info)
    assert any('manager="nova"' in labels for labels in info)
    calls = samples(text, "virtmeter_calls_total")
    assert calls['{call="Login"}'] == 1
    assert "libvirt_calls" not in text
    active = samples(text, "virtmeter_domain_memory_active_bytes")
    assert len(active) == 8
    for vm in vcenter.vms():
        if vm.state == "poweredOn":
            told = next(value for labels, value in active.items() if vm.uuid in labels)
            newest = vm.times(vcenter.now)[-1]
            assert told == vm.value("mem.active.average", "", newest) * 1024
    assert samples(text, "virtmeter_domain_memory_usage_bytes") == {}, "unknown is not zero"

    vcenter.connection(1, "disconnected")
    done = run("export", "--once", "--uri", vcenter.uri)
    assert done.returncode == 1
    assert list(samples(done.stdout, "virtmeter_host_up").values()) == [1, 0]
    assert samples(done.stdout, "virtmeter_up") == {"": 1}


def test_every_metric_of_a_vcenter_is_documented(vcenter: VCenter) -> None:
    text = run("export", "--once", "--uri", vcenter.uri).stdout
    exported = set(re.findall(r"^# TYPE (\S+) (\S+)", text, re.M))
    page = (ROOT / "docs/commands/export.md").read_text()
    assert exported <= set(re.findall(r"^\| `(virtmeter_\w+)` \| (\w+)", page, re.M))
    assert ("virtmeter_domain_memory_active_bytes", "gauge") in exported


def test_promtool_finds_nothing_wrong(vcenter: VCenter) -> None:
    if not PROMTOOL.exists():
        pytest.skip("Prometheus' promtool is not here")
    text = run("export", "--once", "--uri", vcenter.uri).stdout
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_host_that_vcenter_does_not_hear_of_is_not_up() -> None:
    """Also one without a VM, whose samples nobody misses."""
    host = virtmeter.Host(
        *("0a", "esx1", None, False, "VMware ESXi 8.0.2", None, 8, 0, [], None, None, 0, 0, False)
    )
    read = Pass(kinds.VSPHERE)
    read.hosts = [host, host._replace(id="0b", name="esx2", live=True)]
    with virtmeter.Inspector("vsphere://monitor@127.0.0.1/") as inspector:
        [up] = metrics.of_hosts(read.snapshot(), inspector.health())
    lines = bytes(up.block().lines[:]).decode().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0.0", "1.0"]


def test_a_served_vcenter(vcenter: VCenter, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wr0ng")
    file.chmod(0o600)
    with Exporter(f"{vcenter.uri}&password_file={file}") as exporter:
        for _ in range(3):
            assert exporter.scrape()("virtmeter_up") == 0
        assert vcenter.logins() == 1
        file.write_text(PASSWORD)
        wait_for(lambda: exporter.scrape()("virtmeter_up") == 1, "it is read")
        assert vcenter.logins() == 2
    told = "".join(exporter.started) + exporter.said
    assert place(vcenter) in told
    assert not any(secret in told for secret in (PASSWORD, "wr0ng", "sha256"))


def test_a_wrong_password_is_tried_once(vcenter: VCenter) -> None:
    for command in (("stats",), ("watch",), ("export", "--once"), ("stats", "--interval", "25")):
        vcenter.forget_calls()
        done = run(*command, "--uri", vcenter.uri, password="wr0ng")
        assert done.returncode == 3
        [line] = done.stderr.splitlines()
        assert "refuses the login: wrong user name or password" in line
        assert vcenter.logins() == 1
    vcenter.forget_calls()
    found, status = findings("--uri", vcenter.uri, password="wr0ng")
    assert status == 1
    assert said(found, "wrong user name or password")["level"] == "problem"
    assert vcenter.logins() == 1


def test_a_wrong_pin_is_told_with_the_right_one(vcenter: VCenter) -> None:
    done = run("stats", "--uri", f"{place(vcenter)}?sha256={'AB' * 32}")
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert vcenter.sha256.upper() in line.replace(":", "")
    assert vcenter.logins() == 0


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("vsphere://monitor:hunter2@127.0.0.1/", "has a password in it"),
        ("vsphere://127.0.0.1/?password=hunter2", "the URI "),
        ("vsphere://monitor@/", "names no host; write it like SCHEME://USER@HOST/"),
        ("vsphere:monitor@127.0.0.1", "or vsphere://USER@HOST/?password_file=FILE"),
    ],
)
def test_what_is_wrong_with_a_uri(uri: str, message: str) -> None:
    done = run("doctor", "--uri", uri)
    assert done.returncode == 1
    assert message in " ".join(done.stdout.split())
    assert done.stderr == ""


def test_check_is_for_libvirt_alone() -> None:
    done = run("check", "--uri", "vsphere://monitor@127.0.0.1/")
    assert done.returncode == 2
    assert "Ceilometer has no inspector of vSphere" in done.stderr


def test_doctor_says_what_a_report_needs(vcenter: VCenter) -> None:
    found, status = findings("--uri", vcenter.uri)
    assert status == 0
    told = [each["what"] for each in found]
    assert said(found, "logged in at ")["what"].startswith(
        f"logged in at {place(vcenter)}: VMware vCenter Server "
    )
    assert "its certificate is the one that is pinned by sha256=" in told
    assert said(found, "its certificate expires on ")["level"] == "ok"
    assert "2 host(s), 9 VM(s), 8 running" in told
    for host in vcenter.hosts():
        about = next(line for line in told if line.startswith(f"host {host['name']}: VMware ESX"))
        assert f"{host['threads']} CPU threads" in about
    # It stands still, years from now.
    assert said(found, "its clock is ")["level"] == "warning"
    assert said(found, "the ages of the newest samples of 2 hosts differ by 0 s")["level"] == "ok"
    assert "libvirt's" not in " ".join(told)
    assert vcenter.logins() == vcenter.calls()["Logout"] == 1


def test_doctor_says_what_samples_are_like(vcenter: VCenter) -> None:
    """The simulator's are known: sums are exact, and all time is accounted for."""
    found, _ = findings("--uri", vcenter.uri)
    vms = [vm for vm in vcenter.vms() if vm.state == "poweredOn"]
    count = len(vms) * len(vms[0].times(vcenter.now))
    assert (
        "over 20 s, 0 s after a multiple of 20 s, from old to new for 8 VM(s)"
        in (said(found, "samples of 8 VM(s)")["what"])
    )
    assert (
        f"100.00 to 100.00 % of the time of the vCPUs, median 100.00 %, in {count} samples"
        in (said(found, "cpu: run + ready + costop + wait")["what"])
    )
    assert (
        f"0 in {count} of {count} samples, 0 to 0 ms"
        in (said(found, "cpu.run.summation of the whole VM")["what"])
    )
    assert "0 to 0 KBps" in said(found, "net.received.average of the whole VM less")["what"]
    assert said(found, "virtualDisk.read.average has no value of the whole VM")
    assert "4000" in said(found, "instances: net.*: ")["what"]
    assert said(found, " values are missing")["what"].startswith("0 of ")
    fault = said(found, "a call that is also about a VM that does not exist")["what"]
    assert "does not exist any more (vm-999999999)" in fault
    newest = vms[0].value("cpu.run.summation", "", vms[0].times(vcenter.now)[-1])
    shown = said(found, f"samples of {vms[0].name} at ")["what"]
    assert re.search(rf"cpu\.run\.summation\[\] \d+, \d+, {newest};", shown)


def test_doctor_tells_samples_that_are_otherwise(vcenter: VCenter) -> None:
    vm = vcenter.vms()[0]
    vcenter.limits(omit_deleted=True, disk_aggregate=True, newest_first=True)
    vcenter.missing(vm.name, "cpu.run.summation", "", [vm.times(vcenter.now)[3]])
    vcenter.migrate(vm.name, host=1 - vm.host)
    vcenter.step(40)
    found, _ = findings("--uri", vcenter.uri)
    assert "from old to new for 0 VM(s)" in said(found, "samples of 8 VM(s)")["what"]
    assert said(found, "leaves that one out")
    assert "0 to 0 KBps" in said(found, "virtualDisk.read.average of the whole VM less")["what"]
    assert "(whole VM)" in said(found, "instances: net.*: ")["what"].partition("virtualDisk")[2]
    assert said(found, f"{vm.name} has samples since ")["level"] == "ok"


def test_doctor_sees_what_is_filled_in(vcenter: VCenter) -> None:
    vm = vcenter.vms()[0]
    [*_, last] = vm.times(vcenter.now)
    vcenter.missing(vm.name, "cpu.run.summation", "", [last])
    with virtmeter.Inspector(vcenter.uri, password=lambda: PASSWORD) as inspector:
        ids = [each.id for each in inspector.list_instances()]
        before = vsphere.examine(inspector, ids)
        assert "1 of cpu.run.summation" in of_samples.missing(before.sampled)
        vcenter.heal(vm.name)
        vcenter.step(20)
        after = vsphere.examine(inspector, ids)
    told = of_samples.changed(before.sampled, after.sampled, 20).what
    assert "values filled in: 1 of 1; others changed: 0; samples that came late: 0" in told


def test_doctor_asks_again(vcenter: VCenter) -> None:
    found, _ = findings("--uri", vcenter.uri, "--check-rows", "1")
    assert "others changed: 0" in said(found, "asked again after 1 s")["what"]


def test_doctor_finds_what_is_wrong(vcenter: VCenter) -> None:
    vcenter.connection(1, "notResponding")
    vcenter.half_clone()
    found, status = findings("--uri", f"{place(vcenter)}?insecure=1")
    assert status == 1
    problems = [each for each in found if each["level"] == "problem"]
    name = vcenter.hosts()[1]["name"]
    assert [name in each["what"] for each in problems] == [True]
    insecure = said(found, "insecure=1: ")["advice"].replace(":", "")
    assert f"sha256={vcenter.sha256.upper()}" in insecure
    assert said(found, "1 VM(s) are left out")["level"] == "warning"
    assert said(found, "the state of VMs is unknown: ")["level"] == "warning"


def test_doctor_says_that_nothing_may_be_seen(vcenter: VCenter) -> None:
    found, status = findings("--uri", vcenter.uri_of("nobody"))
    assert status == 1
    nothing = said(found, "0 host(s), 0 VM(s)")
    assert nothing["level"] == "problem"
    assert "role Read-only at the root" in nothing["advice"]


def test_doctor_sees_clocks_that_differ(vcenter: VCenter) -> None:
    vcenter.clock_off(1, 300)
    vcenter.step(40)
    found, _ = findings("--uri", vcenter.uri)
    apart = said(found, "the ages of the newest samples of 2 hosts differ by 300 s")
    assert apart["level"] == "warning"
    first, second = (host["name"] for host in vcenter.hosts())
    assert f"{second} is ahead of {first}" in apart["what"]


def test_doctor_over_an_esxi_host() -> None:
    with VCenter(esxi=True, vms=2) as host:
        host.step(120)
        found, status = findings("--uri", host.uri)
    assert status == 0
    assert "VMware ESX" in said(found, "logged in at ")["what"]
    assert said(found, "1 host(s), 2 VM(s), 2 running")["level"] == "ok"


@pytest.mark.parametrize("days", [2, 20000])
def test_until_when_a_certificate_is_good(days: int, tmp_path: Path) -> None:
    key, file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    openssl(
        *("req", "-x509", "-days", str(days), "-nodes", "-subj", "/CN=x", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", key, "-out", file),
    )
    shown = ssl.PEM_cert_to_DER_cert(file.read_text())
    until = openssl("x509", "-noout", "-enddate", "-in", file)
    end = certificates.expiry(shown)
    assert end
    assert end.timestamp() == ssl.cert_time_to_seconds(until.strip().removeprefix("notAfter="))
    assert certificates.expiry(shown[:40]) is None


def test_a_certificate_that_expires() -> None:
    now = datetime(2027, 1, 15, tzinfo=timezone.utc)
    soon, later = now + timedelta(days=9), now + timedelta(days=90)
    assert https.expires(soon, now, pinned=False).level == "warning"
    assert https.expires(later, now, pinned=False).level == "ok"
    assert https.expires(soon, now, pinned=True).level == "ok"


def test_what_a_server_does_not_have_or_does_not_show() -> None:
    told = vsphere.Examined("vCenter", 0, ["cpu.ready.summation"], 3, 2, None, [])
    found = list(vsphere.lacks(told))
    assert [each.level for each in found] == ["warning"] * 3
    assert "cpu.ready.summation" in found[0].what
    assert "role Read-only at the root" in found[1].advice
    assert list(vsphere.lacks(told._replace(lacking=[], refused=0, left_out=0))) == []


def test_how_values_are_rounded_is_seen_by_their_sum() -> None:
    """12.6 KBps and 3.7 KBps are 13 + 4 where they are rounded, and 12 + 3 where they are cut."""
    times = [(1_800_000_000, 20)]
    for parts, whole, less in (((13, 4), 16, -1), ((12, 3), 16, 1)):
        values = dict(zip(("4000", "4001", "vmnic0", ""), (*parts, whole, whole)))
        series: list[of_samples.Series] = [
            ("net.received.average", name, [value]) for name, value in values.items()
        ]
        vm = of_samples.Samples("0a", True, times, series)
        told = of_samples.wholes("net.received.average", "KBps", "NICs", [vm])
        assert f"0 in 0 of 1 sample, {less} to {less} KBps" in told


def test_a_vm_that_is_gone_by_then_is_a_warning(
    vcenter: VCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> vsphere.Examined:
        raise virtmeter.NoDataException("an object does not exist any more")

    with virtmeter.Inspector(vcenter.uri, password=lambda: PASSWORD) as inspector:
        running = inspector.list_instances()
        monkeypatch.setattr(vsphere, "examine", fail)
        [found] = vsphere.of_samples(inspector, running, None)
    assert found.level == "warning"
