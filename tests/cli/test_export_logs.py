"""What the exporter says on stderr, and how often."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from virtmeter.cli.export.logs import DEVICE, OTHER, Seldom


def line(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("virtmeter", level, __file__, 1, text, None, None)


class Slow(dict[str, float]):
    """What was said, which takes long to look through."""

    def items(self) -> Any:
        time.sleep(0.05)
        return super().items()


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


@pytest.mark.parametrize(
    ("text", "seconds"), [("a disk is left out of this reading", DEVICE), ("anything", OTHER)]
)
def test_the_same_line_is_heard_again_after_its_time_and_others_at_once(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seldom: Any = Seldom()
    assert seldom.filter(line(text))
    assert seldom.filter(line("another"))
    now += seconds - 1
    assert not seldom.filter(line(text))
    assert seldom.filter(line(text, logging.INFO)), "somebody has asked for it"
    now += 2
    assert seldom.filter(line(text))
    now += 2 * DEVICE
    assert seldom.filter(line("the last"))
    assert [*seldom._until] == ["the last"], "no more is kept than is needed"
