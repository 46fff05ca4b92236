"""How much memory an inspector needs, by the VM and by the cycle."""

from __future__ import annotations

from benches.agent import OURS, STOCK, Agent
from benches.idle_host import IdleHost
from benches.report import Part, Target
from tests.support.oracle import METHODS

SIZES = (100, 1_000, 10_000)
# The stock inspector takes minutes for more, and keeps no more in them.
CYCLES = {STOCK: 1, OURS: 4}
SMALL = 20
WARM_UP = 250
MANY = 1_000
KIB = 1024
# Whatever a reading might leave behind is larger; but allocated memory is also reused with gaps.
A_READING = 8


def part() -> Part:
    """Measure it."""
    part = Part(
        "Memory",
        "How much the resident memory of an agent's process has grown, over the scripted daemon "
        "without latencies.",
        ("", "stock", "virtmeter"),
    )
    grown = {(kind, count): _grown(kind, count, CYCLES[kind]) for count in SIZES for kind in CYCLES}
    for count in SIZES:
        row = (f"{grown[kind, count] / KIB:,.0f} kB" for kind in CYCLES)
        part.rows.append((f"{count:,} VMs, after a few cycles", *row))
    dearest = 0.0
    for few, many in zip(SIZES, SIZES[1:]):
        a_vm = {kind: (grown[kind, many] - grown[kind, few]) / (many - few) for kind in CYCLES}
        row = (f"{a_vm[kind] / KIB:.1f} kB" for kind in CYCLES)
        part.rows.append((f"a VM, from {few:,} to {many:,}", *row))
        dearest = max(dearest, a_vm[OURS])
    part.notes.append(
        "Where a cycle is done within a second, the bulk readings of all VMs wait for the methods "
        "that come later, which is why the smaller hosts are dearer. Of a VM's share of 1,000, "
        "4.3 kB are in use after a cycle; the rest is what malloc keeps of each thread's for the "
        "next one."
    )
    leaked = _grown(OURS, SMALL, MANY, after=WARM_UP)
    what = f"{SMALL} VMs, {MANY:,} cycles more after the first {WARM_UP}"
    part.rows.append((what, "", f"{leaked / KIB:,.0f} kB"))
    a_reading = leaked / (MANY * SMALL * len(METHODS))
    part.targets += [
        Target("memory a VM", "under 10 kB", f"{dearest / KIB:.1f} kB", dearest < 10 * KIB),
        Target(
            f"memory over {MANY:,} cycles",
            f"no growth (under {A_READING} bytes a reading)",
            f"{a_reading:.1f} bytes a reading",
            a_reading < A_READING,
        ),
    ]
    return part


def _grown(kind: str, count: int, cycles: int, *, after: int = 0) -> int:
    """Return by how much an agent grows over so many cycles, bytes."""
    with IdleHost(count, latency=False) as host, Agent(kind, host.uri, host.uuids) as agent:
        before = agent.cycle(times=after).resident if after else agent.resident
        return agent.cycle(times=cycles).resident - before
