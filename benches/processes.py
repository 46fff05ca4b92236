"""What other processes have used, by the clock that the kernel keeps for each."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def cpu_of(pids: Iterable[int]) -> float:
    """Return the CPU time of these processes, seconds; of one that has ended, none."""
    used = 0.0
    for pid in pids:
        with suppress(OSError):
            # clock_getcpuclockid(3). Unlike /proc, it tells nanoseconds.
            used += time.clock_gettime(~pid << 3 | 2)
    return used
