"""What the exporter says on stderr, and how often."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from virtmeter.cli.export.logs import FEW, MOST, SILENT, Seldom

if TYPE_CHECKING:
    import pytest


def line(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("virtmeter", level, __file__, 1, text, None, None)


class Slow(dict[str, float]):
    """What was said, which takes long to look through."""

    def get(self, *arguments: Any) -> Any:
        time.sleep(0.05)
        return super().get(*arguments)


def test_of_threads_that_say_the_same_at_a_time_one_is_heard() -> None:
    seldom = Seldom()
    together = threading.Barrier(8)

    def say(_: int) -> bool:
        together.wait(30)
        return seldom.filter(line("something"))

    seldom._until = Slow()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(say, range(8))) == 1


def test_of_threads_that_say_different_things_none_is_forgotten() -> None:
    seldom = Seldom()
    together = threading.Barrier(8)

    def say(number: int) -> bool:
        together.wait(30)
        return seldom.filter(line(f"something {number}"))

    seldom._until = Slow()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(say, range(8)))
    assert not any(seldom.filter(line(f"something {number}")) for number in range(8))


def test_the_same_line_is_heard_again_after_its_time_and_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seldom: Any = Seldom()
    assert seldom.filter(line("anything"))
    assert seldom.filter(line("another"))
    now += SILENT - 1
    assert not seldom.filter(line("anything"))
    assert seldom.filter(line("anything", logging.INFO)), "somebody has asked for it"
    now += 2
    assert seldom.filter(line("anything"))


def test_what_was_said_is_remembered_for_no_longer_than_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seldom: Any = Seldom()
    lines = [f"{number} is left out of this reading" for number in range(3 * FEW)]
    assert all(seldom.filter(line(text)) for text in lines)
    assert not any(seldom.filter(line(text)) for text in lines), "each was just said"
    now += 2 * SILENT
    assert all(seldom.filter(line(f"another {number}")) for number in range(3 * FEW))
    assert not {*lines} & {*seldom._until}


def test_there_is_a_bound_on_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    seldom: Any = Seldom()
    most = 0
    for number in range(3 * MOST):
        assert seldom.filter(line(f"line {number}"))
        most = max(most, len(seldom._until))
    assert most <= MOST + 1
    assert not seldom.filter(line(f"line {number}")), "the last ones are remembered"


WITHOUT_MEMORY = """
import _thread, logging, sys, threading
from virtmeter.cli.export import logs

def fail():
    raise MemoryError

logging.basicConfig(format="%(message)s")
said = threading.Event()
with logs.unblocked():
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: (hook(args), said.set())
    _thread.start_new_thread(fail, ())
    said.wait()
"""


def test_python_says_nothing_of_a_thread_that_has_no_memory() -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
