"""Many calls at once, each of which may be kept waiting."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable

Item = TypeVar("Item")
Value = TypeVar("Value")
AWAKE = 0.1
OF_TARGET = "target "
"""What the name of a thread begins with that reads one of several hypervisors."""


def get(answers: queue.Queue[Value] | queue.SimpleQueue[Value]) -> Value:
    """Wait for an answer; now and then for none, as Python may oversleep a Ctrl-C otherwise."""
    while True:
        with suppress(queue.Empty):
            return answers.get(timeout=AWAKE)


def call_each(call: Callable[[Item], Value], items: Iterable[Item], threads: int) -> list[Value]:
    """Return what comes of all of them, in their order; the first exception is the caller's.

    The threads are daemons, as those of a pool are not: a Ctrl-C waits for none of them. They have
    the name of the thread that calls this.
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

    name = threading.current_thread().name
    _start([threading.Thread(target=work, name=name, daemon=True) for _ in to_do[:threads]])
    answers: dict[int, Value] = {}
    for _ in to_do:
        index, answer, error = get(done)
        if error:
            raise error
        answers[index] = answer
    return [answers[index] for index in sorted(answers)]


def name_after(target: str) -> None:
    """Name this thread after the target that it reads, if that has a name."""
    if target:
        threading.current_thread().name = f"{OF_TARGET}{target}"


def logged(record: logging.LogRecord) -> str:
    """Return what was logged; where there are several, with the target that it was about."""
    of, target, rest = (record.threadName or "").partition(OF_TARGET)
    return f"{rest}: {record.getMessage()}" if target and not of else record.getMessage()


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
