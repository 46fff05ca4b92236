"""How old the numbers are that a guest has told of its memory, and how old ones are marked.

Its balloon driver tells them to QEMU now and then, and libvirt hands on the last ones. When the
guest has crashed, the driver has stopped, or QEMU does not ask for them, they stay as they were.
"""

from __future__ import annotations

import time

from virtmeter.cli import units

OLD = 60.0
"""Seconds after which they are no longer taken for those of now."""
MARK = "?"
LEGEND = f"{MARK} last reported by the guest over a minute ago: see 'virtmeter doctor'"


def age(updated: int | None) -> float | None:
    """Return for how many seconds they have been as they are, by this host's clock.

    None: the guest has never told them, or told them in the future, as the clock of a remote host
    may have it.
    """
    seconds = None if updated is None else time.time() - updated
    return None if seconds is None or seconds < 0 else seconds


def is_old(updated: int | None) -> bool:
    """Return whether they are too old to be taken for those of now."""
    seconds = age(updated)
    return seconds is not None and seconds > OLD


def marked(cell: str, updated: int | None) -> str:
    """Return a cell of a table that has one of them, with a mark where it is old."""
    return f"{cell}{MARK}" if cell != units.NOTHING and is_old(updated) else cell
