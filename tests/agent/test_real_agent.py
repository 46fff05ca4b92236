"""The whole agent, ``ceilometer-polling`` 27.0.0, over real guests: stock, and with virtmeter.

It runs without Keystone, Nova and a message bus: instances are discovered in libvirt's metadata,
and samples are read from the agent's own exporter for Prometheus. The stock agent is that of the
tests' environment; virtmeter's has the wheel, and no libvirt-python.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.agent.releases import HERE
from tests.support import broken
from tests.support.guests import PREFIX
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.qemu import Libvirtd

STOCK = Path(sys.executable).parent
ROOT = HERE.parents[1]
VIRTMETER = ROOT / "build/ceilometer-27.0.0/bin"
NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"
METADATA = """
<instance>
  <name>server of {what}</name>
  <flavor name="m1.tiny" id="42"><memory>128</memory><disk>1</disk><swap>0</swap>
    <ephemeral>0</ephemeral><vcpus>1</vcpus><extraSpecs/></flavor>
  <owner><user uuid="user-1">me</user><project uuid="project-1">we</project></owner>
  <root type="image" uuid="image-1"/>
</instance>
"""
CONFIG = """
[DEFAULT]
transport_url = fake://
host = compute-1
libvirt_uri = {uri}
[compute]
instance_discovery_method = libvirt_metadata
[polling]
cfg_file = {polling}
enable_notifications = false
enable_prometheus_exporter = true
prometheus_listen_addresses = 127.0.0.1:{port}
threads_to_process_pollsters = {threads}
[service_credentials]
auth_type = password
auth_url = http://127.0.0.1:1/
username = nobody
password = none
[virtmeter]
enabled = {enabled}
timeout = 2
additional_meters = {additional}
"""
POLLING = "sources: [{name: all, interval: 1, meters: ['*']}]\n"
POLLING_CPU = "Polling pollster cpu in"
RATES = ("ceilometer_network_incoming_bytes_rate", "ceilometer_network_outgoing_bytes_rate")
GOLDEN = (HERE / "metrics-27.0.0.txt").read_text().splitlines()
ADDITIONAL = (HERE / "additional-27.0.0.txt").read_text().splitlines()

Samples = dict[str, float]


class Agent:
    """A running agent."""

    def __init__(
        self,
        directory: Path,
        bin_: Path,
        environment: dict[str, str],
        *,
        config: str = CONFIG,
        **options: Any,
    ) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        file, polling = directory / "ceilometer.conf", directory / "polling.yaml"
        polling.write_text(POLLING)
        file.write_text(config.format(polling=polling, port=self.port, **options))
        self.log = directory / "agent.log"
        programs = [str(bin_ / "python"), str(bin_ / "ceilometer-polling")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*programs, "--config-file", str(file), "--polling-namespaces", "compute"],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End the agent and all that it has started."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def samples(self) -> Samples:
        """Return what is exported now, by name and labels; nothing before it listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
                text = page.read().decode()
        except OSError:
            return {}
        found = re.findall(r"^(\w+\{[^}]*\}) (\S+)$", text, re.M)
        return {series: float(value) for series, value in found}

    def log_has(self, words: str, times: int = 1) -> None:
        """Wait until the log has these words so many times."""
        wait_for(
            lambda: self.count(words) >= times,
            f"{words!r} in the log, {times} time(s)",
            timeout=60,
            log=self.log,
        )

    def count(self, words: str) -> int:
        """Return how often the log has these words."""
        return self.log.read_text(errors="replace").count(words)

    def words_of_virtmeter(self) -> list[str]:
        """Return the lines of the log that name virtmeter, and not just a guest or a directory."""
        said = self.log.read_text(errors="replace")
        for named_so in (PREFIX, str(ROOT), str(STOCK.parents[1]), str(self.log.parents[1])):
            said = said.replace(named_so, "")
        return [line for line in said.splitlines() if "virtmeter" in line]

    def cycle(self) -> Samples:
        """Collect what is exported during a whole cycle; a metric is away while it is polled."""
        collected: Samples = {}
        begun = self.count(POLLING_CPU)

        def complete() -> bool:
            collected.update(self.samples())
            return self.count(POLLING_CPU) >= begun + 3

        wait_for(complete, "a cycle of the agent", timeout=60, log=self.log)
        return collected

    def fresh_cycle(self) -> Samples:
        """Collect a whole cycle that has begun after this call."""
        self.cycle()
        return self.cycle()


@pytest.fixture
def cloud(rig: Libvirtd) -> Iterator[Libvirtd]:
    """The rig, with some guests that are Nova's."""
    servers = ("booted", "disks", "nics")
    for what in servers:
        set_metadata(rig, what, METADATA.format(what=what))
    yield rig
    for what in servers:
        set_metadata(rig, what, None)


def set_metadata(rig: Libvirtd, what: str, metadata: str | None) -> None:
    """Write Nova's metadata into a running guest, or take it away."""
    element, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    with closing(libvirt.open(rig.admin_uri)) as conn:
        domain = rig.guests[what].domain(conn)
        domain.setMetadata(element, metadata, "nova", NOVA, live)


@contextmanager
def agent(
    directory: Path,
    uri: str,
    bin_: Path,
    *,
    enabled: bool = True,
    additional: bool = False,
    threads: int = 1,
    environment: dict[str, str] | None = None,
) -> Iterator[Agent]:
    if not bin_.exists():
        pytest.skip(f"there is no environment {bin_.parent.name} in build")
    directory.mkdir(exist_ok=True)
    options: dict[str, Any] = {
        "uri": uri,
        "enabled": enabled,
        "additional": additional,
        "threads": threads,
    }
    running = Agent(directory, bin_, environment or {}, **options)
    try:
        yield running
    finally:
        running.stop()


def without_rates(samples: Samples) -> Samples:
    """Return what a stock agent has too; ours has rates beside it, but not in its first cycle."""
    return {series: value for series, value in samples.items() if not series.startswith(RATES)}


def names(samples: Samples) -> list[str]:
    """Return the metrics with the names of their labels."""
    without_values = (re.sub(r'="[^"]*"', "", series) for series in samples)
    return sorted(set(without_values))


def test_the_same_metrics_labels_and_values(cloud: Libvirtd, tmp_path: Path) -> None:
    with cloud.guests["booted"].suspended():
        with agent(tmp_path / "stock", cloud.uri, STOCK, enabled=False) as running:
            stock = running.cycle()
            [line] = running.words_of_virtmeter()
            assert "virtmeter is installed, but [virtmeter] enabled is false" in line
        with agent(tmp_path / "ours", cloud.uri, VIRTMETER) as running:
            ours = running.cycle()
            assert running.count("serves all compute pollsters and discovery") == 1
            assert running.count("Traceback") == 0
        with agent(tmp_path / "threads", cloud.uri, VIRTMETER, threads=8) as running:
            threads = running.cycle()
    assert names(stock) == GOLDEN
    for samples in map(without_rates, (ours, threads)):
        assert samples.keys() == stock.keys()
        for series, value in samples.items():
            if series.startswith("ceilometer_cpu{"):
                # A guest whose vCPUs stand still is charged a little all the same.
                assert value >= stock[series]
            elif not series.startswith("ceilometer_memory_resident{"):
                assert value == stock[series], series


def test_counters_go_on_while_the_guest_runs(cloud: Libvirtd, tmp_path: Path) -> None:
    counters = ("ceilometer_cpu{", "ceilometer_disk_device_read_bytes{")
    booted = cloud.guests["booted"].uuid
    with agent(tmp_path / "ours", cloud.uri, VIRTMETER) as running:
        first = running.cycle()
        last = running.cycle()
    for series in first:
        if series.startswith(counters) and booted in series:
            assert last[series] >= first[series], series
    rates = {s.partition("{")[0] for s in last if s.startswith(RATES) and last[s] >= 0}
    assert rates == set(RATES)
    moved = [s for s in first if s.startswith(counters[0]) and last[s] > first[s]]
    assert [series for series in moved if booted in series]


def test_a_broken_virtmeter_leaves_the_stock_agent(cloud: Libvirtd, tmp_path: Path) -> None:
    broken.make(tmp_path)
    first = {"PYTHONPATH": str(tmp_path)}
    with agent(tmp_path / "agent", cloud.uri, STOCK, additional=True, environment=first) as running:
        assert names(running.cycle()) == GOLDEN
        [line] = running.words_of_virtmeter()
    assert "ERROR" in line
    assert "Ceilometer's own inspector is used: virtmeter's compiled core cannot be loaded" in line


def test_uninstalled_it_leaves_nothing(cloud: Libvirtd, tmp_path: Path) -> None:
    with agent(tmp_path / "agent", cloud.uri, uninstalled(tmp_path / "venv")) as running:
        assert names(running.cycle()) == GOLDEN
        assert running.words_of_virtmeter() == []


def uninstalled(directory: Path) -> Path:
    """Make an environment like that of the tests without virtmeter, and return its programs."""
    venv.create(directory, symlinks=True)
    [packages] = directory.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith("virtmeter"):
            (packages / package.name).symlink_to(package)
    (directory / "bin/ceilometer-polling").symlink_to(STOCK / "ceilometer-polling")
    return directory / "bin"


@pytest.mark.parametrize(
    ("bin_", "additional"),
    [(VIRTMETER, False), (STOCK, True)],
    ids=["without libvirt-python", "with it"],
)
def test_libvirtd_comes_late_and_is_killed(
    cloud: Libvirtd, tmp_path: Path, bin_: Path, additional: bool
) -> None:
    golden = sorted(GOLDEN + ADDITIONAL) if additional else GOLDEN
    cloud.kill()
    restarted = False
    try:
        with agent(tmp_path / "ours", cloud.uri, bin_, additional=additional) as running:
            running.log_has("no instance is discovered: no connection to")
            cloud.restart()
            restarted = True
            before = running.cycle()
            assert names(without_rates(before)) == golden, "all meters appear"
            cloud.kill()
            restarted = False
            running.log_has("no connection to", running.count("no connection to") + 1)
            cloud.restart()
            restarted = True
            after = running.cycle()
            assert names(without_rates(after)) == golden, "no pollster is lost"
            cpu = next(
                series
                for series in after
                if series.startswith("ceilometer_cpu{") and cloud.guests["booted"].uuid in series
            )
            assert after[cpu] > before[cpu], "the samples are new ones"
            assert running.count("Traceback") == 0
    finally:
        if not restarted:
            cloud.restart()


def test_guests_come_and_go_between_cycles(cloud: Libvirtd, tmp_path: Path) -> None:
    """Deleted, shut off, renamed, added, suspended: the others are always there."""
    nics, booted = cloud.guests["nics"], cloud.guests["booted"]

    def of(uuid: str, samples: Samples) -> set[str]:
        return {series.split("{")[0] for series in samples if uuid in series}

    with agent(tmp_path / "ours", cloud.uri, VIRTMETER) as running:
        everything = of(nics.uuid, running.cycle())
        assert "ceilometer_network_incoming_bytes" in everything

        nics.destroy()
        try:
            samples = running.fresh_cycle()
            assert "ceilometer_network_incoming_bytes" not in of(nics.uuid, samples), "shut off"
            assert "ceilometer_cpu" in of(booted.uuid, samples)
            rename_and_start(cloud, "nics", "virtmeter-test-renamed")
            set_metadata(cloud, "nics", METADATA.format(what="nics"))
            samples = running.fresh_cycle()
            assert of(nics.uuid, samples) == everything
            assert any("virtmeter-test-renamed" in series for series in samples)
            nics.destroy()
            nics.undefine()
            samples = running.fresh_cycle()
            assert of(nics.uuid, samples) == set(), "deleted"
            assert "ceilometer_cpu" in of(booted.uuid, samples)
        finally:
            put_back(cloud, "nics")
        set_metadata(cloud, "nics", METADATA.format(what="nics"))
        assert of(nics.uuid, running.fresh_cycle()) == everything, "added"

        with booted.suspended():
            samples = running.cycle()
        [state] = [
            s for s in samples if s.startswith("ceilometer_power_state{") and booted.uuid in s
        ]
        assert samples[state] == libvirt.VIR_DOMAIN_PAUSED
        assert running.count("Traceback") == 0


def test_a_guest_that_hangs_costs_its_own_meters_only(cloud: Libvirtd, tmp_path: Path) -> None:
    hung, others = cloud.guests["disks"], [cloud.guests[what] for what in ("booted", "nics")]

    def of(uuid: str, samples: Samples) -> set[str]:
        return {series.split("{")[0] for series in samples if uuid in series}

    with agent(tmp_path / "ours", cloud.uri, VIRTMETER) as running:
        before = running.fresh_cycle()
        with hung.sigstopped():
            running.log_has(f"{hung.uuid}) hangs")
            during = running.fresh_cycle()
            for other in others:
                assert of(other.uuid, during) == of(other.uuid, before), "nothing is missing"
            left = of(hung.uuid, during)
            assert {"ceilometer_cpu", "ceilometer_power_state"} <= left
            assert "ceilometer_disk_device_read_bytes" not in left
            assert "ceilometer_memory_resident" not in left
        running.log_has(f"{hung.uuid}) is read again")
        assert of(hung.uuid, running.fresh_cycle()) == of(hung.uuid, before)
        assert running.count("hangs") == 1
        assert running.count("Traceback") == 0


def rename_and_start(rig: Libvirtd, what: str, name: str) -> None:
    """Give a guest that is shut off another name, and start it, paused."""
    with closing(libvirt.open(rig.admin_uri)) as conn:
        rig.guests[what].domain(conn).rename(name)
        rig.guests[what].domain(conn).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def put_back(rig: Libvirtd, what: str) -> None:
    """Start a guest anew as the rig has defined it, whatever has become of it."""
    with closing(libvirt.open(rig.admin_uri)) as conn, suppress(libvirt.libvirtError):
        domain = rig.guests[what].domain(conn)
        with suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefine()
    rig.guests[what].start()
