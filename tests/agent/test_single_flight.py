"""Several threads of one agent that ask for the rates of an instance at once."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from ceilometer.compute import discovery
from ceilometer.compute.virt.libvirt import utils
from oslo_config import cfg

from tests.support import sample
from tests.support.libvirtd import Then
from virtmeter.ceilometer import options, single_flight
from virtmeter.ceilometer.inspector import LibvirtInspector
from virtmeter.ceilometer.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Daemon


class Clock:
    """A clock that stands still unless it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(single_flight, "time", clock)
    return clock


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Slow:
    """What is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.begun, self.may_answer = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> list[int]:
        self.begun.set()
        self.may_answer.wait(60)
        if self.error:
            raise self.error
        return [1]


def test_who_asks_meanwhile_or_soon_after_gets_the_same(pool: ThreadPoolExecutor) -> None:
    asked, slow = SingleFlight(), Slow()
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    second = pool.submit(asked.ask, "rates", lambda: [2])
    assert asked.ask("others", lambda: [3]) == [3], "it waits for nobody"
    slow.may_answer.set()
    assert (first.result(60), second.result(60)) == ([1], [1])
    assert asked.ask("rates", lambda: [4]) == [1]


def test_a_moment_begins_with_the_answer(pool: ThreadPoolExecutor, clock: Clock) -> None:
    asked, slow = SingleFlight(), Slow()
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    clock.now = 10.0
    second = pool.submit(asked.ask, "rates", lambda: [2])
    slow.may_answer.set()
    assert (first.result(60), second.result(60)) == ([1], [1])
    assert asked.ask("rates", lambda: [3]) == [1]
    clock.now = 11.0
    assert asked.ask("rates", lambda: [4]) == [4]


def test_the_next_cycle_asks_anew(clock: Clock) -> None:
    asked, numbers = SingleFlight(), count()

    def polled() -> list[int]:
        # Each source of the agent has new threads in each cycle, with the numbers of old ones.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asked.ask, "rates", lambda: [next(numbers)]).result(60)

    assert [polled() for _ in range(5)] == [[0]] * 5
    clock.now = 1.0
    assert [polled() for _ in range(5)] == [[1]] * 5
    for number in range(1000):
        clock.now += 1.0
        asked.ask(number, list)
    assert len(asked._answered) == 1, "what is over is forgotten"
    assert not asked._asked


def test_a_failure_is_of_whoever_has_asked(pool: ThreadPoolExecutor) -> None:
    asked, slow = SingleFlight(), Slow()
    slow.error = KeyError("no such instance")
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    second = pool.submit(asked.ask, "rates", lambda: [2])
    slow.may_answer.set()
    with pytest.raises(KeyError):
        first.result(60)
    assert second.result(60) == [2]


def test_after_a_failure_one_of_those_who_wait_asks(pool: ThreadPoolExecutor) -> None:
    asked, slow, numbers = SingleFlight(), Slow(), count()
    slow.error = KeyError("no connection")
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    others = [pool.submit(asked.ask, "rates", lambda: [next(numbers)]) for _ in range(3)]
    slow.may_answer.set()
    with pytest.raises(KeyError):
        first.result(60)
    assert [other.result(60) for other in others] == [[0]] * 3


def test_a_forked_child_waits_for_no_thread_of_its_parent(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both may be the first of their pid namespace.
    monkeypatch.setattr(os, "getpid", lambda: 1)
    asked, slow = SingleFlight(), Slow()
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            os._exit(asked.ask("rates", lambda: [2]) != [2])
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    slow.may_answer.set()
    assert first.result(60) == [1]


@pytest.mark.parametrize("method", ["inspect_vnic_rates", "inspect_disk_rates"])
def test_two_pollsters_have_the_same_rates(
    daemon: Daemon, pool: ThreadPoolExecutor, method: str
) -> None:
    conf = cfg.ConfigOpts()
    conf.register_opts(utils.OPTS)
    conf.register_opts(discovery.OPTS, group="compute")
    options.register(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("libvirt_uri", daemon.uri)
    domain = sample.domain(bulk=True)
    daemon.add(domain)
    inspector = LibvirtInspector(conf)
    rates, instance = getattr(inspector, method), SimpleNamespace(id=domain.uuid)
    assert list(getattr(inspector.native, method)(instance)) == []
    both_ask = threading.Barrier(2)

    def polled() -> list[object]:
        both_ask.wait(60)
        return list(rates(instance))

    def receive(_daemon: Daemon) -> None:
        domain.interfaces["tap1"] = (1001, 2, 3, 4, 5, 6, 7, 8)

    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Then(receive))
    first, second = [pool.submit(polled) for _ in range(2)]
    assert first.result(60) == second.result(60) != []
    inspector.native.close()
