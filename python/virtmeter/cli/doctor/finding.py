"""What the doctor has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"

SHOWN = 5

RESTART = (
    "libvirt's daemon is running but does not answer: check its log ('journalctl -u virtqemud' "
    "or '-u libvirtd') and restart it; the VMs keep running"
)


class Finding(NamedTuple):
    """One sentence, and what to do about it."""

    level: str
    what: str
    advice: str = ""


def names(some: Sequence[str]) -> str:
    """Return the first of them, and how many more there are."""
    more = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
    return ", ".join(some[:SHOWN]) + more
