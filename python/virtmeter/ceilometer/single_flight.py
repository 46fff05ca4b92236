"""One answer for all threads that ask the same at the same time."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MOMENT = 1.0
"""Seconds. A rate over less than that says little."""


class SingleFlight:
    """The questions of the last moment.

    Where the agent has several threads, two pollsters may ask for the rates of an instance at once,
    before the agent's cache has them. The second one would get those of the milliseconds since the
    first.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._asked: dict[Hashable, tuple[float, int, Future[list[Any]]]] = {}

    def ask(self, question: Hashable, get: Callable[[], Iterable[Any]]) -> list[Any]:
        """Return an answer, or the one that another thread has got a moment ago, or waits for."""
        if self._process != os.getpid():  # a forked child, where nobody waits
            self._begin()
        own: Future[list[Any]] = Future()
        with self._lock:
            answer = self._last(question) or own
            if answer is own:
                self._asked[question] = time.monotonic(), threading.get_ident(), own
        if answer is not own:
            with suppress(CancelledError):  # the other one has failed
                return answer.result()
        try:
            own.set_result(list(get()))
        finally:
            own.cancel()  # of no effect on one that has a result
        return own.result()

    def _last(self, question: Hashable) -> Future[list[Any]] | None:
        """Return the answer of another thread, and forget what is over."""
        now = time.monotonic()
        over = takewhile(lambda each: now - each[1][0] >= MOMENT, self._asked.items())
        for known, _ in list(over):
            del self._asked[known]
        _, thread, answer = self._asked.get(question, (None, None, None))
        if thread != threading.get_ident():
            return answer
        del self._asked[question]
        return None
