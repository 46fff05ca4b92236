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
        sound, doubtful = _threads(most)
        self._sound = ThreadPoolExecutor(sound, "virtmeter-export")
        self._doubtful = ThreadPoolExecutor(doubtful, "virtmeter-doubtful")
        for each in (self._sound, self._doubtful):
            each.submit(int).result()
        self._most = most
        self.threads = sound + doubtful
        """How many readings may be under way in all."""
        self._changed = threading.Condition()
        self._begun: list[float] = []
        """When those readings were begun that have not failed before."""

    def bounded(self, threads: int) -> Workers:
        """Return these, or others that have no more threads than that, but five at least."""
        if self.threads <= threads:
            return self
        most = range(1, self._most)
        return Workers(max((each for each in most if sum(_threads(each)) <= threads), default=1))

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


def _threads(most: int) -> tuple[int, int]:
    return most * (1 + BESIDE), max(1, most // 2)


def _logged(reading: Callable[[], object]) -> None:
    try:
        reading()
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and no thread is to end in it
        LOG.warning("a reading failed: %s", error)
