"""``virtmeter export`` over daemons that say what the test wants: what it serves, and to whom."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.cli.exporter import COMMAND, Exporter, Samples, run
from tests.support import sample
from tests.support.libvirtd import Daemon, Garbage, HangUp, Late, Never, Reply, Then
from tests.support.procedures import (
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_INTERNAL_ERROR,
    VIR_FROM_QEMU,
    Domain,
    Error,
)
from tests.support.prometheus import promtool
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Answer

GOLDEN = Path(__file__).with_name("metrics.txt")
ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "contrib/grafana-dashboard.json"
OF_POOLS = {
    ("virtmeter_host_up", "gauge"),
    ("virtmeter_host_rows_wrong", "gauge"),
    ("virtmeter_calls_total", "counter"),
}
"""Metrics that libvirt has not: those of hosts and of requests."""

PROMTOOL = ROOT / "build/prometheus/usr/bin/promtool"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
TEST = "test:///default"

NOVA = """
<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
  <nova:name>shop "front"</nova:name>
  <nova:flavor name="m1.small"><nova:memory>512</nova:memory><nova:disk>1</nova:disk>
    <nova:swap>0</nova:swap><nova:ephemeral>0</nova:ephemeral><nova:vcpus>1</nova:vcpus>
  </nova:flavor>
  <nova:owner><nova:user uuid="user-1">u</nova:user><nova:project uuid="project-1">p</nova:project>
  </nova:owner>
  <nova:root type="image" uuid="image-1"/>
</nova:instance>
"""


def of_nova(domain: Domain) -> Domain:
    more = f"<metadata>{NOVA}</metadata><os><type arch='x86_64'>hvm</type></os><devices>"
    domain.xml = domain.xml.replace("<devices>", more)
    return domain


@pytest.fixture
def sampled(daemon: Daemon) -> Daemon:
    """A daemon with the sample domain, which is Nova's, and one that is shut off."""
    domain = of_nova(sample.domain())
    domain.memory[9] = 4_102_444_800  # when the guest told it
    daemon.add(
        domain,
        Domain(
            uuid=f"{2:08x}-2222-3333-4444-555555555555",
            name='odd "name"\nof\\two lines é',
            id=-1,
            state=VIR_DOMAIN_SHUTOFF,
        ),
    )
    return daemon


@pytest.fixture
def exporter(sampled: Daemon) -> Iterator[Exporter]:
    with Exporter(sampled.uri, "--timeout", "2") as exporter:
        yield exporter


def stands_still(line: str) -> str:
    """Leave out the values of what virtmeter says of itself."""
    line = line.replace(virtmeter.__version__, "VERSION")
    return line if line.startswith(("#", "virtmeter_domain")) else line.rpartition(" ")[0]


def test_every_metric_with_its_type_its_unit_and_its_value(exporter: Exporter) -> None:
    with exporter.get(headers=OPENMETRICS) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    lines = [stands_still(line) for line in text.splitlines()]
    assert lines == GOLDEN.read_text().splitlines()


def test_what_is_left_of_incomplete_metadata_is_in_the_labels(daemon: Daemon) -> None:
    domain = of_nova(sample.domain())
    domain.xml = re.sub("<nova:owner>.*</nova:owner>", "", domain.xml, flags=re.S)
    daemon.add(domain)
    with Exporter(daemon.uri) as exporter:
        for _ in range(2):
            samples = exporter.scrape()
        assert samples("virtmeter_domain_info", flavor="m1.small", project_id="", user_id="") == 1
    assert exporter.said.count("lacks the owner's user id, the owner's project id") == 1


@pytest.mark.skipif(not PROMTOOL.exists(), reason="Prometheus' package is not in build/prometheus")
def test_promtool_has_no_objections(exporter: Exporter) -> None:
    with exporter.get() as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read()
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_scraper_can_choose_metrics_by_name(exporter: Exporter) -> None:
    with exporter.get("/metrics?name[]=virtmeter_up") as answer:
        assert answer.read().decode().splitlines()[2:] == ["virtmeter_up 1.0"]


def test_the_other_pages(exporter: Exporter) -> None:
    with exporter.get("/") as answer:
        assert b'href="/metrics"' in answer.read()
    with exporter.get("/-/healthy") as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        exporter.get("/metrics/")
    assert caught.value.code == 404
    caught.value.close()


def test_scrapes_share_one_reading_and_get_at_their_deadline_what_it_has(sampled: Daemon) -> None:
    sampled.on("DOMAIN_GET_BLOCK_INFO", Never())
    with Exporter(sampled.uri, "--timeout", "60") as exporter:
        with ThreadPoolExecutor(8) as pool:
            scrapes = list(pool.map(lambda _: exporter.scrape(timeout=3), range(8)))
        for samples in scrapes:
            assert samples("virtmeter_up") == 1
            assert samples("virtmeter_scrape_complete") == 0
            assert samples("virtmeter_domain_cpu_seconds_total") == 1001e-9
            assert samples("virtmeter_domain_disk_write_requests_total") == 3
            assert samples("virtmeter_domain_disk_capacity_bytes") is None
            assert samples.all("virtmeter_domain_info") == [], "it is not known yet"
            assert samples("virtmeter_scrape_age_seconds") > 0  # type: ignore[operator]
        assert sampled.calls["DOMAIN_GET_BLOCK_INFO"] == 1


def test_without_the_header_the_deadline_is_that_of_the_option(sampled: Daemon) -> None:
    sampled.on("DOMAIN_GET_BLOCK_INFO", Never())
    with Exporter(sampled.uri, "--timeout", "60", "--deadline", "0.5") as exporter:
        assert exporter.scrape()("virtmeter_scrape_complete") == 0
        for header in ("nonsense", "nan", "-1"):
            with exporter.get(headers={"X-Prometheus-Scrape-Timeout-Seconds": header}) as answer:
                assert Samples(answer.read().decode())("virtmeter_scrape_complete") == 0


def test_libvirt_away_and_back(sampled: Daemon, exporter: Exporter) -> None:
    assert exporter.scrape()("virtmeter_up") == 1
    sampled.stop()
    away = exporter.scrape()
    assert away("virtmeter_up") == 0
    assert away("virtmeter_scrape_complete") == 0
    assert away.all("virtmeter_domain_state") == []
    assert away("virtmeter_outage_seconds") is not None
    sampled.start()
    wait_for(lambda: exporter.scrape()("virtmeter_up") == 1, "libvirt is back")
    assert exporter.scrape()("virtmeter_domain_vcpus") == 1


NO_LIST: dict[str, Answer] = {
    "refused": Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, "no\x1b[2J\nlist"),
    "no message": Reply(b"\0\0\0\1"),
    "never": Never(),
    "late": Late(1.5),
}


@pytest.mark.parametrize("answer", NO_LIST.values(), ids=NO_LIST)
def test_a_libvirt_that_does_not_list_its_vms_is_not_away(sampled: Daemon, answer: Answer) -> None:
    sampled.on("CONNECT_GET_ALL_DOMAIN_STATS", answer, repeat=True)
    with Exporter(sampled.uri, "--timeout", "1") as exporter:
        for _ in range(3):
            samples = exporter.scrape(timeout=20)
            assert samples("virtmeter_up") == 1
            assert samples("virtmeter_scrape_complete") == 0
            assert samples.all("virtmeter_domain_state") == []
        sampled.off()
        wait_for(lambda: exporter.scrape()("virtmeter_scrape_complete") == 1, "there is a list")
        assert exporter.scrape()("virtmeter_domain_vcpus") == 1
    hangs = isinstance(answer, (Never, Late))
    assert ("listing the instances" if hangs else "cannot list the instances") in exporter.said
    assert exporter.said.replace("\n", "").isprintable()


def test_a_list_that_comes_once_in_a_while(sampled: Daemon) -> None:
    with Exporter(sampled.uri, "--timeout", "1") as exporter:
        for answer in (HangUp(), Garbage(28 * b"x"), *NO_LIST.values()):
            assert exporter.scrape()("virtmeter_scrape_complete") in (0, 1)
            sampled.on("CONNECT_GET_ALL_DOMAIN_STATS", answer)
            assert exporter.scrape(timeout=20)("virtmeter_scrape_complete") in (0, 1)
            wait_for(lambda: exporter.scrape()("virtmeter_scrape_complete") == 1, "a list")


def test_a_signal_ends_it_while_the_list_hangs(sampled: Daemon) -> None:
    sampled.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
    with Exporter(sampled.uri, "--timeout", "60") as exporter:
        assert exporter.scrape(timeout=1)("virtmeter_up") == 0, "nothing was answered yet"
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(timeout=10) == 0


def test_a_new_instance_has_its_metadata_in_the_next_scrape(
    sampled: Daemon, exporter: Exporter
) -> None:
    exporter.scrape()
    xml = sampled.calls["DOMAIN_GET_XML_DESC"]
    sampled.add(of_nova(sample.domain(3)))
    samples = exporter.scrape()
    assert samples("virtmeter_domain_info", domain="sample-3", project_id="project-1") == 1
    assert sampled.calls["DOMAIN_GET_XML_DESC"] > xml


def test_no_vms_at_all(daemon: Daemon) -> None:
    with Exporter(daemon.uri) as exporter:
        samples = exporter.scrape()
    assert samples("virtmeter_scrape_complete") == 1
    assert not [name for name, _ in samples.values if name.startswith("virtmeter_domain")]


def test_a_vm_that_libvirt_refuses_is_counted_and_takes_no_other_with_it(
    sampled: Daemon, exporter: Exporter
) -> None:
    broken = sample.domain(4)
    broken.xml = "<broken"
    sampled.add(broken)
    once = run("--once", "--uri", sampled.uri)
    assert once.returncode == 1
    assert once.stderr.endswith("virtmeter: 4 readings failed: some values are missing\n")
    samples = exporter.scrape()
    assert samples("virtmeter_scrape_complete") == 1
    assert samples("virtmeter_scrape_failures") == 4, "NICs, disks, their sizes, and what it is"
    assert samples("virtmeter_domain_answering", domain="sample-4") == 1
    assert samples("virtmeter_domain_disk_capacity_bytes", domain="sample-1") == 1 << 30


def test_devices_that_have_the_same_labels_are_told_once(daemon: Daemon) -> None:
    domain = sample.domain()
    _, begin, rest = domain.xml.partition("<disk")
    devices, end, _ = rest.partition("</interface>")
    domain.xml = domain.xml.replace(begin + devices + end, 2 * (begin + devices + end))
    daemon.add(domain)
    with Exporter(daemon.uri) as exporter:
        samples = exporter.scrape()  # which would not have two of the same
    assert samples("virtmeter_domain_disk_allocation_bytes", disk="vda") == 1
    assert samples("virtmeter_domain_nic_receive_bytes_total", nic="tap1") == 1


def test_once_prints_and_ends(sampled: Daemon) -> None:
    completed = run("--once", "--uri", sampled.uri)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert Samples(completed.stdout)("virtmeter_domain_cpu_seconds_total") == 1001e-9


def test_once_leaves_out_a_vm_that_is_deleted_meanwhile(daemon: Daemon) -> None:
    gone, stays = sample.domain(1, bulk=True), sample.domain(2, bulk=True)
    daemon.add(gone, stays)
    leave = Then(lambda daemon: daemon.domains.pop(gone.uuid, None))
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", leave, uuid=gone.uuid)
    done = run("--once", "--uri", daemon.uri)
    assert (done.returncode, done.stderr) == (0, "")
    values = Samples(done.stdout)
    assert values("virtmeter_domain_vcpus", uuid=stays.uuid) is not None
    assert values("virtmeter_scrape_complete") == 1


def test_once_replaces_a_file_whole(sampled: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "virtmeter.prom"
    file.write_text("old")
    inode = file.stat().st_ino
    completed = run("--once", "--uri", sampled.uri, "--output", str(file))
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")
    assert Samples(file.read_text())("virtmeter_up") == 1
    assert file.stat().st_ino != inode
    assert file.stat().st_mode & 0o777 == 0o644, "node_exporter is another user"
    assert list(tmp_path.iterdir()) == [file]
    sampled.stop()
    completed = run("--once", "--uri", sampled.uri, "--output", str(file))
    assert completed.returncode == 3
    assert len(completed.stderr.splitlines()) <= 2, completed.stderr
    assert Samples(file.read_text())("virtmeter_up") == 0
    completed = run("--once", "--uri", sampled.uri, "--output", str(tmp_path / "no/such/file"))
    assert completed.returncode in (1, 2)
    assert "Traceback" not in completed.stderr


def test_once_writes_to_what_is_no_file_and_through_a_link(tmp_path: Path) -> None:
    pipe, file, link = (tmp_path / name for name in ("pipe", "file", "link"))
    os.mkfifo(pipe)
    file.touch()
    link.symlink_to(file)
    with ThreadPoolExecutor(1) as pool:
        piped = pool.submit(pipe.read_text)
        assert run("--once", "--uri", TEST, "--output", str(pipe)).returncode == 0
        assert Samples(piped.result(10))("virtmeter_up") == 1
    assert pipe.is_fifo()
    assert run("--once", "--uri", TEST, "--output", str(link)).returncode == 0
    assert link.is_symlink()
    assert Samples(file.read_text())("virtmeter_up") == 1


def test_the_status_is_the_same_with_standard_error_closed() -> None:
    command = shlex.join([*COMMAND, "export", "--once", "--uri", TEST])
    assert subprocess.run(f"{command} >/dev/null 2>&-", shell=True, check=False).returncode == 0


def test_once_that_reaches_no_libvirt_says_so_once(tmp_path: Path) -> None:
    completed = run("--once", "--uri", f"qemu+unix:///system?socket={tmp_path}/nobody")
    assert completed.returncode == 3
    [line] = completed.stderr.splitlines()
    assert line.startswith("virtmeter: no connection to ")
    assert "keeps trying" not in line


def test_once_with_a_uri_that_is_none() -> None:
    completed = run("--once", "--uri", "nonsense://")
    assert completed.returncode == 1
    assert len(completed.stderr.splitlines()) == 1, completed.stderr
    assert Samples(completed.stdout)("virtmeter_up") == 0
    assert "Traceback" not in completed.stderr


def test_a_device_that_is_refused_is_not_in_the_log_at_every_scrape() -> None:
    with Exporter(TEST) as exporter:
        for _ in range(3):
            assert exporter.scrape()("virtmeter_scrape_complete") == 1
    assert exporter.said.count(" is left out: ") == 1
    assert "WARNING" not in exporter.said


def test_once_that_comes_to_its_deadline_says_so(sampled: Daemon) -> None:
    sampled.on("DOMAIN_GET_BLOCK_INFO", Never())
    completed = run("--once", "--uri", sampled.uri, "--deadline", "1", "--timeout", "60")
    assert completed.returncode == 1
    assert "some values are missing" in completed.stderr
    assert Samples(completed.stdout)("virtmeter_scrape_complete") == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_while_a_guest_holds_up_a_scrape(
    sampled: Daemon, number: signal.Signals, status: int
) -> None:
    sampled.on("DOMAIN_GET_BLOCK_INFO", Never())
    with Exporter(sampled.uri, "--timeout", "60", ends_with=status) as exporter:

        def scrape_in_vain() -> None:
            with suppress(OSError):
                exporter.scrape(60)

        scrape = threading.Thread(target=scrape_in_vain)
        scrape.start()
        assert sampled.wait_until(lambda daemon: bool(daemon.calls["DOMAIN_GET_BLOCK_INFO"]))
        exporter.process.send_signal(number)
        assert exporter.process.wait(timeout=10) == status
        scrape.join()


def dashboards_queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_asks_for_what_is_exported(exporter: Exporter) -> None:
    with exporter.get() as answer:
        exported = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.M))
    dashboard = DASHBOARD.read_text()
    assert len(dashboards_queries()) > 20
    used = set(re.findall(r"virtmeter_\w+", dashboard))
    assert used - exported <= {name for name, _ in OF_POOLS}


def test_the_dashboards_variables_are_there_and_each_query_obeys_them() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    names = [each["name"] for each in dashboard["templating"]["list"]]
    assert names == ["datasource", "hypervisor", "target", "domain"]
    told = DASHBOARD.read_text()
    assert set(re.findall(r"\$\{?([a-z]+)", told)) == set(names)
    for query in dashboards_queries():
        assert 'instance=~"$target"' in query
        # A VM of which nothing but its state is read has no such label: it is always shown.
        belongs = 'unless on (instance, uuid) virtmeter_domain_info{hypervisor!~"$hypervisor"}'
        assert ("virtmeter_domain_" in query) == (belongs in query), query


@pytest.mark.skipif(not PROMTOOL.exists(), reason="Prometheus' package is not in build/prometheus")
@pytest.mark.parametrize(
    ("chosen", "shown"),
    [(".*", {"1": 0.5, "2": 1.0, "3": 1.5}), ("vsphere", {"2": 1.0, "3": 1.5})],
)
def test_the_dashboard_shows_the_vms_of_the_hypervisor_that_is_chosen(
    tmp_path: Path, chosen: str, shown: dict[str, float]
) -> None:
    """Those of one name are told apart; and it may not be known what a VM is of."""
    query = next(query for query in dashboards_queries() if "_vcpu_seconds_total" in query)
    variables = {"target": ".*", "domain": ".*", "hypervisor": chosen, "__rate_interval": "5m"}
    for name, value in variables.items():
        query = query.replace(f"${name}", value)
    series, of = [], {"1": "libvirt", "2": "vsphere", "3": ""}
    for uuid, hypervisor in of.items():
        labels = f'{{instance="a", domain="web", uuid="{uuid}"}}'
        used = f"0+{30 * int(uuid)}x10"
        series += [
            {"series": f"virtmeter_domain_vcpu_seconds_total{labels}", "values": used},
            {"series": f"virtmeter_domain_vcpus{labels}", "values": "1x10"},
        ]
        if hypervisor:
            info = labels.replace("{", f'{{hypervisor="{hypervisor}", ')
            series.append({"series": f"virtmeter_domain_info{info}", "values": "1x10"})
    told = [
        {"labels": f'{{instance="a", domain="web", uuid="{uuid}"}}', "value": value}
        for uuid, value in shown.items()
    ]
    asked = {"expr": query, "eval_time": "10m", "exp_samples": told}
    test = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [asked]}]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    promtool("test", "rules", tmp_path / "test.yml")


@pytest.mark.skipif(not PROMTOOL.exists(), reason="Prometheus' package is not in build/prometheus")
def test_prometheus_understands_the_dashboards_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"query{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(dashboards_queries())
    ]
    (tmp_path / "queries").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "queries")


@pytest.mark.skipif(not PROMTOOL.exists(), reason="Prometheus' package is not in build/prometheus")
def test_the_names_of_another_exporter_are_there_by_recording_rules(
    sampled: Daemon, tmp_path: Path
) -> None:
    """Each rule has a result, from what a scrape tells; but those of what this host has not."""
    [domain, *_] = sampled.domains.values()
    domain.memory |= {0: 1024, 1: 2048}  # swap
    text = (ROOT / "contrib/libvirt-exporter-rules.yml").read_text()
    records = set(re.findall(r"record: (\S+)", text))
    page = (ROOT / "docs/commands/export.md").read_text()
    assert set(re.findall(r"^\| `(libvirt_\w+)` \|", page, re.M)) == records
    options = ("--uri", sampled.uri, "--once", "--collect", "vcpus", "--collect", "jobs")
    scraped = run(*options).stdout
    told = [line.rpartition(" ") for line in scraped.splitlines() if not line.startswith("#")]
    present = {re.split("[{ ]", series)[0] for series, _, _ in told}
    series = [{"series": name, "values": f"{float(value):.0f}x10"} for name, _, value in told]
    absent = {
        record
        for record, expr in re.findall(r"record: (\S+)\n\s+expr: (.*)", text)
        if not set(re.findall(r"virtmeter_\w+", expr)) <= present
    }
    assert {record for record in absent if "_job_info_" not in record} == {
        "libvirt_domain_vcpu_state"  # the scripted daemon has none
    }
    states = ["libvirt_domain_info_state"]  # of eight rules, there are the states that there are
    tests = [
        {"expr": f"count({record}) > bool 0", "eval_time": "5m", "exp_samples": [{"value": 1}]}
        for record in sorted(records - absent) + states
    ]
    test = {
        "rule_files": [glob.escape(str(ROOT / "contrib/libvirt-exporter-rules.yml"))],
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    promtool("test", "rules", tmp_path / "test.yml")


def test_the_page_of_the_command_has_every_metric(exporter: Exporter) -> None:
    with exporter.get() as answer:
        exported = set(re.findall(r"^# TYPE (\S+) (\S+)", answer.read().decode(), re.M))
    page = (ROOT / "docs/commands/export.md").read_text()
    documented = set(re.findall(r"^\| `(virtmeter_\w+)` \| (\w+)", page, re.M))
    assert documented == exported | OF_POOLS
