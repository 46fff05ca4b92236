"""``virtmeter export`` of real guests, scraped by hand and by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.support.qemu import wait_for
from virtmeter.cli.export.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.qemu import Guest, Libvirtd

PROMETHEUS = Path(__file__).parents[2] / "build/prometheus/usr/bin/prometheus"
GUESTS = ("booted", "disks", "nics", "no-balloon", "many-vcpus", "perf")
SCRAPED = "sum(sum_over_time(up[10m]))"
METHODS = {
    "inspect_instance": virtmeter.InstanceStats,
    "inspect_vnics": virtmeter.InterfaceStats,
    "inspect_disks": virtmeter.DiskStats,
    "inspect_disk_info": virtmeter.DiskInfo,
}
DEVICE = {
    virtmeter.InterfaceStats: "nic",
    virtmeter.DiskStats: "disk",
    virtmeter.DiskInfo: "disk",
}


@pytest.fixture(scope="module")
def guests(rig: Libvirtd) -> Iterator[list[Guest]]:
    with rig.bulk(3) as guests:
        yield guests


@pytest.fixture
def exporter(rig: Libvirtd) -> Iterator[Exporter]:
    with Exporter(rig.uri, "--timeout", "1") as exporter:
        yield exporter


def readings(inspector: virtmeter.LibvirtInspector, uuid: str) -> dict[tuple[str, str], Any]:
    """Return the values by metric and device, converted as the page of metrics says."""
    found = {}
    for method, kind in METHODS.items():
        answer = getattr(inspector, method)(uuid)
        for record in [answer] if method == "inspect_instance" else answer:
            device = record[0] if kind in DEVICE else ""
            for field in TABLES[kind][0]:
                value = getattr(record, field.field)
                if value not in (None, -1):
                    scale = 1e-9 if "_seconds" in field.metric else 1
                    scale = 2**20 if field.metric.startswith("memory_") else scale
                    scale = (
                        1
                        if any(each in field.metric for each in ("faults", "hugetlb", "updated"))
                        else scale
                    )
                    found[f"virtmeter_domain_{field.metric}", device] = value * scale
    return found


def test_the_values_are_those_that_the_inspector_reads(rig: Libvirtd, exporter: Exporter) -> None:
    uuids = [rig.guests[what].uuid for what in GUESTS]
    exporter.scrape()
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector:
        before = [readings(inspector, uuid) for uuid in uuids]
        time.sleep(1.0)  # what the exporter has read ahead is too old then
        samples = exporter.scrape()
        after = [readings(inspector, uuid) for uuid in uuids]
    for uuid, first, last in zip(uuids, before, after):
        assert len(first) >= 5
        assert first.keys() == last.keys()
        for (name, device), value in first.items():
            own = {"nic": device} if "_nic_" in name else {"disk": device} if device else {}
            exported = samples(name, uuid=uuid, **own)
            assert exported is not None, name
            least, most = sorted((value, last[name, device]))
            assert least * (1 - 1e-9) <= exported <= most * (1 + 1e-9), name
    assert samples("virtmeter_domain_state", uuid=rig.guests["shutoff"].uuid) == 5
    assert samples("virtmeter_domain_answering", uuid=rig.guests["shutoff"].uuid) is None


def test_a_guest_that_hangs_is_said_to_and_holds_up_no_scrape(
    guests: list[Guest], exporter: Exporter
) -> None:
    hung = guests[1].uuid
    assert exporter.scrape()("virtmeter_domain_answering", uuid=hung) == 1
    with guests[1].sigstopped():
        for _ in range(4):
            samples = exporter.scrape(timeout=20)
            assert samples("virtmeter_scrape_complete") == 1
            assert samples("virtmeter_domain_answering", uuid=hung) == 0
            assert samples("virtmeter_domain_cpu_seconds_total", uuid=hung) is not None
            assert samples("virtmeter_domain_disk_read_bytes_total", uuid=hung, disk="vda") is None
            for guest in (guests[0], guests[2]):
                assert samples("virtmeter_domain_answering", uuid=guest.uuid) == 1
                assert samples("virtmeter_domain_disk_capacity_bytes", uuid=guest.uuid, disk="vda")
    wait_for(
        lambda: exporter.scrape()("virtmeter_domain_answering", uuid=hung) == 1, "it answers again"
    )


def test_a_libvirtd_that_is_killed_and_comes_back(
    rig: Libvirtd, guests: list[Guest], exporter: Exporter
) -> None:
    assert exporter.scrape()("virtmeter_up") == 1
    rig.kill()
    try:
        assert exporter.scrape(timeout=5)("virtmeter_up") == 0
    finally:
        rig.restart()
    wait_for(lambda: exporter.scrape()("virtmeter_scrape_complete") == 1, "libvirt is back")
    assert exporter.scrape()("virtmeter_domain_vcpus", uuid=guests[0].uuid) == 1


class Prometheus:
    """A real one, which scrapes every two seconds."""

    def __init__(self, directory: Path, exporter: Exporter) -> None:
        target = exporter.url.split("/")[2]
        configuration = directory / "prometheus.yml"
        configuration.write_text(
            f"scrape_configs: [{{job_name: virtmeter, scrape_interval: 2s, scrape_timeout: 2s, "
            f"static_configs: [{{targets: ['{target}']}}]}}]"
        )
        self.process = subprocess.Popen(
            [
                *(PROMETHEUS, f"--config.file={configuration}", f"--storage.tsdb.path={directory}"),
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r'"Listening on" address=(\S+)', line):
                self.address = found[1]
                break
        else:
            raise AssertionError("Prometheus has not started")

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            found: bytes = answer.read()
        return found

    def is_ready(self) -> bool:
        with suppress(urllib.error.HTTPError):
            return bool(self.get("/-/ready"))
        return False

    def query(self, expression: str) -> list[float]:
        query = urlencode({"query": expression})
        result = json.loads(self.get(f"/api/v1/query?{query}"))["data"]["result"]
        return [float(each["value"][1]) for each in result]


@contextmanager
def scraping(exporter: Exporter, directory: Path) -> Iterator[Prometheus]:
    prometheus = Prometheus(directory, exporter)
    try:
        wait_for(prometheus.is_ready, "Prometheus is ready")
        yield prometheus
    finally:
        prometheus.process.kill()
        prometheus.process.communicate()


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="Prometheus is not in build/prometheus")
def test_a_real_prometheus_scrapes_for_a_minute_in_which_a_guest_hangs(
    rig: Libvirtd, guests: list[Guest], exporter: Exporter, tmp_path: Path
) -> None:
    booted, hung = rig.guests["booted"].uuid, guests[2]
    with scraping(exporter, tmp_path) as prometheus:

        def scraped(times: int) -> None:
            """Wait for so many scrapes more that were answered in time."""
            before = prometheus.query(SCRAPED) or [0]
            wait_for(
                lambda: (prometheus.query(SCRAPED) or [0])[0] >= before[0] + times,
                "Prometheus scrapes",
                timeout=30 + 8 * times,
            )

        scraped(13)
        assert prometheus.query("up") == [1]
        assert prometheus.query("virtmeter_up") == [1]
        cpu = f'rate(virtmeter_domain_cpu_seconds_total{{uuid="{booted}"}}[1m])'
        assert 0 < prometheus.query(cpu)[0] < 10
        with hung.sigstopped():
            answering = f'virtmeter_domain_answering{{uuid="{hung.uuid}"}}'
            wait_for(lambda: prometheus.query(answering) == [0], "the hung guest is seen")
            scraped(10)
            assert prometheus.query(f'virtmeter_domain_vcpus{{uuid="{guests[0].uuid}"}}') == [1]
        wait_for(lambda: prometheus.query(answering) == [1], "it answers again")
        scraped(7)
