"""A real Prometheus over an exporter with targets of all three kinds, while things go wrong.

It runs once, for about two minutes, with the configuration of docs/fleet.md; the tests ask it then.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import Exporter
from tests.support import prometheus, sample, vcsim, xapi
from tests.support.libvirtd import Daemon
from tests.support.prometheus import Prometheus
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

reasons = [prometheus.unavailable(), vcsim.unavailable()]
pytestmark = pytest.mark.skipif(any(reasons), reason="; ".join(filter(None, reasons)))

PAGE = Path(__file__).parents[2] / "docs/fleet.md"
INTERVAL = 4
"""Seconds between scrapes, of which each may take as long."""
LEAST = 120
"""Seconds that all of it takes at least."""
KVM, POOL, VCENTER = "kvm-1", "pool.example.org", "vcenter"
VMS = {KVM: 3, POOL: 3, VCENTER: 4}
"""The targets that are well, and how many VMs each has."""
AWAY = (
    *("away", "hangs-libvirt", "hangs-xenserver", "hangs-vsphere"),
    *("wrong-xenserver", "wrong-vsphere"),
)
CPU, RECEIVED = "virtmeter_domain_cpu_seconds_total", "virtmeter_domain_nic_receive_bytes_total"
BEHIND = {KVM: 0.0, POOL: 10.0, VCENTER: 45.0}
"""Seconds that what a scrape tells is old at most: libvirt's is of now, a host of XenServer has a
row every 5 s, and one of vSphere a sample every 20 s, which is asked for every 20 s."""
STEP = {KVM: 0.0, POOL: 5.0, VCENTER: 40.0}
"""Seconds of use by which a counter may grow at once: those of a row, or of two samples."""


class Guests:
    """The VMs of a scripted libvirt daemon, whose counters grow at rates that are known."""

    CPU, RECEIVED = 0.5, 4096.0
    """What the first uses in a second; the second uses twice as much, and so on."""

    def __init__(self, daemon: Daemon) -> None:
        self._domains = [sample.domain(number) for number in range(1, VMS[KVM] + 1)]
        self._began = time.time()
        daemon.add(*self._domains)

    def run(self, stopped: threading.Event) -> None:
        """Count until somebody wants it to end."""
        while not stopped.wait(0.1):
            passed = time.time() - self._began
            for number, domain in enumerate(self._domains, 1):
                domain.stats["vcpu.1.time"] = int(number * self.CPU * passed * 1e9)
                [(name, told)] = domain.interfaces.items()
                domain.interfaces[name] = (int(number * self.RECEIVED * passed), *told[1:])


@dataclass
class Run:
    """What has happened, and when: seconds since the epoch."""

    prometheus: Prometheus
    daemon: Daemon
    pool: xapi.Pool
    vcenter: vcsim.VCenter
    began: float = field(default_factory=time.time)
    steady: float = 0.0
    """Since when all goes well."""
    logins: dict[str, list[int]] = field(default_factory=dict)
    """Of a target: before the first fault, and at the end."""
    faults: dict[str, tuple[float, float]] = field(default_factory=dict)
    """From when to when each lasted."""
    ended: float = 0.0
    vms: dict[str, vcsim.VM] = field(default_factory=dict)
    """Those of the vCenter."""

    def since(self, fault: str) -> float:
        return self.faults[fault][1]

    def goes_on(self, since: float, target: str) -> bool:
        """Return whether all series of a target have three samples since then, and it is up."""
        over = f'{{instance="{target}"}}[{max(1, int((time.time() - since) * 1000))}ms]'
        try:
            counts = self.prometheus.ask(f"count_over_time({CPU}{over})")
            up = self.prometheus.ask(f'virtmeter_up{{instance="{target}"}}')
        except OSError:  # a busy machine
            return False
        enough = len(counts) >= VMS[target] and all(count >= 3 for _, count in counts)
        return enough and [value for _, value in up] == [1]

    def wait(self, since: float) -> None:
        for target in VMS:
            wait_for(partial(self.goes_on, since, target), f"{target} goes on", timeout=120)

    def wait_for(self, query: str) -> None:
        """Wait until a query finds something."""
        wait_for(lambda: bool(self.prometheus.ask(query)), query, timeout=120)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        # A scrape that is under way is a part of it.
        began = time.time() - INTERVAL
        yield
        self.faults[name] = began, time.time()

    def count_logins(self) -> None:
        for name, count in (
            (POOL, self.pool.sessions.logins - self.pool.sessions.refused),
            ("wrong-xenserver", self.pool.sessions.refused),
            (VCENTER, self.vcenter.logins()),
        ):
            self.logins.setdefault(name, []).append(count)

    def calm(self, target: str) -> list[tuple[float, float]]:
        """Return from when to when there was an exporter and the target."""
        edges = [self.steady]
        for name, (began, ended) in self.faults.items():
            if name in ("exporter", target):
                edges += [began, ended]
        edges.append(self.ended)
        return list(zip(edges[::2], edges[1::2], strict=True))

    def used(self, target: str, metric: str, uuid: str, began: float, ended: float) -> float:
        """Return what a VM really used of the CPU, or received."""
        if target == KVM:
            rate = Guests.CPU if metric == CPU else Guests.RECEIVED
            return rate * int(uuid.partition("-")[0], 16) * (ended - began)
        if target == POOL:
            names = [f"cpu{n}" for n in range(4)] if metric == CPU else ["vif_0_rx", "vif_1_rx"]
            before, after = (
                sum(self.pool.truth(uuid, name, at) or 0.0 for name in names)
                for at in (began, ended)
            )
            return after - before
        counter, scale = (
            ("cpu.run.summation", 1e-3) if metric == CPU else ("net.received.average", 20 * 1024)
        )
        times = range(int(began // 20 + 1) * 20, int(ended) + 1, 20)
        return scale * sum(self.vms[uuid].value(counter, "", t) for t in times)

    def fastest(self, target: str, metric: str, uuid: str) -> float:
        """Return the most that a VM uses in a second."""
        step = STEP[target] or 1.0
        ends = range(int(self.began - 60), int(self.ended) + 1)
        return max(self.used(target, metric, uuid, end - step, end) for end in ends) / step


def configuration(address: str) -> str:
    """Return that of the page, for this exporter, and quicker."""
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    text = next(block for block in blocks if "http_sd_configs" in block)
    text = text.replace("exporter.example.org:9177", address)
    text = re.sub(r"^( +)- (url: .*)$", r"\1- \2\n\1  refresh_interval: 2s", text, flags=re.M)
    assert "example.org" not in text
    return f"global: {{scrape_interval: {INTERVAL}s, scrape_timeout: {INTERVAL}s}}\n{text}"


def targets(run: Run, silent: int, closed: int, directory: Path, more: str = "") -> str:
    """Return the file of targets; some are at ports that are silent, or closed."""
    files = {}
    for name, password in ("xapi", xapi.PASSWORD), ("vcsim", vcsim.PASSWORD), ("wrong", "wrong"):
        files[name] = directory / f"{name}.pass"
        files[name].write_text(password)
        files[name].chmod(0o600)
    login = f"password_file={files['wrong']}"
    return f"""
        [targets.{KVM}]
        uri = "{run.daemon.uri}"
        labels = {{ site = "berlin" }}
        workers = 4
        [targets."{POOL}"]
        uri = "{run.pool.uri()}&password_file={files["xapi"]}"
        labels = {{ site = "hamburg" }}
        [targets.{VCENTER}]
        uri = "{run.vcenter.uri}&password_file={files["vcsim"]}"
        [targets.wrong-xenserver]
        uri = "{run.pool.uri()}&{login}"
        [targets.wrong-vsphere]
        uri = "{run.vcenter.uri}&{login}"
        [targets.away]
        uri = "xenserver://monitor@127.0.0.1:{closed}/?{login}"
        [targets.hangs-libvirt]
        uri = "qemu+tcp://127.0.0.1:{silent}/system"
        [targets.hangs-xenserver]
        uri = "xenserver://monitor@127.0.0.1:{silent}/?{login}"
        [targets.hangs-vsphere]
        uri = "vsphere://monitor@127.0.0.1:{silent}/?{login}"
        {more}
    """


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All that goes wrong, one after the other; after each it is waited for that all goes on."""
    directory = tmp_path_factory.mktemp("fleet")
    file = directory / "targets.toml"
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        ports = (silent.getsockname()[1], closed.getsockname()[1])
        daemon = stack.enter_context(Daemon())
        stopped = threading.Event()
        counting = threading.Thread(target=Guests(daemon).run, args=(stopped,))
        counting.start()
        stack.callback(counting.join)
        stack.callback(stopped.set)
        pool = stack.enter_context(xapi.synthetic(hosts=1, vms=VMS[POOL], delay=0.0))
        vcenter = stack.enter_context(vcsim.VCenter(hosts=2, vms=VMS[VCENTER], now=None))

        run = Run(None, daemon, pool, vcenter)  # type: ignore[arg-type]
        file.write_text(targets(run, *ports, directory))
        exporter = stack.enter_context(
            Exporter(None, "--targets", str(file), "--timeout", "2", ends_with=-SIGKILL)
        )
        address = exporter.url.split("/")[2]
        run.prometheus = stack.enter_context(Prometheus(configuration(address), directory))
        run.wait_for(f"count(virtmeter_up == 1) == {len(VMS)}")
        run.steady = time.time()
        run.wait(run.steady)
        run.count_logins()

        with run.fault("exporter"):
            exporter.process.kill()
            run.wait_for('up{job="virtmeter-exporter"} == 0')
            again = stack.enter_context(
                Exporter(None, "--targets", str(file), "--timeout", "2", listen=address)
            )
            run.wait_for('up{job="virtmeter-exporter"} == 1')
        run.wait(run.since("exporter"))

        with run.fault("prometheus"):
            run.prometheus.kill()
            time.sleep(2 * INTERVAL)
            run.prometheus.start()
        run.wait(run.since("prometheus"))

        with run.fault(VCENTER):
            # What was read is good for 20 s, and its scrapes do not notice before.
            away = threading.Thread(target=vcenter.restart, args=(30,))
            away.start()
            run.wait_for(f'virtmeter_up{{instance="{VCENTER}"}} == 0')
            away.join()
            run.wait_for(f'virtmeter_up{{instance="{VCENTER}"}} == 1')
        run.wait(run.since(VCENTER))

        with run.fault("reload"):
            file.write_text("[targets.a]")
            again.hang_up()
            run.wait_for("virtmeter_config_last_reload_successful == 0")
            changed = targets(run, *ports, directory, f'[targets.kvm-2]\nuri = "{daemon.uri}"')
            changed = changed.replace("hamburg", "kiel").replace("workers = 4", "workers = 2")
            file.write_text(changed)
            again.hang_up()
            run.wait_for(f'{CPU}{{instance="kvm-2"}}')
            run.wait_for(f'{CPU}{{instance="{POOL}", site="kiel"}}')
        run.wait(run.since("reload"))
        time.sleep(max(0.0, run.began + LEAST - time.time()))
        run.ended = time.time()
        run.count_logins()
        run.vms = {vm.uuid: vm for vm in vcenter.vms()}
        yield run


def over(metric: str, target: str, began: float, ended: float) -> str:
    return f'{metric}{{instance="{target}"}}[{int((ended - began) * 1000)}ms]'


@pytest.mark.parametrize("target", VMS)
def test_series_go_on_after_each_fault(run: Run, target: str) -> None:
    assert list(run.faults) == ["exporter", "prometheus", VCENTER, "reload"]
    for name in run.faults:
        for metric in (CPU, RECEIVED):
            counted = f"count_over_time({over(metric, target, run.since(name), run.ended)})"
            found = run.prometheus.ask(f"count by (uuid) ({counted} >= 3)", run.ended)
            assert len(found) == VMS[target], (name, metric)


@pytest.mark.parametrize("target", VMS)
@pytest.mark.parametrize("metric", ["up", "virtmeter_up"])
def test_a_target_that_is_well_is_up_at_each_scrape(run: Run, target: str, metric: str) -> None:
    for began, ended in run.calm(target):
        lowest = f"min_over_time({over(metric, target, began, ended)})"
        found = run.prometheus.ask(f"min({lowest})", ended)
        assert [value for _, value in found] == [1], (began, ended, run.faults)


def test_a_target_that_is_not_costs_its_own_scrapes(run: Run) -> None:
    names = "|".join(AWAY)
    ever = f'{{instance=~"{names}"}}[{run.ended - run.began:.0f}s]'
    answered = run.prometheus.values(f"max_over_time(up{ever})", "instance", run.ended)
    assert answered == dict.fromkeys(AWAY, 1)
    up = run.prometheus.values(f"max_over_time(virtmeter_up{ever})", "instance", run.ended)
    assert up == dict.fromkeys(AWAY, 0)


def test_each_exporter_logs_in_once_whether_the_password_is_right_or_wrong(run: Run) -> None:
    """The vCenter's restart ended a session; the reload, of another label, ended none."""
    assert run.logins["wrong-xenserver"] == [1, 2]
    assert run.logins[POOL] == [1, 2]
    right, wrong = [1, 3], [1, 2]
    assert run.logins[VCENTER] == [one + other for one, other in zip(right, wrong, strict=True)]


@pytest.mark.parametrize("target", VMS)
def test_a_counter_falls_only_where_it_begins_anew(run: Run, target: str) -> None:
    """Those of libvirt are the hypervisor's own; the others begin at 0 with the exporter."""
    names = run.prometheus.get("label/__name__/values")
    counters = [name for name in names if re.fullmatch("virtmeter_domain_.*_total", name)]
    assert {CPU, RECEIVED} < set(counters)
    for counter in counters:
        resets = f"resets({over(counter, target, run.began, run.ended)})"
        for labels, count in run.prometheus.ask(resets, run.ended):
            assert count <= (target != KVM), (counter, labels)
        resets = f"resets({over(counter, target, run.since('exporter'), run.ended)})"
        assert not any(count for _, count in run.prometheus.ask(resets, run.ended)), counter


@pytest.mark.parametrize("target", VMS)
@pytest.mark.parametrize("metric", [CPU, RECEIVED])
def test_no_more_is_counted_than_was_used(run: Run, target: str, metric: str) -> None:
    """Prometheus extrapolates to both ends of a range, by an interval between scrapes or less."""
    increase = f"sum by (uuid) (increase({over(metric, target, run.began, run.ended)}))"
    found = run.prometheus.values(increase, "uuid", run.ended)
    assert len(found) == VMS[target]
    for uuid, counted in found.items():
        used = run.used(target, metric, uuid, run.began - BEHIND[target], run.ended)
        assert 0 < counted <= 1.1 * used, uuid


@pytest.mark.parametrize("target", VMS)
@pytest.mark.parametrize("metric", [CPU, RECEIVED])
def test_nothing_is_lost_while_prometheus_or_the_vcenter_is_away(
    run: Run, target: str, metric: str
) -> None:
    began, ended = run.since("exporter"), run.faults["reload"][0]
    increase = f"sum by (uuid) (increase({over(metric, target, began, ended)}))"
    found = run.prometheus.values(increase, "uuid", ended)
    assert len(found) == VMS[target]
    for uuid, counted in found.items():
        last = ended - INTERVAL - BEHIND[target]
        assert counted >= 0.9 * run.used(target, metric, uuid, began + INTERVAL, last), uuid


@pytest.mark.parametrize("target", VMS)
@pytest.mark.parametrize("metric", [CPU, RECEIVED])
def test_no_rate_is_a_spike(run: Run, target: str, metric: str) -> None:
    """In a minute, there is what was used in it and, at an edge, a step: less than twice as much.

    A counter that was taken for a new one would be an hour's use.
    """
    rate = f'sum by (uuid) (rate({metric}{{instance="{target}"}}[1m]))'
    highest = f"max_over_time(({rate})[{run.ended - run.began:.0f}s:1s])"
    found = run.prometheus.values(highest, "uuid", run.ended)
    assert len(found) == VMS[target]
    for uuid, value in found.items():
        assert 0 < value < 2 * run.fastest(target, metric, uuid), uuid


def test_labels_are_the_targets_name_and_its_own_and_none_is_renamed(run: Run) -> None:
    labels = run.prometheus.get("labels")
    assert {"instance", "site", "uuid", "target"} <= set(labels)
    assert not [name for name in labels if name.startswith("exported_")]
    found = run.prometheus.ask(f"group by (instance, job, site) ({CPU})", run.ended)
    assert sorted((each["instance"], each["job"], each.get("site")) for each, _ in found) == [
        ("kvm-1", "virtmeter", "berlin"),
        ("kvm-2", "virtmeter", None),
        ("pool.example.org", "virtmeter", "kiel"),
        ("vcenter", "virtmeter", None),
    ]
    kinds = run.prometheus.ask("group by (instance, hypervisor) (virtmeter_domain_info)", run.ended)
    assert {each["instance"]: each["hypervisor"] for each, _ in kinds} == {
        "kvm-1": "libvirt",
        "kvm-2": "libvirt",
        "pool.example.org": "xenserver",
        "vcenter": "vsphere",
    }


def test_the_exporter_tells_how_each_target_is(run: Run) -> None:
    up = run.prometheus.values("virtmeter_target_up", "target", run.ended)
    assert up == dict.fromkeys(AWAY, 0) | dict.fromkeys((*VMS, "kvm-2"), 1)
    assert run.prometheus.ask("virtmeter_config_last_reload_successful == 1", run.ended)
