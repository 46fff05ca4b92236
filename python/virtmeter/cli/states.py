"""The states of VMs, in words and colours."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from virtmeter import PowerState

if TYPE_CHECKING:
    from collections.abc import Sequence

AWAY = "away"
COLOURS = {"running": "green", "paused": "yellow", "crashed": "red", "shutoff": "dim"}


def word(state: int) -> str:
    """Return libvirt's word for a state, or its number where libvirt is newer than this."""
    return PowerState(state).name.lower() if state in set(PowerState) else str(state)


def cell(state: int, *, hung: bool, busy: bool = False, away: bool = False) -> Text:
    """Return what a table says of a VM's state; that of one whose target is away is unknown."""
    if away:
        return Text(AWAY, style="bold red")
    if hung:
        return Text("hung", style="bold red")
    if busy:
        return Text("busy", style="yellow")
    return Text(word(state), style=COLOURS.get(word(state), ""))


def told(states: Sequence[tuple[int, bool]], away: int = 0) -> str:
    """Return how many VMs there are and in which states: ``3 VMs: 2 running, 1 hung``.

    :param away: how many more there are whose target is away.
    """
    words: Counter[str] = Counter()
    for (state, hung), vms in Counter(states).items():
        words["hung" if hung else word(state)] += vms
    words.update({AWAY: away} if away else {})
    count = len(states) + away
    total = {0: "no VM", 1: "1 VM"}.get(count, f"{count} VMs")
    counts = ", ".join(f"{count} {which}" for which, count in words.most_common())
    return f"{total}: {counts}" if counts else total
