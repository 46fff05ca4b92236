"""Signals that end the process: the first one does, well and in bounded time."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 5.0
"""Seconds that the end has, which logs out of pools and vCenters, and writes what is left."""

AGAIN = 0.5
"""Seconds after which the end is signalled again: a signal that comes just before a call that waits
does not interrupt it."""

_begun: list[str] = []
"""Why the end has begun, if it has."""

_bounded: list[int] = []
"""The status with which the process ends once its time is over, if that is bounded."""

at_last: list[Callable[[], object]] = []
"""What is done even then, as it waits for nothing."""


def begin() -> None:
    """Have signals raise nothing any more.

    In the middle of the end, an exception is a traceback, or lost, and something is left behind.
    """
    _begun.append("the command has ended")


def bound(status: int) -> None:
    """Have the process end with this status after a while, whatever it waits for by then.

    That may be a pipe or a terminal which takes nothing any more. Signals raise nothing meanwhile.
    """
    if not _bounded:
        _bounded.append(status)
        _begun.append("a signal has come")
        signal.signal(signal.SIGALRM, lambda *_: _over(status))
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT, AGAIN)


def _over(status: int) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for action in at_last:
        with suppress(Exception):
            action()
    os._exit(status)


def on(number: int, status: int) -> None:
    """Have a signal end the process with this status."""

    def end(*_: object) -> None:
        is_first = not _begun
        bound(status)
        if is_first:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(status)

    signal.signal(number, end)
