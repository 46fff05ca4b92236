"""Callers that are interrupted, leave and close, over guests that hang; and who waits for whom."""

from __future__ import annotations

import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import virtmeter
from tests.faults.test_engine import (
    FROM_GUESTS,
    STATS,
    add_samples,
    expected,
    hanging,
    reading_threads,
)
from tests.faults.test_outages import AFTER_THE_OPEN
from tests.support import sample
from tests.support.libvirtd import Daemon, Late, Never, Then
from tests.support.oracle import METHODS
from tests.support.polling import ask, cycle
from tests.support.procedures import (
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_INTERNAL_ERROR,
    VIR_FROM_QEMU,
    Disk,
    Error,
    no_domain,
)
from tests.support.qemu import wait_for
from tests.support.remote import RungError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.procedures import Domain


def outcome(call: Callable[[], object]) -> type[Exception] | None:
    """Return what a call raises."""
    try:
        call()
    except virtmeter.InspectorException as error:
        return type(error)
    return None


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise RungError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_interrupted_and_closed_again_and_again_over_one_hung_guest(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 3)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=1.5, read_ahead=0)
    with hanging(daemon, uuids[0]):
        for number in range(24):
            method = METHODS[number % 4]
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                sample.read(inspector, method, uuids[0])
            except (RungError, virtmeter.InspectionTimeout):
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            inspector.close()
            assert (
                ask(inspector, "inspect_disks", uuids[1])
                == expected(uuids)["inspect_disks", uuids[1]]
            )
            assert len(inspector.list_instances()) == 3
        # One call is in the guest, and it is known there.
        asked = [daemon.calls[call] for call in FROM_GUESTS]
        assert sum(asked) == 24 * 1 + 1, "the others' disks, and one call in the guest that hangs"
        health = inspector.health()
        assert (list(health.hung), health.stuck) == ([uuids[0]], 1)
        assert health.threads <= 6 + 1
    wait_for(lambda: not inspector.health().hung, "it answers again")
    assert cycle(inspector, uuids) == expected(uuids)


def set_received(domains: list[Domain], kib: int) -> None:
    for domain in domains:
        [nic] = domain.interfaces
        domain.interfaces[nic] = (1024 * kib, 0, 0, 0, 0, 0, 0, 0)


def received(inspector: virtmeter.LibvirtInspector) -> list[float | None]:
    return [usage.network_read_kib for usage in inspector.usage_all()]


def threads() -> int:
    """Return how many threads of virtmeter's this process has."""
    return sum(len(reading_threads(f"virtmeter-{what}")) for what in ("read", "probe"))


def test_inspectors_that_are_made_anew_for_each_question_over_one_hung_guest(
    daemon: Daemon,
) -> None:
    """They would leave threads of their own in that guest, one inspector after the other."""
    hung, well, _ = add_samples(daemon, 3)
    before = threads()

    def asked_anew(uuid: str, more: float = 0) -> type[Exception] | None:
        workers = 4 if more % 0.003 else 8
        inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.4 + more, workers=workers)
        return outcome(lambda: list(inspector.inspect_disks(uuid)))

    with hanging(daemon, hung):
        most = 0
        for number in range(25):  # each with the time that it has left
            assert asked_anew(hung, number / 1000) is virtmeter.InspectionTimeout
            assert asked_anew(well, number / 1000) is None
            most = max(most, threads())
        # One call in the guest, one that asks after it, and one that reads or ends.
        assert most <= before + 4
        # A new one starts anew in all else.
        with virtmeter.LibvirtInspector(daemon.uri, timeout=0.4) as inspector:
            assert sum(inspector.health().calls.values()) == 0
            assert inspector.health().timeouts == 0
    wait_for(lambda: asked_anew(hung) is None, "it is read again")
    wait_for(lambda: threads() <= before, "nothing is left behind")


def test_what_hung_for_another_inspector_costs_no_healthy_guest(daemon: Daemon) -> None:
    """It has as many threads, of which fewer may hang."""
    domains = [sample.domain(number, bulk=True) for number in range(1, 9)]
    daemon.waits.job_timeout = 60.0
    daemon.add(*domains)
    hung, well = domains[:3], domains[3:]
    for domain in hung:
        domain.hung = True
    first = virtmeter.LibvirtInspector(daemon.uri, timeout=1.0)
    for domain in hung:
        asked = partial(first.inspect_disks, domain.uuid)
        assert outcome(asked) is virtmeter.InspectionTimeout
    del first, asked
    with virtmeter.LibvirtInspector(daemon.uri, timeout=1.0, workers=14, max_stuck=2) as inspector:
        assert all(list(inspector.inspect_disks(domain.uuid)) for domain in well)
    for domain in hung:
        domain.hung = False


@pytest.mark.parametrize("report_stopped", [False, True])
def test_what_another_inspector_has_opened_tells_nothing_by_its_options(
    daemon: Daemon, report_stopped: bool
) -> None:
    running, stopped = sample.domain(1), sample.domain(2)
    stopped.state, stopped.id = VIR_DOMAIN_SHUTOFF, -1
    daemon.add(running, stopped)
    over = threading.Event()
    first = virtmeter.LibvirtInspector(daemon.uri, timeout=1.0, report_stopped=not report_stopped)
    questions = (
        first.list_instances,
        partial(first.inspect_instance, running.uuid),
        partial(first.inspect_disks, running.uuid),
    )
    daemon.latency["CONNECT_GET_ALL_DOMAIN_STATS"] = 0.1
    with ThreadPoolExecutor(3) as threads:  # there are several connections
        list(threads.map(lambda question: list(question()), questions))
    del questions
    for procedure in ("CONNECT_OPEN", "CONNECT_LIST_ALL_DOMAINS", *AFTER_THE_OPEN):
        daemon.on(procedure, Then(lambda _: over.wait(60)), repeat=True)
    assert outcome(first.list_instances) is virtmeter.ConnectionLost
    del first
    with (
        virtmeter.LibvirtInspector(
            daemon.uri, timeout=3.0, report_stopped=report_stopped
        ) as inspector,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(outcome, partial(inspector.inspect_instance, stopped.uuid))
        time.sleep(0.2)
        daemon.off()
        over.set()
        shut_off = None if report_stopped else virtmeter.InstanceShutOffException
        assert asked.result(60) is shut_off


@pytest.mark.parametrize("is_reset", [False, True])
def test_inspectors_that_are_made_anew_over_a_silent_host(daemon: Daemon, is_reset: bool) -> None:
    add_samples(daemon, 3)
    before = threads()
    daemon.on("CONNECT_OPEN", Never(), repeat=True)

    def asked_anew(workers: int = 4) -> type[Exception] | None:
        inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.2, workers=workers)
        return outcome(lambda: list(inspector.list_instances()))

    for _ in range(20):
        for workers in (4, 8):
            assert asked_anew(workers) is virtmeter.ConnectionLost
    # Of one inspector: those that read, and those that ask whether the host is there.
    assert threads() <= before + 40
    daemon.off()
    if not is_reset:
        daemon.stop()
        daemon.start()
    wait_for(lambda: asked_anew() is None, "it is read again")


def test_closed_again_and_again_over_a_silent_host(daemon: Daemon) -> None:
    """As careful wrappers do it. No guest is to blame, and none is left out without a word."""
    uuids = add_samples(daemon, 3)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.3, max_age=0)
    assert len(list(inspector.list_instances())) == 3
    assert list(inspector.inspect_disks(uuids[0]))
    for procedure in ("CONNECT_OPEN", "CONNECT_LIST_ALL_DOMAINS", *AFTER_THE_OPEN):
        daemon.on(procedure, Never(), repeat=True)
    questions = (
        inspector.list_instances,
        lambda: inspector.inspect_disks(uuids[1]),
        inspector.usage_all,
    )
    for _ in range(12):
        for question in questions:
            with pytest.raises(virtmeter.ConnectionLost):
                question()
            assert not inspector.health().locked
            assert not inspector.health().hung
            inspector.close()
    daemon.off()

    def is_well() -> bool:
        asked = [outcome(inspector.list_instances)]
        asked += [outcome(partial(inspector.inspect_disks, uuid)) for uuid in uuids]
        return asked == [None] * 4

    wait_for(is_well, "all are read again")
    assert not inspector.health().locked
    assert not inspector.health().hung


@pytest.mark.usefixtures("alarm")
def test_a_pass_that_is_interrupted_leaves_all_it_has_read_to_the_next(daemon: Daemon) -> None:
    daemon.add(*(domains := [sample.domain(number, bulk=True) for number in range(1, 4)]))
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=60, max_age=0)
    set_received(domains, 0)
    assert received(inspector) == [None] * 3
    over = threading.Event()
    daemon.on(STATS, Then(lambda _: over.wait(60)), uuid=domains[2].uuid)
    set_received(domains, 1000)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(RungError):
            inspector.usage_all()
    finally:
        over.set()
    set_received(domains, 1001)
    assert received(inspector) == [1001.0] * 3


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("what", ["usage", "inspect_vnics", "inspect_vnic_rates"])
def test_what_a_call_that_is_interrupted_would_have_told_is_told_by_the_next(
    daemon: Daemon, what: str
) -> None:
    """The alarm rings before the answer is there, and its caller looks for one after that."""
    daemon.add(domain := sample.domain(bulk=True))
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=0)

    def asked() -> float:
        """Return how many KiB are told, or were at this rate since the first call."""
        if what == "usage":
            return inspector.usage(domain.uuid).network_read_kib or 0.0
        if what == "inspect_vnics":
            [nic] = inspector.inspect_vnics(domain.uuid)
            return nic.rx_bytes_delta / 1024
        rates = list(inspector.inspect_vnic_rates(domain.uuid))
        return rates[0].rx_bytes_rate * (time.monotonic() - begun) / 1024 if rates else 0.0

    set_received([domain], 0)
    begun = time.monotonic()
    asked()
    first = time.monotonic()
    for kib in (1000, 2000, 3000):
        set_received([domain], kib)
        daemon.on(STATS, Late(0.15))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with suppress(RungError):
            asked()
            pytest.fail("it was not interrupted")
    least = time.monotonic() - first
    told = asked()
    if what == "inspect_vnic_rates":
        # The rate is over the time until its reading, which is not longer than ours.
        assert 3000 <= told <= 3000 * (time.monotonic() - begun) / least
    else:
        assert told == 3000


@pytest.fixture
def busy_thread() -> Iterator[None]:
    """Have the GIL waited for: for 5 ms, as Python's threads take it by turns."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    yield
    is_over.set()
    thread.join()


@pytest.mark.usefixtures("alarm", "busy_thread")
@pytest.mark.parametrize("what", ["usage", "usage_all", "inspect_vnics"])
def test_what_an_interrupted_caller_waits_with_for_the_gil_is_told_by_the_next(
    daemon: Daemon, what: str
) -> None:
    daemon.add(domain := sample.domain(bulk=True))
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=60, max_age=0)
    call = partial(getattr(inspector, what), *([] if what == "usage_all" else [domain.uuid]))

    def told(answer: Any) -> float:
        """Return how many KiB are told."""
        [one] = [answer] if what == "usage" else answer
        return float(one.rx_bytes_delta / 1024 if what == "inspect_vnics" else one.network_read_kib)

    set_received([domain], 0)
    call()
    for number in range(1, 41):
        set_received([domain], 1000 * number)
        answers: list[Any] = []
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001 * number)
            # Python looks for signals between a call and what is done with its result: not here.
            answers.extend(starmap(call, [()]))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except RungError:
            pass
        before = sum(map(told, answers))
        assert before + told(call()) == 1000, f"after {number} ms"


@pytest.mark.parametrize("number", range(3))
def test_a_pass_in_which_a_log_handler_raises_leaves_all_it_has_read_to_the_next(
    daemon: Daemon, number: int
) -> None:
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RungError(record.getMessage())

    daemon.add(*(domains := [sample.domain(number, bulk=True) for number in range(1, 4)]))
    inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=0)
    set_received(domains, 0)
    assert received(inspector) == [None] * 3
    daemon.on(STATS, Error(1, VIR_FROM_QEMU, "not for you"), uuid=domains[number].uuid)
    set_received(domains, 1000)
    logging.getLogger("virtmeter").addHandler(handler := Raising())
    try:
        with pytest.raises(RungError, match=r"left out of the usage: .* not for you"):
            inspector.usage_all()
    finally:
        logging.getLogger("virtmeter").removeHandler(handler)
    set_received(domains, 1001)
    assert received(inspector) == [1001.0] * 3


@pytest.mark.usefixtures("alarm")
def test_a_list_that_is_asked_for_in_vain_again_and_again(daemon: Daemon) -> None:
    """What needs no guest may hang as well: no more than two calls are out for it."""
    [uuid] = add_samples(daemon, 1)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.5)
    daemon.on(STATS, Late(0), uuid=uuid, repeat=True)
    daemon.on(STATS, Never(), repeat=True)
    for _ in range(12):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            inspector.list_instances()
        except (RungError, virtmeter.InspectorException):
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        inspector.close()
    with pytest.raises(virtmeter.NoDataException, match=r"listing the instances of .* hangs"):
        inspector.list_instances()
    assert ask(inspector, "inspect_disks", uuid) == expected([uuid])["inspect_disks", uuid]
    assert inspector.health().threads <= 6 + 2


def test_two_guests_that_cannot_be_asked_after_keep_no_third_in_quarantine(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 4)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.4)
    well = expected(uuids)
    over = threading.Event()
    for uuid in uuids[:2]:
        daemon.on("DOMAIN_BLOCK_STATS", Then(lambda _: over.wait(60)), uuid=uuid, repeat=True)
        daemon.on("DOMAIN_GET_CONTROL_INFO", Then(lambda _: over.wait(60)), uuid=uuid, repeat=True)
    back = threading.Event()
    daemon.on("DOMAIN_BLOCK_STATS", Then(lambda _: back.wait(60)), uuid=uuids[2])
    try:
        hung = {*uuids[:2]}
        for uuid in uuids[:2]:
            assert isinstance(ask(inspector, "inspect_disks", uuid), virtmeter.InspectionTimeout)
        # Two probing threads wait for these two.
        asked_after = "DOMAIN_GET_CONTROL_INFO"
        assert daemon.wait_until(lambda daemon: daemon.calls[asked_after] >= 2, timeout=30)
        wait_for(lambda: set(inspector.health().hung) == hung, "both are in quarantine")
        assert isinstance(ask(inspector, "inspect_disks", uuids[2]), virtmeter.InspectionTimeout)
        assert set(inspector.health().hung) == {*hung, uuids[2]}
        back.set()

        def is_read() -> bool:
            return ask(inspector, "inspect_disks", uuids[2]) == well["inspect_disks", uuids[2]]

        wait_for(is_read, "the third is read again while the others hang")
        assert set(inspector.health().hung) == hung
    finally:
        daemon.off()
        over.set()
        back.set()
    wait_for(lambda: cycle(inspector, uuids) == well, "all are read again")


@pytest.mark.parametrize("are_well_again", [False, True], ids=["hang", "are well again"])
def test_nor_if_the_thirds_own_answer_is_lost(daemon: Daemon, are_well_again: bool) -> None:
    """Then only its control info says that it is free; three may be asked for theirs in vain."""
    uuids = add_samples(daemon, 5)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.4)
    well = expected(uuids)
    others, third = uuids[: 4 if are_well_again else 2], uuids[4]
    back, over = threading.Event(), threading.Event()
    try:
        for uuid in others:
            daemon.on("DOMAIN_BLOCK_STATS", Then(lambda _: back.wait(60)), uuid=uuid)
            daemon.on("DOMAIN_GET_CONTROL_INFO", Then(lambda _: over.wait(60)), uuid=uuid)
            assert isinstance(ask(inspector, "inspect_disks", uuid), virtmeter.InspectionTimeout)

        def asked() -> int:
            return daemon.calls["DOMAIN_GET_CONTROL_INFO"]

        wait_for(lambda: asked() >= min(len(others), 3), "they are asked after")

        def is_read(uuid: str) -> bool:
            return ask(inspector, "inspect_disks", uuid) == well["inspect_disks", uuid]

        if are_well_again:
            back.set()
            wait_for(lambda: all(map(is_read, others)), "they are read again")
        daemon.on("DOMAIN_BLOCK_STATS", Then(lambda _: over.wait(60)), uuid=third)
        assert isinstance(ask(inspector, "inspect_disks", third), virtmeter.InspectionTimeout)
        wait_for(lambda: is_read(third), "it is found to be free")
    finally:
        daemon.off()
        back.set()
        over.set()
    wait_for(lambda: cycle(inspector, uuids) == well, "all are read again")


def test_answers_that_are_lost_one_by_one_keep_no_guest_from_being_read(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 8)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.2, workers=2, max_stuck=2)
    well = expected(uuids)
    over = threading.Event()
    try:
        for uuid in uuids[:-1]:
            daemon.on("DOMAIN_BLOCK_STATS", Then(lambda _: over.wait(60)), uuid=uuid)
            assert isinstance(ask(inspector, "inspect_disks", uuid), virtmeter.InspectionTimeout)

            def is_read(uuid: str = uuid) -> bool:
                return ask(inspector, "inspect_disks", uuid) == well["inspect_disks", uuid]

            wait_for(is_read, "it is read again")
        assert cycle(inspector, uuids) == well
        assert inspector.health().stuck == len(uuids) - 1
    finally:
        over.set()
    wait_for(lambda: inspector.health().stuck == 0, "they come back")
    assert cycle(inspector, uuids) == well


def test_nobody_waits_for_the_list_that_housekeeping_wants(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 130)
    for uuid in uuids:
        daemon.on(STATS, Late(0), uuid=uuid, repeat=True)
    listed = threading.Event()
    daemon.on(STATS, Then(lambda _: listed.set()), Never(), repeat=True)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=120)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cycle, inspector, uuids, ["inspect_vnics"]).result(timeout=60)
        # That the first list was asked for, and that the second hangs, is nobody's concern.
        assert listed.wait(30)
        pool.submit(cycle, inspector, uuids, ["inspect_vnics"]).result(timeout=60)


def test_what_threads_of_its_own_have_to_say_is_logged_by_callers(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    """A log handler may be slow: only who has called is to wait for it."""
    caplog.set_level("DEBUG")
    daemon.add(*(sample.domain(number, bulk=True) for number in range(1, 21)))
    daemon.on("NODE_GET_INFO", Error(1, VIR_FROM_QEMU, "not for you"), repeat=True)
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    for _ in range(3):
        usages = inspector.usage_all()
        assert [usage.host_cpu_utilization for usage in usages] == [None] * 20
        daemon.stop()
        wait_for(lambda: outcome(inspector.usage_all) is virtmeter.ConnectionLost, "it is noticed")
        daemon.start()
        for _ in range(2):
            sample.read_again(inspector, "inspect_vnics", usages[0].id)
    assert {record.thread for record in caplog.records} == {threading.get_ident()}
    said = [line for line in caplog.messages if "how many CPUs the host has" in line]
    assert len(said) == 1, "once, and not in each reading"
    assert daemon.calls["NODE_GET_INFO"] <= 6, "a refusal is remembered: once by each at the most"


def test_an_interval_ends_when_the_values_were_measured(daemon: Daemon) -> None:
    """A call may wait for a backup's job before it measures anything."""
    daemon.add(domain := sample.domain(bulk=True))
    served: list[float] = []
    answer = Then(lambda _: served.append(time.monotonic()))
    # After a long wait, there is a second call.
    long = (Late(0.5, answer), answer)
    daemon.on(STATS, answer, *long, answer, *long)
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    inspector.usage(domain.uuid)
    for _ in range(3):
        before, returned = len(served), time.monotonic()
        usage = inspector.usage(domain.uuid)
        most = time.monotonic() - served[before - 1]
        assert usage.interval is not None
        assert served[-1] - returned <= usage.interval <= most


def wait_for_storage(daemon: Daemon, domain: Domain) -> None:
    """Have the next bulk reading wait for a disk: by then, CPUs and NICs were counted."""

    def go_on(_: Daemon) -> None:
        domain.stats["cpu.time"] = 2 * 10**7
        domain.stats["vcpu.1.time"] = 2 * 10**7
        domain.interfaces["tap1"] = (10 * 1024, *domain.interfaces["tap1"][1:])
        domain.disks["vda"].stats = (1, 2 + 512, 3, 4, -1)

    daemon.on(STATS, Late(0.3), Then(go_on))


def set_counters(domain: Domain) -> None:
    domain.interfaces["tap1"] = (0, *domain.interfaces["tap1"][1:])
    domain.stats.update({"cpu.time": 10**7, "vcpu.1.time": 10**7})


def test_what_was_counted_before_the_guest_was_waited_for_is_read_again(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID, bulk=True))
    set_counters(domain)
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    inspector.usage(sample.UUID)
    wait_for_storage(daemon, domain)
    usage = inspector.usage(sample.UUID)
    assert usage.interval is not None
    told = 0.01 / usage.interval * 100
    assert usage.cpu_utilization == pytest.approx(told)
    assert usage.host_cpu_utilization == pytest.approx(told / 8)
    assert usage.network_read_kib == 10.0
    # The disks are of the moment when they were told.
    assert usage.disk_read_kib == 0.0
    assert usage.disk_interval is not None
    assert usage.disk_interval < usage.interval
    usage = inspector.usage(sample.UUID)
    assert (usage.network_read_kib, usage.cpu_utilization, usage.disk_read_kib) == (0.0, 0.0, 0.5)


def test_so_it_is_where_that_was_the_first_reading_of_all(daemon: Daemon) -> None:
    """Nobody knows how long it takes without waiting, nor of the next one."""
    domains = [sample.domain(uuid=each, bulk=True) for each in (sample.UUID, str(UUID(int=2)))]
    domains[1].name, domains[1].id = "another", 2
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    for domain in domains:
        daemon.add(domain)
        set_counters(domain)
        wait_for_storage(daemon, domain)
        inspector.usage(domain.uuid)
    for domain in domains:
        usage = inspector.usage(domain.uuid)
        told = usage.network_read_kib, usage.cpu_utilization, usage.disk_read_kib
        assert told == (0.0, 0.0, 0.5)


def test_a_guest_that_was_waited_for_and_is_started_anew_is_not_mixed(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID, bulk=True))

    def start_anew(_: Daemon) -> None:
        domain.id += 1
        domain.cpu_time = 0
        domain.stats["vcpu.1.time"] = 0

    domain.stats["vcpu.1.time"] = 10**9
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    inspector.inspect_instance(sample.UUID)
    daemon.on(STATS, Late(0.3), Then(start_anew))
    assert inspector.inspect_instance(sample.UUID).vcpu_time == 10**9
    assert inspector.inspect_instance(sample.UUID).vcpu_time == 0


def test_what_could_not_be_read_again_is_of_the_moment_when_it_was_told(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID, bulk=True))

    def go_on(_: Daemon) -> None:
        domain.interfaces["tap1"] = (1024, *domain.interfaces["tap1"][1:])

    domain.interfaces["tap1"] = (0, *domain.interfaces["tap1"][1:])
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    began = time.monotonic()
    inspector.usage(sample.UUID)
    refused = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, "no")
    daemon.on(STATS, Late(0.3, Then(go_on)), Late(1.0, refused))
    usage = inspector.usage(sample.UUID)
    assert usage.network_read_kib == 1.0
    assert usage.interval is not None
    assert usage.interval <= time.monotonic() - 1.0 - began


def test_a_device_that_is_measured_by_a_call_of_its_own_has_its_own_time(daemon: Daemon) -> None:
    """Where no bulk reading has it, that call may wait alone."""
    daemon.add(domain := sample.domain(uuid=sample.UUID))
    served: list[float] = []

    def count(_: Daemon) -> None:
        served.append(time.monotonic())
        domain.disks["vda"].stats = (0, 10**6 * len(served), 0, 0, 0)

    daemon.on("DOMAIN_BLOCK_STATS", Then(count), Late(0.5, Then(count)), Then(count))
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    assert list(inspector.inspect_disk_rates(sample.UUID)) == []
    for _ in range(2):
        before, returned = len(served), time.monotonic()
        [rates] = inspector.inspect_disk_rates(sample.UUID)
        most = time.monotonic() - served[before - 1]
        interval = 10**6 * (len(served) - before) / rates.read_bytes_rate
        assert served[-1] - returned <= interval <= most
    # In usage, only the disks are over another time than the rest.
    daemon.on("DOMAIN_BLOCK_STATS", Late(0), Late(0.5))
    inspector.usage(sample.UUID)
    usage = inspector.usage(sample.UUID)
    assert usage.interval == usage.cpu_interval
    assert usage.interval is not None
    assert usage.disk_interval is not None
    assert usage.disk_interval > usage.interval + 0.4


def test_cpu_time_that_is_measured_by_a_call_of_its_own_has_its_own_time(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID))
    del domain.stats["vcpu.1.time"]
    served: list[float] = []

    def count(_: Daemon) -> None:
        served.append(time.monotonic())
        # Less than what passes between two readings: no more can be used.
        domain.cpu_time = 10**4 * len(served)

    daemon.on("DOMAIN_GET_INFO", Then(count), Late(0.5, Then(count)), Then(count))
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    inspector.usage(sample.UUID)
    for _ in range(2):
        before, returned = len(served), time.monotonic()
        usage = inspector.usage(sample.UUID)
        most = time.monotonic() - served[before - 1]
        assert usage.cpu_utilization is not None
        assert usage.host_cpu_utilization is not None
        assert usage.cpu_interval is not None
        assert served[-1] - returned <= usage.cpu_interval <= most
        for utilization, cpus in ((usage.cpu_utilization, 1), (usage.host_cpu_utilization, 8)):
            grown = 10**4 * (len(served) - before)
            interval = grown / (utilization / 100 * cpus * 10**9)
            assert interval == pytest.approx(usage.cpu_interval)


def test_a_host_that_does_not_tell_its_cpus_is_no_guests_fault(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 4)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.5)
    daemon.on("NODE_GET_INFO", Never(), repeat=True)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        usages = inspector.usage_all()
        assert [usage.memory_used is None for usage in usages] == [False] * 4
        assert {usage.host_cpu_utilization for usage in usages} == {None}
        assert inspector.health().hung == {}
    assert cycle(inspector, uuids) == expected(uuids)
    assert inspector.health().stuck <= 2


def test_a_guest_that_is_said_to_be_free_and_never_answers(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 3)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.2, max_stuck=2)
    daemon.on("DOMAIN_BLOCK_STATS", Never(), uuid=uuids[0], repeat=True)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert isinstance(ask(inspector, "inspect_disks", uuids[0]), virtmeter.InspectionTimeout)
        time.sleep(0.05)
    health = inspector.health()
    assert (list(health.hung), health.stuck) == ([uuids[0]], 2), "a second try, and no third"
    assert ask(inspector, "inspect_disks", uuids[1]) == expected(uuids)["inspect_disks", uuids[1]]


def test_a_question_that_is_asked_twice_leaves_one_line(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID))
    domain.xml = domain.xml.replace(
        "</devices>", "<disk><source file='/b'/><target dev='vdb'/></disk></devices>"
    )
    domain.disks["vdb"] = Disk(stats=(1, 2, 3, 4, 5))
    inspector = virtmeter.LibvirtInspector(daemon.uri, read_ahead=0, max_age=0)
    assert len(list(inspector.inspect_disks(sample.UUID))) == 2
    daemon.on("DOMAIN_BLOCK_STATS", Error(1, VIR_FROM_QEMU, "no"), device="vda", repeat=True)
    daemon.on("DOMAIN_BLOCK_STATS", no_domain("it is looked up again"), device="vdb")
    lookups = daemon.calls["DOMAIN_LOOKUP_BY_UUID"]
    [disk] = inspector.inspect_disks(sample.UUID)
    assert disk.device == "vdb"
    assert daemon.calls["DOMAIN_LOOKUP_BY_UUID"] == lookups + 1
    [line] = caplog.messages
    assert "vda" in line
