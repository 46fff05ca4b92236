"""Threads that read, bounded over all that is read."""

from __future__ import annotations

import logging
import threading
import time
from _thread import start_new_thread
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

SLOW = 2.0
"""Seconds after which a reading gives its turn to another one, and goes on beside it."""

BESIDE = 3
"""How many times as many may go on like that."""

TO_BEGIN = 10.0
"""Seconds that the first thread has to begin."""


class Pool:
    """Threads that do what they are given: one that stays, and others while there is enough to do.

    Not one of concurrent.futures: that waits for ever for a thread without memory to begin with,
    and so does everybody then who wants something done.
    """

    def __init__(self, most: int) -> None:
        """Start the one that stays.

        :param most: how many there are at the most.
        :raises RuntimeError: there can be none.
        :raises MemoryError: it has none to begin with.
        """
        self._most = most
        self._to_do: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._others = 0
        begun = threading.Event()
        start_new_thread(self._stay, (begun,))
        if not begun.wait(TO_BEGIN):
            raise MemoryError

    def begin(self, work: Callable[[], object]) -> None:
        """Have something done as soon as there is a thread."""
        self._to_do.put(work)
        # Where there can be no more threads, it waits for one of those that there are.
        with suppress(RuntimeError, MemoryError):
            start_new_thread(self._help, ())

    def _stay(self, begun: threading.Event) -> None:
        begun.set()
        while True:
            _logged(self._to_do.get())

    def _help(self) -> None:
        with self._lock:
            if self._others >= self._most - 1:
                return
            self._others += 1
        while True:
            with self._lock:
                try:
                    work = self._to_do.get_nowait()
                except (Empty, MemoryError):
                    self._others -= 1
                    return
            _logged(work)
            del work  # it may hold much


class Workers:
    """So many readings at a time, not counting those that take long.

    What has failed before has threads of its own, half as many: however much hangs, it holds up
    nothing that answers.
    """

    def __init__(self, most: int) -> None:
        """Start the first one of each.

        :raises RuntimeError: there can be none.
        :raises MemoryError: one has none to begin with.
        """
        # They may be waiting for a hypervisor when the process is to end, which waits for none.
        sound, doubtful = _threads(most)
        self._sound, self._doubtful = Pool(sound), Pool(doubtful)
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
        if doubtful:
            self._doubtful.begin(reading)
        else:
            self._sound.begin(lambda: self._in_turn(reading))

    def _in_turn(self, reading: Callable[[], object]) -> None:
        begun = 0.0
        with self._changed, suppress(MemoryError):  # without memory to wait, it is its turn
            while (wait := self._seconds_to_wait()) > 0:
                self._changed.wait(wait)
            begun = time.monotonic()
            self._begun.append(begun)
        try:
            reading()
        finally:
            with self._changed:
                with suppress(ValueError):  # it has none of the places
                    self._begun.remove(begun)
                self._changed.notify()

    def _seconds_to_wait(self) -> float:
        """Return after what time there is a turn at the latest; 0 if there is one now."""
        if len(self._begun) < self._most:
            return 0.0
        return self._begun[-self._most] + SLOW - time.monotonic()


def _threads(most: int) -> tuple[int, int]:
    return most * (1 + BESIDE), max(1, most // 2)


def _logged(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and no thread is to end in it
        with suppress(MemoryError):
            LOG.warning("a reading failed: %s", error)
