"""Callers that get in each other's way: in one another's handlers, or as they ask the same."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.libvirtd import Late, Then
from tests.support.procedures import VIR_ERR_OPERATION_INVALID, VIR_FROM_QEMU, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.libvirtd import Daemon


class Handler(logging.Handler):
    """Does something at each line."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.act()


@contextmanager
def handling(act: Callable[[], object], by: str = "virtmeter.collector") -> Iterator[None]:
    """Do something at each line that is logged, for a while."""
    logger, handler = logging.getLogger(by), Handler(act)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_what_was_read_for_who_was_interrupted_is_told_to_the_next(daemon: Daemon) -> None:
    domain = sample.domain(1, bulk=True)
    domain.interfaces["tap1"] = (1,) * 8
    daemon.add(domain)

    def plug(name: str) -> None:
        """One more NIC, which is refused: a line is logged."""
        nic = f"<interface><mac/><target dev='{name}'/></interface>"
        domain.xml = domain.xml.replace("</devices>", f"{nic}</devices>")

    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:

        def received() -> int:
            return next(iter(inspector.inspect_vnics(domain.uuid))).rx_bytes_delta

        def requests() -> int | None:
            return inspector.usage(domain.uuid).disk_read_requests

        received(), requests()
        disk = domain.disks["vda"]
        domain.interfaces["tap1"] = (5001,) * 8
        disk.stats = (101, *disk.stats[1:])
        with handling(interrupt):
            for ask in (received, requests):
                plug(ask.__name__)
                with pytest.raises(KeyboardInterrupt):
                    ask()
        domain.interfaces["tap1"] = (5004,) * 8
        disk.stats = (103, *disk.stats[1:])
        assert received() == 5003
        assert requests() == 102


def test_what_a_handler_raises_is_its_own_calls(daemon: Daemon) -> None:
    """The second line's handler asks something itself."""
    domain = sample.domain(1)
    daemon.add(domain)
    refused = Error(VIR_ERR_OPERATION_INVALID, VIR_FROM_QEMU, "no")
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    lines: list[int] = []

    def act() -> None:
        lines.append(len(lines))
        if len(lines) == 1:
            raise ZeroDivisionError
        inspector.health()

    daemon.on("DOMAIN_BLOCK_STATS", refused, repeat=True)
    domain.xml = domain.xml.replace(
        "</devices>", "<disk><source file='/x'/><target dev='vdb'/></disk></devices>"
    )
    with handling(act):
        with pytest.raises(ZeroDivisionError):
            inspector.inspect_disks(domain.uuid)
        assert len(lines) == 1, "nothing more is logged by that call"
        inspector.inspect_disks(domain.uuid)
    assert len(lines) == 2
    inspector.close()


@pytest.mark.parametrize("raised", [*permutations((ZeroDivisionError, KeyboardInterrupt))])
def test_ctrl_c_is_not_lost_as_a_handler_has_raised_before(
    daemon: Daemon, raised: tuple[type[BaseException], ...]
) -> None:
    """The call ends by what is raised at the first line; the second is for the next call."""
    daemon.add(*(sample.domain(number) for number in (1, 2)))
    for domain in daemon.domains.values():
        domain.xml = "none"
    lines = iter(raised)

    def act() -> None:
        raise next(lines)

    inspector = virtmeter.LibvirtInspector(daemon.uri)
    with handling(act, "virtmeter.inspector"):
        for each in raised:
            with pytest.raises(each) as caught:
                inspector.list_servers()
            assert caught.value.__context__ is None
        assert inspector.list_servers() == []
    inspector.close()


def test_a_signals_handler_may_ask_what_its_caller_waits_for(daemon: Daemon) -> None:
    domain = sample.domain(1, bulk=True)
    daemon.add(domain)
    told: list[object] = []
    with virtmeter.LibvirtInspector(daemon.uri, timeout=10, max_age=0) as inspector:
        first = [nic.name for nic in inspector.inspect_vnics(domain.uuid)]

        def handler(*_: object) -> None:
            told.append([nic.name for nic in inspector.inspect_vnics(domain.uuid)])

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            asked = threading.Event()
            go_on = threading.Event()

            def wait(_: Daemon) -> None:
                asked.set()
                assert go_on.wait(30)

            daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Then(wait), uuid=domain.uuid)

            def press() -> None:
                assert asked.wait(30)
                os.kill(os.getpid(), signal.SIGUSR1)
                # The handler is in its own call by then, or about to make it.
                threading.Timer(1, go_on.set).start()

            threading.Thread(target=press).start()
            told.append([nic.name for nic in inspector.inspect_vnics(domain.uuid)])
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert told == [first, first]
        assert inspector.health().timeouts == 0


def test_a_signals_handler_that_takes_long_is_no_matter_of_other_threads(daemon: Daemon) -> None:
    """Nor of its own thread's guest."""
    domains = [sample.domain(number, bulk=True) for number in (1, 2)]
    daemon.add(*domains)
    other: list[object] = []
    with virtmeter.LibvirtInspector(daemon.uri, timeout=4) as inspector:

        def ask(uuid: str) -> list[str]:
            return [disk.device for disk in inspector.inspect_disks(uuid)]

        right = [ask(domain.uuid) for domain in domains]
        before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(1.5))
        for domain in domains:
            daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Late(3), uuid=domain.uuid, repeat=True)
        thread = threading.Thread(target=lambda: other.append(ask(domains[1].uuid)))
        try:
            thread.start()
            signal.setitimer(signal.ITIMER_REAL, 0.2, 1.6)
            assert ask(domains[0].uuid) == right[0]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            thread.join()
        assert other == [right[1]]
        health = inspector.health()
        assert (health.timeouts, health.hung) == (0, {})


def test_those_who_ask_the_same_are_served_in_turn(daemon: Daemon) -> None:
    """Whoever has just been answered would else be the first to ask again, for ever."""
    domain = sample.domain(1, bulk=True)
    daemon.add(domain)
    daemon.latency = {"CONNECT_GET_ALL_DOMAIN_STATS": 0.1}
    served = [0] * 3
    with virtmeter.LibvirtInspector(daemon.uri, timeout=2) as inspector:

        def poll(number: int) -> None:
            while sum(served) < 60:
                inspector.usage(domain.uuid, caller=str(number))
                served[number] += 1

        threads = [threading.Thread(target=poll, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert min(served) >= 15, served


def test_a_list_that_hangs_takes_no_deltas(daemon: Daemon) -> None:
    """The old one, which serves meanwhile, has no VMs that have come since."""
    old, locked = sample.domain(1, bulk=True), sample.domain(2, bulk=True)
    daemon.add(old)
    with virtmeter.LibvirtInspector(daemon.uri, timeout=0.5, max_age=0) as inspector:
        inspector.list_instances()
        new = sample.domain(3, bulk=True)
        daemon.add(new)
        list(inspector.inspect_vnics(new.uuid))
        locked.locked = True
        daemon.add(locked)
        for _ in range(2):
            counters = new.interfaces["tap3"]
            new.interfaces["tap3"] = (counters[0] + 10_000, *counters[1:])
            assert [instance.id for instance in inspector.list_instances()] == [old.uuid]
            [nic] = inspector.inspect_vnics(new.uuid)
            assert nic.rx_bytes_delta == 10_000
        locked.locked = False


def test_an_outage_within_a_pass_is_told_in_one_line(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    domains = [sample.domain(number, bulk=True) for number in range(1, 41)]
    daemon.add(*domains)
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        inspector.usage_all()
        caplog.clear()
        stop = Then(lambda daemon: threading.Thread(target=daemon.stop).start())
        daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", stop, uuid=domains[9].uuid)
        read = inspector.usage_all()
        lines = [line for line in caplog.messages if "left out of the usage" in line]
        assert len(lines) == 1
        lost = 40 - len(read)
        some = "an instance is" if lost == 1 else f"{lost} instances are"
        assert lines[0].startswith(f"{some} left out")
        assert len(caplog.messages) == 2, "this, and that there is no connection"


def test_why_an_instance_is_left_out_of_each_pass_is_said_once_until_it_changes(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    well, broken = (sample.domain(number, bulk=True) for number in (1, 2))
    good_xml = broken.xml
    daemon.add(well, broken)
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:

        def said(xml: str) -> list[str]:
            caplog.clear()
            broken.xml = xml
            broken.id += 1  # started anew, so the XML is read again
            for caller in "abc":
                for _ in range(3):
                    inspector.usage_all(caller=caller)
            return [line for line in caplog.messages if "left out of the usage" in line]

        [line] = said("<domain>")
        assert broken.uuid in line
        assert said("<domain>") == []
        [other] = said("<domain></devices>")
        assert other != line
        assert said(good_xml) == []
        assert said("<domain>") == [line], "again, after it was well"
