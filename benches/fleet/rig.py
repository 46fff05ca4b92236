"""All processes: the simulated hypervisors, the exporter over them, and Prometheus."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from benches.fleet.programs import TIMEOUT, Exporter, Prometheus, Target
from benches.fleet.simulators import AWAY, HANG, REFUSE, REFUSED, Simulators
from benches.processes import cpu_of
from tests.support.vcsim.vcenter import PASSWORD, VCenter  # pools have the same password

if TYPE_CHECKING:
    from contextlib import ExitStack

XENSERVER, VSPHERE, LIBVIRT = "xenserver", "vsphere", "libvirt"
COUNT = {XENSERVER: 100, VSPHERE: 4, LIBVIRT: 96}
VMS = {XENSERVER: 64, VSPHERE: 2_000, LIBVIRT: 20}
ALL, ALL_VMS = sum(COUNT.values()), sum(COUNT[kind] * VMS[kind] for kind in COUNT)
VCENTERS_HOSTS = 64
#: What the first targets of a kind do in the end, in this order, and how many of them.
FATES: dict[str, dict[str, int]] = {
    XENSERVER: {HANG: 10, AWAY: 10, REFUSE: 5},
    VSPHERE: {},
    LIBVIRT: {HANG: 10, AWAY: 10},
}
FAULTS = {how: sum(of.get(how, 0) for of in FATES.values()) for how in (HANG, AWAY, REFUSE)}
SOUND = ALL - sum(FAULTS.values())
WELL = "well"
INTERVAL = 60  # seconds between the scrapes of a target


class Used(NamedTuple):
    """CPU time of processes, seconds."""

    exporter: float
    simulators: float
    prometheus: float


@dataclass(frozen=True)
class Window:
    """What happened in some rounds of scrapes."""

    seconds: float
    scrapes: int
    complete: int
    """How many of them told everything, in time."""
    vms: int
    """Those that were told in all of them."""
    mean: dict[str, float]
    """How long a scrape takes, by kinds, seconds."""
    longest: dict[str, float]
    by_fate: dict[str, float]
    """The longest of all targets, by their fates."""
    used: Used
    resident: int
    """Bytes that the exporter has, at the end."""

    def cpu(self) -> float:
        """Return the exporter's CPU time for a VM and scrape, seconds."""
        return self.used.exporter / self.vms


class Rig:
    """All of it, until a stack is closed."""

    def __init__(self, stack: ExitStack) -> None:
        """Start it."""
        directory = Path(stack.enter_context(TemporaryDirectory()))
        # They take some seconds, at the same time.
        many = {kind: Simulators(kind, COUNT[kind], VMS[kind]) for kind in (XENSERVER, LIBVIRT)}
        self._vcenters = [
            stack.enter_context(VCenter(hosts=VCENTERS_HOSTS, vms=VMS[VSPHERE], now=None))
            for _ in range(COUNT[VSPHERE])
        ]
        self._many = {kind: stack.enter_context(each) for kind, each in many.items()}
        uris = {kind: each.uris for kind, each in self._many.items()}
        uris[VSPHERE] = [each.uri for each in self._vcenters]
        self._fates = {
            kind: [how for how, count in FATES[kind].items() for _ in range(count)]
            for kind in COUNT
        }
        targets = []
        for kind, count in COUNT.items():
            fates = self._fates[kind] + [WELL] * (count - len(self._fates[kind]))
            targets += [
                Target(f"{kind}-{number}", uri, {"kind": kind, "fate": fate})
                for number, (uri, fate) in enumerate(zip(uris[kind], fates))
            ]
        self._exporter = stack.enter_context(Exporter(directory, targets, PASSWORD))
        self._prometheus = stack.enter_context(Prometheus(directory, self._exporter, INTERVAL))

    def fail(self) -> None:
        """Have targets fail from now on."""
        for kind, many in self._many.items():
            for number, how in enumerate(self._fates[kind]):
                many.ask(how, number)

    def refused(self) -> set[int]:
        """Return how often each of the pools that refuse the password has done so."""
        pools = enumerate(self._fates[XENSERVER])
        return {self._many[XENSERVER].ask(REFUSED, n) for n, how in pools if how == REFUSE}

    def window(self, rounds: int, fates: str = ".*") -> Window:
        """Watch so many rounds of the scrapes of the targets that have such a fate."""
        before, seconds = self._used(), rounds * INTERVAL
        time.sleep(seconds)
        used = Used(*(now - then for now, then in zip(self._used(), before)))

        def of(over: str, metric: str, by: str = "", fates: str = fates) -> dict[str, float]:
            # All scrapes that began in so much time have ended.
            each = f'{over}_over_time({metric}{{fate=~"{fates}"}}[{seconds}s] offset {TIMEOUT}s)'
            all_ = "sum" if over == "count" else over
            return self._prometheus.query(f"{all_} by ({by}) ({each})", by)

        return Window(
            seconds,
            round(of("count", "up")[""]),
            round(of("sum", "virtmeter_scrape_complete")[""]),
            round(of("count", "virtmeter_domain_state")[""]),
            of("avg", "scrape_duration_seconds", "kind"),
            of("max", "scrape_duration_seconds", "kind"),
            of("max", "scrape_duration_seconds", "fate", ".*"),
            used,
            self._exporter.resident(),
        )

    def _used(self) -> Used:
        simulators = [each.pid for each in self._vcenters]
        simulators += [each.pid for each in self._many.values()]
        pids = [self._exporter.pid], simulators, [self._prometheus.pid]
        return Used(*(cpu_of(each) for each in pids))
