"""Signals that end the process: the first one does, well; others change nothing for a while."""

from __future__ import annotations

import os
import signal
import time

PATIENCE = 5.0
"""Seconds that the end has, which logs out of pools and vCenters; another signal ends it then."""

_until: list[float] = []
"""Until when it has them, by the monotonic clock, once it has begun."""


def begin() -> None:
    """Have signals raise nothing any more.

    In the middle of the end, an exception is a traceback, or lost, and something is left behind.
    """
    if not _until:
        _until.append(time.monotonic() + PATIENCE)


def on(number: int, status: int) -> None:
    """Have a signal end the process with this status."""

    def end(*_: object) -> None:
        if not _until:
            begin()
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(status)
        if time.monotonic() > _until[0]:
            os._exit(status)

    signal.signal(number, end)
