"""PyPI's vmware-exporter beside ours, over the same simulated vCenter."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benches import rounds
from benches.fleet.programs import Exporter, Target
from benches.processes import cpu_of
from benches.report import milliseconds, table
from benches.usage import OURS
from benches.vsphere import exporter as vmware
from tests.support.vcsim.vcenter import VCenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.usage import Cycle

HOSTS, VMS, ROUNDS = 16, 500, 3
PERIOD = 21.0  # seconds between two scrapes: there are new samples


def measure() -> str:
    """Return a paragraph, with a table."""
    if reason := vmware.unavailable():
        return f"PyPI's `vmware-exporter` was not measured beside it: {reason}."
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        vcenter = stack.enter_context(VCenter(hosts=HOSTS, vms=VMS, now=None))
        targets = [Target("vcenter", vcenter.uri, {})]
        ours = stack.enter_context(Exporter(directory, targets, vcenter.password))
        theirs = stack.enter_context(vmware.Exporter(vcenter.told()))
        found = _in_turn(vcenter, {OURS: partial(ours.cycle, "vcenter"), vmware.NAME: theirs.cycle})
    rows = [
        (
            kind,
            f"{median(cycle.wall for cycle, _ in cycles):.2f} s",
            milliseconds(median(cycle.cpu / cycle.vms for cycle, _ in cycles)),
            milliseconds(median(simulator / cycle.vms for cycle, simulator in cycles)),
        )
        for kind, cycles in found.items()
    ]
    return (
        f"Beside PyPI's `vmware-exporter`, over one vCenter of {VMS} VMs: both are scraped every "
        f"{PERIOD:g} s, in turn. What the other one tells is less (see vSphere).\n\n"
        + table(("exporter", "a scrape", "CPU a VM", "CPU of the simulator a VM"), rows)
    )


def _in_turn(
    vcenter: VCenter, scrape: dict[str, Callable[[], Cycle]]
) -> dict[str, list[tuple[Cycle, float]]]:
    """Return the scrapes of each, with the simulator's CPU time."""
    found: dict[str, list[tuple[Cycle, float]]] = {kind: [] for kind in scrape}
    for each in scrape.values():
        each()
    for _ in range(ROUNDS):
        time.sleep(PERIOD)
        for kind in scrape:
            time.sleep(rounds.REST)
            before = cpu_of([vcenter.pid])
            cycle = scrape[kind]()
            found[kind].append((cycle, cpu_of([vcenter.pid]) - before))
    return found
