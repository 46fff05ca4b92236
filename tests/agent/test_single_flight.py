"""Several threads of one agent that ask for the rates of an instance at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
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


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(single_flight, "MOMENT", 3600.0)
    with ThreadPoolExecutor(2) as pool:
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


def test_the_next_cycle_asks_anew(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SingleFlight()
    assert asked.ask("rates", lambda: [1]) == [1]
    assert asked.ask("rates", lambda: [2]) == [2], "one thread asks once a cycle"
    assert pool.submit(asked.ask, "rates", lambda: [3]).result(60) == [2]
    monkeypatch.setattr(single_flight, "MOMENT", 0.0)
    assert pool.submit(asked.ask, "rates", lambda: [4]).result(60) == [4]
    for number in range(1000):
        asked.ask(number, list)
    assert len(asked._asked) == 1, "what is over is forgotten"


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


def test_a_forked_child_waits_for_no_thread_of_its_parent(pool: ThreadPoolExecutor) -> None:
    asked, slow = SingleFlight(), Slow()
    first = pool.submit(asked.ask, "rates", slow)
    slow.begun.wait(60)
    child = os.fork()
    if not child:
        os._exit(asked.ask("rates", lambda: [2]) != [2])
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

    def count(_daemon: Daemon) -> None:
        domain.interfaces["tap1"] = (1001, 2, 3, 4, 5, 6, 7, 8)

    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Then(count))
    first, second = [pool.submit(polled) for _ in range(2)]
    assert first.result(60) == second.result(60) != []
    inspector.native.close()
