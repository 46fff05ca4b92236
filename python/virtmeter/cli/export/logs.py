"""What the exporter says on stderr: bounded, and without anybody waiting for whoever reads that."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING

from virtmeter.cli import about

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)

SILENT = 60.0
"""Seconds for which the same line is not said again."""

FEW, MOST = 64, 20_000
"""Lines that are remembered, at least and at the most."""

LAST = 1.0
"""Seconds that the last lines have at the end."""

LINES = 1000
"""Lines that wait to be written; what comes while there are so many is lost."""


def named(record: logging.LogRecord) -> bool:
    """Put the name of the target before a line, while the thread that logs it is known."""
    record.msg, record.args = about.line(record), ()
    return True


class Seldom(logging.Filter):
    """Lets the same line through once in a while: it may be true at every scrape, or request.

    What is said at the level INFO is always let through: somebody has asked for it.
    """

    def __init__(self) -> None:
        """Begin with nothing said."""
        super().__init__()
        self._until: dict[str, float] = {}  # in the order in which they were said
        self._room = FEW
        self._lock = threading.Lock()  # any thread may log

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be logged."""
        if record.levelno <= logging.INFO:
            return True
        line, now = record.getMessage(), time.monotonic()
        with self._lock:
            if now < self._until.get(line, now):
                return False
            self._until.pop(line, None)
            self._until[line] = now + SILENT
            if len(self._until) > self._room:
                self._forget(now)
            return True

    def _forget(self, now: float) -> None:
        """Forget what may be said again, and what was said first where that is not enough.

        Seldom enough to cost a line nothing, however many there are.
        """
        said = [(line, until) for line, until in self._until.items() if now < until]
        self._until = dict(said[-MOST // 2 :])
        self._room = max(FEW, 2 * len(self._until))


class _Queue(QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


@contextmanager
def unblocked() -> Iterator[None]:
    """While a block runs, let a thread write what is logged, and let nobody else wait for that.

    Nor is anything but lines that were logged written to stderr.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    lines: queue.Queue[logging.LogRecord] = queue.Queue(LINES)
    QueueListener(lines, *handlers).start()
    logging.raiseExceptions = False  # it would print a traceback when stderr is gone
    threading.excepthook = lambda args: LOG.error("a thread failed: %s", args.exc_value)
    # It would print that each time that a thread has no memory to begin with. Something of C's that
    # does nothing, as there is none for a function of Python's then.
    sys.unraisablehook = id
    root.handlers = [_Queue(lines)]
    root.handlers[0].addFilter(named)
    root.handlers[0].addFilter(Seldom())
    try:
        yield
    finally:
        root.handlers = handlers
        until = time.monotonic() + LAST
        while lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        if lines.unfinished_tasks:  # nobody reads it, and the process would wait for that
            sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
