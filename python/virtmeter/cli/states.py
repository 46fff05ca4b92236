"""The states of VMs, in words and colours."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from virtmeter import PowerState

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = {"running": "green", "paused": "yellow", "crashed": "red", "shutoff": "dim"}


def word(state: int) -> str:
    """Return libvirt's word for a state, or its number where libvirt is newer than this."""
    return PowerState(state).name.lower() if state in set(PowerState) else str(state)


def cell(state: int, *, hung: bool, busy: bool = False) -> Text:
    """Return what a table says of a VM's state."""
    if hung:
        return Text("hung", style="bold red")
    if busy:
        return Text("busy", style="yellow")
    return Text(word(state), style=COLOURS.get(word(state), ""))


def told(states: Sequence[tuple[int, bool]]) -> str:
    """Return how many VMs there are and in which states: ``3 VMs: 2 running, 1 hung``."""
    words = Counter("hung" if hung else word(state) for state, hung in states)
    vms = {0: "no VM", 1: "1 VM"}.get(len(states), f"{len(states)} VMs")
    counts = ", ".join(f"{count} {which}" for which, count in words.most_common())
    return f"{vms}: {counts}" if counts else vms
