"""One exporter over 200 simulated hypervisors: whether scrapes are late, and what they cost."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import virtmeter
from benches.fleet import peer
from benches.fleet.programs import PROMETHEUS, TIMEOUT
from benches.fleet.rig import ALL, ALL_VMS, COUNT, FAULTS, INTERVAL, SOUND, VMS, WELL, Rig
from benches.fleet.simulators import AWAY, HANG, HOSTS, REFUSE
from benches.report import Part, Target, milliseconds
from tests.support.vcsim import unavailable

if TYPE_CHECKING:
    from benches.fleet.rig import Window

ROUNDS, ROUNDS_WITH_FAULTS = 3, 1
# Until all have been scraped once, or once more; what the first scrapes cost is not measured.
WARM_UP = INTERVAL + TIMEOUT
NAMES = {"xenserver": "XenServer pools", "vsphere": "vCenters", "libvirt": "libvirt hosts"}

MOST_CPU = 0.0005  # seconds a VM and scrape
MOST_MEMORY = 15  # kB a VM
KIB = 1024


def part() -> Part:
    """Measure it."""
    part = Part(
        "A fleet",
        f"One `virtmeter export --targets` over {ALL} simulated hypervisors with {ALL_VMS:,} VMs "
        f"({', '.join(f'{COUNT[kind]} {NAMES[kind]} of {VMS[kind]:,}' for kind in COUNT)}), and a "
        f"real Prometheus that finds them at `/targets` and scrapes each every {INTERVAL} s, with "
        f"a timeout of {TIMEOUT} s. Measured over {ROUNDS} rounds after the first one, and over "
        f"{_rounds(ROUNDS_WITH_FAULTS)} after {sum(FAULTS.values())} of the targets have failed. "
        f"{_machine()}",
        (
            "",
            "targets",
            "VMs",
            "a scrape",
            "the longest",
            "of those that are well",
            "the longest of these",
        ),
    )
    if reason := unavailable() or (None if PROMETHEUS.exists() else "Prometheus is missing"):
        part.notes.append(f"Not measured: {reason}.")
        return part
    with ExitStack() as stack:
        rig = Rig(stack)
        time.sleep(WARM_UP)
        before = rig.window(ROUNDS)
        rig.fail()
        time.sleep(WARM_UP)
        after = rig.window(ROUNDS_WITH_FAULTS, WELL)
        refused = rig.refused()
    for kind in COUNT:
        times = (f"{each[kind]:.2f} s" for w in (before, after) for each in (w.mean, w.longest))
        part.rows.append((NAMES[kind], f"{COUNT[kind]}", f"{COUNT[kind] * VMS[kind]:,}", *times))
    cpu, memory = before.cpu(), before.resident / ALL_VMS / KIB
    many = f"fleet, simulated, {ALL} targets, {ALL_VMS:,} VMs"
    failed = f"{FAULTS[HANG]} hang, {FAULTS[AWAY]} are away, {FAULTS[REFUSE]} refuse the password"
    part.targets += [
        Target(f"{many}: late scrapes", "none", *_late(before, ROUNDS * ALL)),
        Target(
            f"{many}: CPU of the exporter",
            f"under {MOST_CPU * 1e3:g} ms a VM and scrape",
            milliseconds(cpu),
            cpu < MOST_CPU,
        ),
        Target(
            f"{many}: memory of the exporter",
            f"under {MOST_MEMORY} kB a VM",
            f"{memory:.1f} kB",
            memory < MOST_MEMORY,
        ),
        Target(
            f"{many}, of which {failed}: late scrapes of the other {SOUND}",
            "none",
            *_late(after, ROUNDS_WITH_FAULTS * SOUND),
        ),
        Target(
            f"{many}: passwords that are refused",
            "tried once",
            "tried once" if refused == {1} else f"tried {max(refused)} times",
            refused == {1},
        ),
    ]
    part.notes = [*_notes(before, after), peer.measure()]
    return part


def _late(window: Window, wanted: int) -> tuple[str, bool]:
    """Return how many scrapes were late, of so many that there should have been."""
    late = max(wanted, window.scrapes) - window.complete
    return f"{late} of {wanted}", late == 0


def _rounds(number: int) -> str:
    return "one" if number == 1 else f"{number}"


def _machine() -> str:
    return (
        f"Measured on {time.strftime('%-d %B %Y')} with {os.cpu_count()} cores, which all of them "
        f"share: virtmeter {virtmeter.__version__}, Python {platform.python_version()}."
    )


def _notes(before: Window, after: Window) -> list[str]:
    """Return paragraphs about what the numbers are."""
    exporter, simulators, prometheus = (f"{each / before.seconds:.0%}" for each in before.used)
    failed = ", ".join(f"{after.by_fate[how]:.2f} s if it {_does(how)}" for how in FAULTS)
    return [
        "A scrape is late if Prometheus had no answer in time, or one without all VMs "
        "(`virtmeter_scrape_complete` 0). The CPU time and the memory are those of the whole "
        "process, with Python and its libraries; malloc's settings are its systemd unit's. Of "
        f"one core, it used {exporter}, the simulators {simulators} and Prometheus "
        f"{prometheus}. Each pool has {HOSTS} hosts; pools and libvirt hosts are two processes "
        "written in Python, of which only one thread runs at a time, and so a scrape takes longer "
        "than it would with as many machines.",
        f"A minute after a target has failed, a scrape of it takes up to {failed}. With these, the "
        f"exporter has {after.resident / KIB / KIB:.0f} MB, without them "
        f"{before.resident / KIB / KIB:.0f} MB.",
    ]


def _does(how: str) -> str:
    return {HANG: "hangs", AWAY: "is away", REFUSE: "refuses the password"}[how]
