"""Many calls at once, each of which may be kept waiting."""

from __future__ import annotations

import contextvars
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

Item = TypeVar("Item")
Value = TypeVar("Value")
AWAKE = 0.1


def get(answers: queue.Queue[Value] | queue.SimpleQueue[Value]) -> Value:
    """Wait for an answer; now and then for none, as Python may oversleep a Ctrl-C otherwise."""
    while True:
        with suppress(queue.Empty):
            return answers.get(timeout=AWAKE)


def call_each(call: Callable[[Item], Value], items: Iterable[Item], threads: int) -> list[Value]:
    """Return what comes of all of them, in their order; the first exception is the caller's.

    The threads are daemons, as those of a pool are not: a Ctrl-C waits for none of them. What
    they log is about the same target as what their caller logs.
    """
    to_do = list(enumerate(items))
    waiting = iter(to_do)
    turn = threading.Lock()
    done: queue.SimpleQueue[tuple[int, Value, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            with turn:
                place = next(waiting, None)
            if place is None:
                return
            index, item = place
            try:
                done.put((index, call(item), None))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                done.put((index, None, error))  # type: ignore[arg-type]

    # Each in a context of its own: no two threads can be in one.
    contexts = [contextvars.copy_context() for _ in to_do[:threads]]
    _start([threading.Thread(target=own.run, args=(work,), daemon=True) for own in contexts])
    answers: dict[int, Value] = {}
    for _ in to_do:
        index, answer, error = get(done)
        if error:
            raise error
        answers[index] = answer
    return [answers[index] for index in sorted(answers)]


def _start(threads: Iterable[threading.Thread]) -> None:
    """Start as many as this process may have.

    :raises RuntimeError: it may have none.
    """
    started = False
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:
            if not started:
                raise
            return
        started = True
