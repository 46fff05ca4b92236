"""Numbers as people read them, in five characters or six; a dash where there is none."""

from __future__ import annotations

NOTHING = "-"
KIB = 1024
MIB = 1024**2


def size(count: float | None) -> str:
    """Return a number of bytes: ``140B``, ``1.21K``, ``94.0M``; K is 1024."""
    return NOTHING if count is None or count < 0 else _short(count, 1024, "BKMGTPE")


def number(count: float | None) -> str:
    """Return how many there are: ``12``, ``4711``, ``1.21M``; k is 1000."""
    if count is None or count < 0:
        return NOTHING
    return f"{count:.0f}" if count < 99_999.5 else _short(count, 1000, ["", "k", *"MGTPE"])


def percent(share: float | None) -> str:
    """Return a share of a hundred: ``3.1``, ``100``."""
    if share is None:
        return NOTHING
    return f"{share:.1f}" if share < 99.95 else f"{share:.0f}"


def duration(seconds: float | None) -> str:
    """Return a time span: ``3.2s``, ``12m30s``, ``31h05m``, ``12d07h``."""
    if seconds is None:
        return NOTHING
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if minutes < 100:
        return f"{minutes}m{int(seconds) % 60:02}s"
    if hours < 100:
        return f"{hours}h{minutes % 60:02}m"
    return f"{days}d{hours % 24:02}h"


def _short(count: float, base: int, units: str | list[str]) -> str:
    """Return the number with three digits that matter, and its unit."""
    power = 0
    while count >= 999.5 and power < len(units) - 1:
        count, power = count / base, power + 1
    if power == 0:
        return f"{count:.0f}{units[0]}"
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f}{units[power]}"
