"""Signals that end the process: the first one does, well and in bounded time."""

from __future__ import annotations

import os
import signal

PATIENCE = 5.0
"""Seconds that the end has, which logs out of pools and vCenters, and writes what is left."""

_begun: list[str] = []
"""Why the end has begun, if it has."""


def begin() -> None:
    """Have signals raise nothing any more.

    In the middle of the end, an exception is a traceback, or lost, and something is left behind.
    """
    _begun.append("the command has ended")


def bound(status: int) -> None:
    """Have the process end with this status after a while, whatever it waits for by then.

    That may be a pipe or a terminal which takes nothing any more. Signals raise nothing meanwhile.
    """
    if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:
        _begun.append("a signal has come")
        signal.signal(signal.SIGALRM, lambda *_: os._exit(status))
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def on(number: int, status: int) -> None:
    """Have a signal end the process with this status."""

    def end(*_: object) -> None:
        is_first = not _begun
        bound(status)
        if is_first:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(status)

    signal.signal(number, end)
