"""How much memory an inspector needs, by the VM and by the cycle."""

from __future__ import annotations

from benches.agent import OURS, STOCK, Agent
from benches.idle_host import IdleHost
from benches.report import Part, Target
from tests.support.oracle import METHODS

FEW, MANY = 100, 1_000
# The stock inspector keeps no more in more of them.
CYCLES = {STOCK: 1, OURS: 4}
MOST = 8  # kB a VM
SMALL = 20
WARM_UP = 250
LONG = 1_000
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
    grown = {
        (kind, count): _grown(kind, count, CYCLES[kind]) for count in (FEW, MANY) for kind in CYCLES
    }
    for count in (FEW, MANY):
        row = (f"{grown[kind, count] / KIB:,.0f} kB" for kind in CYCLES)
        part.rows.append((f"{count:,} VMs, after a few cycles", *row))
    a_vm = {kind: (grown[kind, MANY] - grown[kind, FEW]) / (MANY - FEW) / KIB for kind in CYCLES}
    row = (f"{a_vm[kind]:.1f} kB" for kind in CYCLES)
    part.rows.append((f"a VM, from {FEW:,} to {MANY:,}", *row))
    leaked = _grown(OURS, SMALL, LONG, after=WARM_UP)
    what = f"{SMALL} VMs, {LONG:,} cycles more after the first {WARM_UP}"
    part.rows.append((what, "", f"{leaked / KIB:,.0f} kB"))
    a_reading = leaked / (LONG * SMALL * len(METHODS))
    part.targets += [
        Target(
            f"memory a VM at {MANY:,} VMs",
            f"under {MOST} kB",
            f"{a_vm[OURS]:.1f} kB",
            a_vm[OURS] < MOST,
        ),
        Target(
            f"memory over {LONG:,} cycles",
            f"no growth (under {A_READING} bytes a reading)",
            f"{a_reading:.1f} bytes a reading",
            a_reading < A_READING,
        ),
    ]
    part.notes.append(
        "Where a cycle is done within a second, the bulk readings of all VMs wait for the methods "
        "that come later; and malloc keeps what a thread has used for the next cycle."
    )
    return part


def _grown(kind: str, count: int, cycles: int, *, after: int = 0) -> int:
    """Return by how much an agent grows over so many cycles, bytes."""
    with IdleHost(count, latency=False) as host, Agent(kind, host.uri, host.uuids) as agent:
        before = agent.cycle(times=after).resident if after else agent.resident
        return agent.cycle(times=cycles).resident - before
