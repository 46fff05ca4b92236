"""One answer for all threads that ask the same at the same time."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MOMENT = 0.5
"""Seconds. A rate over less than that says little, and a cycle takes a second at least."""


class SingleFlight:
    """The questions of the last moment.

    Where the agent has several threads, two pollsters may ask for the rates of an instance at once,
    before the agent's cache has them. The second one would get those of the milliseconds since the
    first.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._begin()
        # A child's pid may be its parent's, where both are the first of their pid namespace.
        after_fork = WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: (begin := after_fork()) and begin())

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Hashable, Future[list[Any]]] = {}
        # With the times, in their order.
        self._answered: dict[Hashable, tuple[float, Future[list[Any]]]] = {}

    def ask(self, question: Hashable, get: Callable[[], Iterable[Any]]) -> list[Any]:
        """Return an answer, or the one that somebody else has got a moment ago, or waits for."""
        own: Future[list[Any]] = Future()
        while (answer := self._join(question, own)) is not own:
            with suppress(CancelledError):  # that one has failed, and one of those who wait is next
                return answer.result()
        try:
            own.set_result(list(get()))
        finally:
            self._leave(question, own)
        return own.result()

    def _join(self, question: Hashable, own: Future[list[Any]]) -> Future[list[Any]]:
        """Return the answer there is or will be, maybe one's own, and forget what is over."""
        with self._lock:
            now = time.monotonic()
            over = takewhile(lambda each: now - each[1][0] >= MOMENT, self._answered.items())
            for known, _ in list(over):
                del self._answered[known]
            if question in self._answered:
                return self._answered[question][1]
            return self._asked.setdefault(question, own)

    def _leave(self, question: Hashable, own: Future[list[Any]]) -> None:
        """Let the others go on, with an answer or without one."""
        with self._lock:
            self._asked.pop(question, None)
            if own.done():
                self._answered[question] = time.monotonic(), own
        own.cancel()  # of no effect on one that has a result
