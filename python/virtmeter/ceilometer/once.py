"""Says a fault once, however many pollsters meet it in however many cycles."""

from __future__ import annotations

import time

KEPT = 3600.0
"""What nobody has met for so many seconds is over: it is said again if it comes back."""
MOST = 10_000
"""Of more faults than that, the half that was met last is kept."""


class Once:
    """The faults that were met lately."""

    def __init__(self) -> None:
        """Know of none."""
        self._met: dict[str, float] = {}

    def is_new(self, fault: str) -> bool:
        """Take down that a fault was met, and return whether it is to be said."""
        now = time.monotonic()
        if len(self._met) > MOST:
            by_time = sorted(self._met.items(), key=lambda each: each[1])
            self._met = dict(by_time[-MOST // 2 :])
        last = self._met.get(fault)
        self._met[fault] = now
        return last is None or now - last >= KEPT
