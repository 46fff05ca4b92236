"""Threads that read, bounded over all that is read."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

SLOW = 2.0
"""Seconds after which a reading gives its turn to another one, and goes on beside it."""

BESIDE = 3
"""How many times as many may go on like that."""


class Workers:
    """So many readings at a time, not counting those that take long.

    What has failed before has threads of its own, half as many: however much hangs, it holds up
    nothing that answers.
    """

    def __init__(self, most: int) -> None:
        """Start the first one of each.

        :raises RuntimeError: there can be none.
        """
        # They may be waiting for a hypervisor when the process is to end, which waits for none.
        self._sound = ThreadPoolExecutor(most * (1 + BESIDE), "virtmeter-export")
        self._doubtful = ThreadPoolExecutor(max(1, most // 2), "virtmeter-doubtful")
        for each in (self._sound, self._doubtful):
            each.submit(int).result()
        self._most = most
        self._changed = threading.Condition()
        self._begun: list[float] = []
        """When those readings were begun that have not failed before."""

    def begin(self, reading: Callable[[], object], *, doubtful: bool = False) -> None:
        """Have something read as soon as there is a thread.

        :param doubtful: whether it has failed the last time.
        """
        # Where there can be no more threads, it waits for one of those that there are.
        with suppress(RuntimeError):
            if doubtful:
                self._doubtful.submit(_logged, reading)
            else:
                self._sound.submit(self._in_turn, reading)

    def _in_turn(self, reading: Callable[[], object]) -> None:
        with self._changed:
            while (wait := self._seconds_to_wait()) > 0:
                self._changed.wait(wait)
            begun = time.monotonic()
            self._begun.append(begun)
        try:
            _logged(reading)
        finally:
            with self._changed:
                self._begun.remove(begun)
                self._changed.notify()

    def _seconds_to_wait(self) -> float:
        """Return after what time there is a turn at the latest; 0 if there is one now."""
        if len(self._begun) < self._most:
            return 0.0
        return self._begun[-self._most] + SLOW - time.monotonic()


def _logged(reading: Callable[[], object]) -> None:
    try:
        reading()
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and no thread is to end in it
        LOG.warning("a reading failed: %s", error)
