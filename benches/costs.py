"""What a cycle over real guests costs the agent, libvirtd and QEMU, for all agents in turn."""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from benches import rounds
from benches.agent import ASKED, FLOOR, FLOOR_ASKED, OURS, STOCK, Agent, Cycle
from benches.processes import cpu_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support import qemu

KINDS = (STOCK, OURS, ASKED, FLOOR, FLOOR_ASKED)
ROUNDS = 9
CORES = os.cpu_count() or 1
WALL, AGENT, LIBVIRTD, QEMU = "wall clock", "CPU of the agent", "CPU of libvirtd", "CPU of QEMU"


class Costs:
    """What each process has used in the cycles of one agent, a guest and in seconds."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.cycles: list[Cycle] = []
        self.libvirtd: list[float] = []
        self.qemu: list[float] = []

    def medians(self) -> dict[str, float]:
        """Return the median of each."""
        found = {
            WALL: rounds.wall(self.cycles),
            AGENT: rounds.cpu(self.cycles),
            LIBVIRTD: median(self.libvirtd),
            QEMU: median(self.qemu),
        }
        used = found[AGENT] + found[LIBVIRTD] + found[QEMU]
        return found | {"CPU of all three, over the cores": used / CORES}


def measure(rig: qemu.Libvirtd, uuids: Sequence[str]) -> dict[str, Costs]:
    """Return what each of the agents has used."""
    emulated = emulators(rig)
    found = {kind: Costs() for kind in KINDS}

    def cycle(agent: Agent) -> Cycle:
        libvirtd, qemus = cpu_of([rig.pid]), cpu_of(emulated)
        done = agent.cycle()
        found[agent.kind].libvirtd.append((cpu_of([rig.pid]) - libvirtd) / len(uuids))
        found[agent.kind].qemu.append((cpu_of(emulated) - qemus) / len(uuids))
        return done

    with ExitStack() as stack:
        agents = {kind: stack.enter_context(Agent(kind, rig.uri, uuids)) for kind in KINDS}
        rounds.warm_up(agents.values())
        for kind, cycles in rounds.cycles(agents, ROUNDS, cycle).items():
            found[kind].cycles = cycles
    return found


def emulators(rig: qemu.Libvirtd) -> list[int]:
    """Return the process ids of all QEMUs."""
    return [pid for pid, line in rig.processes().items() if "guest=" in line]
