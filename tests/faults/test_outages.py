"""A daemon that is away, mute or mad: everyone is told at once, one line, and it is used again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import virtmeter
from tests.faults.test_engine import hanging
from tests.faults.test_process import start
from tests.support import sample
from tests.support.libvirtd import Answer, Daemon, Garbage, Late, Never
from tests.support.polling import cycle
from tests.support.procedures import PROCEDURES, VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC, Error
from tests.support.qemu import wait_for
from tests.support.users import as_nobody

TIMEOUT = 1.0
AFTER_THE_OPEN = [
    procedure.name
    for procedure in PROCEDURES.values()
    if procedure.name.startswith("DOMAIN") or procedure.name == "CONNECT_GET_ALL_DOMAIN_STATS"
]
GARBAGE = Garbage(b"\xff" * 64)
TOO_MANY = Error(VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC, "too many connections")


def add_samples(daemon: Daemon) -> list[str]:
    domains = [sample.domain(number) for number in range(1, 6)]
    daemon.add(*domains)
    return [domain.uuid for domain in domains]


def assert_well(inspector: virtmeter.LibvirtInspector, uuids: list[str]) -> None:
    for number, uuid in enumerate(uuids, 1):
        for method, right in sample.answers(number).items():
            assert sample.read_again(inspector, method, uuid) == right


@pytest.mark.parametrize(
    ("procedures", "answer"),
    [(["CONNECT_OPEN"], Never()), (AFTER_THE_OPEN, Never()), (["CONNECT_OPEN"], GARBAGE)],
    ids=["a mute open", "mute after that", "a mad open"],
)
def test_everyone_is_told_at_once_and_one_line_each_way(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, procedures: list[str], answer: Answer
) -> None:
    caplog.set_level("INFO", logger="virtmeter")
    uuids = add_samples(daemon)
    for procedure in procedures:
        daemon.on(procedure, answer, repeat=True)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    began = time.monotonic()
    with pytest.raises(virtmeter.ConnectionLost) as caught:
        inspector.inspect_vnics(uuids[0])
    assert time.monotonic() - began < 2 * TIMEOUT
    assert caught.value.instance_id == uuids[0]
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(lambda _: cycle(inspector, uuids), range(8)):
            assert {type(answer) for answer in answers.values()} == {virtmeter.ConnectionLost}
    assert time.monotonic() - began < TIMEOUT, "nobody else waits"
    [line] = [record.getMessage() for record in caplog.records]
    assert "no connection" in line
    assert "keeps trying" in line
    daemon.stop()
    daemon.off()
    daemon.start()
    assert_well(inspector, uuids)
    [_, line] = [record.getMessage() for record in caplog.records]
    assert "connected to" in line


def test_garbage_in_all_answers_is_a_typed_error_and_over_with_it(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    for procedure in AFTER_THE_OPEN:
        daemon.on(procedure, GARBAGE, repeat=True)
    for answers in (cycle(inspector, uuids), cycle(inspector, uuids)):
        assert all(isinstance(answer, virtmeter.InspectorException) for answer in answers.values())
    daemon.off()
    # What is under way may still fail.
    wait_for(lambda: set(map(type, cycle(inspector, uuids).values())) == {list}, "it is over")
    assert_well(inspector, uuids)


def test_twenty_restarts_in_a_row(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="virtmeter")
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    assert_well(inspector, uuids)
    done = threading.Event()

    def poll() -> set[type]:
        kinds = set()
        while not done.is_set():
            kinds |= {type(answer) for answer in cycle(inspector, uuids).values()}
            done.wait(0.01)
        return kinds

    with ThreadPoolExecutor(2) as pool:
        polling = [pool.submit(poll) for _ in range(2)]
        try:
            for number in range(20):
                opened = daemon.connections
                daemon.stop()
                daemon.start()
                # Some of them while the connection is still being opened.
                assert daemon.wait_until(lambda daemon: daemon.connections > opened, timeout=30)  # noqa: B023
                if number % 2:
                    wait_for(lambda: inspector.connected, "it is connected again")
        finally:
            done.set()
        for future in polling:
            assert future.result() <= {list, virtmeter.ConnectionLost}
    assert_well(inspector, uuids)
    lost = sum("no connection" in line for line in caplog.messages)
    again = sum("connected to" in line for line in caplog.messages)
    assert lost == again <= 20
    assert inspector.health().threads <= 6


@pytest.mark.parametrize("answer", [TOO_MANY, Never()], ids=["refused", "not answered"])
def test_connections_that_are_too_many_hold_up_nobody(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    caplog.set_level("INFO", logger="virtmeter")
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    assert inspector.inspect_vnics(uuids[0])
    daemon.on("CONNECT_OPEN", answer, repeat=True)
    opened = daemon.connections
    end = time.monotonic() + 2 * TIMEOUT
    while time.monotonic() < end:
        with ThreadPoolExecutor(8) as pool:
            for answers in pool.map(lambda _: cycle(inspector, uuids), range(8)):
                assert {type(answer) for answer in answers.values()} == {list}
    assert daemon.connections > opened, "more were tried"
    assert caplog.messages == []
    health = inspector.health()
    assert (health.hung, health.outage) == ({}, None)
    # And when the last one breaks, it is an outage at once. (A list is never read ahead.)
    daemon.stop()
    with pytest.raises(virtmeter.ConnectionLost):
        inspector.list_instances()
    daemon.off()
    daemon.start()
    assert_well(inspector, uuids)


def open_all(inspector: virtmeter.LibvirtInspector, daemon: Daemon, uuids: list[str]) -> None:
    """Have several workers open their connections."""
    daemon.latency["DOMAIN_INTERFACE_STATS"] = 0.02
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cycle(inspector, uuids), range(8)))
    daemon.latency.clear()
    assert inspector.health().connections > 2


def test_logins_that_take_long_end_an_outage_although_a_guest_hangs(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT, max_age=0)
    inspector.inspect_disks(uuids[0])
    # Longer than a prober has before another one takes its place.
    daemon.on("CONNECT_OPEN", Late(4 * TIMEOUT), repeat=True)

    def are_told() -> set[str]:
        """Ask for all, the one that hangs first."""
        told = set()
        for uuid in uuids:
            with suppress(virtmeter.InspectorException):
                inspector.inspect_disks(uuid)
                told.add(uuid)
        return told

    with hanging(daemon, uuids[0]):
        wait_for(lambda: are_told() == set(uuids[1:]), "the others are told")
        # Nor do probers go on to log in for each other.
        opened = daemon.calls["CONNECT_OPEN"]
        until = time.monotonic() + 8 * TIMEOUT
        while time.monotonic() < until:
            are_told()
        wait_for(lambda: are_told() == set(uuids[1:]), "the others are still told")
        assert daemon.calls["CONNECT_OPEN"] <= opened + 2


def test_a_guest_that_hangs_while_no_further_connection_is_opened(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    open_all(inspector, daemon, uuids)
    with hanging(daemon, uuids[2]):
        daemon.on("CONNECT_OPEN", Never(), repeat=True)
        for _ in range(2):
            answers = cycle(inspector, uuids)
            assert {
                uuid for (_, uuid), answer in answers.items() if not isinstance(answer, list)
            } == {uuids[2]}
        health = inspector.health()
        assert (set(health.hung), health.outage) == ({uuids[2]}, None)


def test_a_guest_that_hangs_while_the_one_who_asks_is_refused_a_connection(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    assert inspector.inspect_vnics(uuids[0])
    daemon.on("CONNECT_OPEN", TOO_MANY, repeat=True)
    with hanging(daemon, uuids[2]):
        with pytest.raises(virtmeter.InspectionTimeout):
            list(inspector.inspect_disks(uuids[2]))
        health = inspector.health()
        assert (set(health.hung), health.outage) == ({uuids[2]}, None)
        with pytest.raises(virtmeter.ConnectionLost, match="too many connections"):
            list(inspector.inspect_disks(uuids[0]))
        daemon.off()
        assert_well(inspector, uuids[:2])


def test_others_are_read_over_the_last_connection_while_a_guest_hangs(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    daemon.max_clients = 2
    with hanging(daemon, uuids[2]):
        with pytest.raises(virtmeter.InspectionTimeout):
            list(inspector.inspect_disks(uuids[2]))
        # One connection hangs, and the one who asks after the guest has the other.
        assert daemon.open_connections == 2
        with pytest.raises(virtmeter.ConnectionLost):
            list(inspector.inspect_disks(uuids[0]))
        wait_for(lambda: inspector.health().outage is None, "the connection is handed on")
        for _ in range(3):
            assert_well(inspector, uuids[:2])
        assert set(inspector.health().hung) == {uuids[2]}


def test_nobody_waits_until_the_one_who_asks_has_closed_a_connection(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    with hanging(daemon, uuids[2]):
        with pytest.raises(virtmeter.InspectionTimeout):
            list(inspector.inspect_disks(uuids[2]))
        daemon.on("CONNECT_CLOSE", Never(), repeat=True)
        daemon.on("CONNECT_OPEN", TOO_MANY)
        with pytest.raises(virtmeter.ConnectionLost, match="too many connections"):
            list(inspector.inspect_disks(uuids[0]))
        assert daemon.wait_until(lambda daemon: daemon.calls["CONNECT_CLOSE"] > 0)
        wait_for(lambda: inspector.health().outage is None, "a connection can be opened")
        assert_well(inspector, uuids[:2])


def test_where_no_worker_can_connect_the_probers_connection_ends_no_outage(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="virtmeter")
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    with hanging(daemon, uuids[2]):
        with pytest.raises(virtmeter.InspectionTimeout):
            list(inspector.inspect_disks(uuids[2]))
        caplog.clear()
        daemon.on("CONNECT_OPEN", TOO_MANY, repeat=True)
        end = time.monotonic() + 2 * TIMEOUT
        while time.monotonic() < end:
            with pytest.raises(virtmeter.ConnectionLost, match="too many connections"):
                list(inspector.inspect_disks(uuids[0]))
            time.sleep(0.02)
        assert len(caplog.messages) == 1
        daemon.off()
        assert_well(inspector, uuids[:2])
        assert len(caplog.messages) == 2


def test_a_restart_that_many_connections_notice_only_when_they_are_used(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT)
    for _ in range(5):
        open_all(inspector, daemon, uuids)
        daemon.stop()
        daemon.start()
        with ThreadPoolExecutor(8) as pool:
            for answers in pool.map(lambda _: cycle(inspector, uuids), range(8)):
                assert {type(answer) for answer in answers.values()} == {list}


def test_threads_that_cannot_connect_take_no_turns_of_the_one_that_can(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=5)
    open_all(inspector, daemon, uuids)
    daemon.on("CONNECT_OPEN", Never(), repeat=True)
    for connection in list(daemon._open)[1:]:
        connection.hang_up()
    for number in range(20):
        began = time.monotonic()
        assert inspector.inspect_vnics(uuids[number * 3 % 5])
        assert time.monotonic() - began < 0.2


@as_nobody
def test_a_socket_that_gets_its_permission_later(daemon: Daemon) -> None:
    [uuid, *_] = add_samples(daemon)
    daemon.socket_path.parent.chmod(0o755)
    daemon.socket_path.chmod(0o600)
    script = """
        import os, sys, virtmeter
        from tests.support import sample
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        try:
            inspector.inspect_disks(sys.argv[2])
        except virtmeter.ConnectionLost as error:
            print("Permission denied" in str(error), flush=True)
        sys.stdin.readline()
        print(*map(tuple, sample.read_again(inspector, "inspect_disks", sys.argv[2])))
    """
    with start(script, daemon.uri, uuid) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        daemon.socket_path.chmod(0o666)
        [right] = sample.answers()["inspect_disks"]
        assert process.communicate("\n", timeout=30) == (f"{right}\n", "")


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_mute_daemon_that_finds_its_voice_again(daemon: Daemon, seconds: float) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.3)
    for procedure in ("CONNECT_OPEN", *AFTER_THE_OPEN):
        daemon.on(procedure, Never(), repeat=True)
    with pytest.raises(virtmeter.ConnectionLost):
        inspector.inspect_vnics(uuids[0])
    # For long enough that several probing threads wait in vain.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        cycle(inspector, uuids)
        time.sleep(0.05)
    daemon.off()
    # The calls that it has swallowed stay unanswered.
    wait_for(
        lambda: (
            not isinstance(
                cycle(inspector, uuids)["inspect_vnics", uuids[0]], virtmeter.ConnectionLost
            )
        ),
        "it is connected again",
    )
    wait_for(lambda: set(map(type, cycle(inspector, uuids).values())) == {list}, "all is well")


def test_a_host_that_is_reset_again_and_again(daemon: Daemon) -> None:
    uuids = add_samples(daemon)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.3)
    assert_well(inspector, uuids)
    opened = 0

    def is_tried() -> bool:
        cycle(inspector, uuids)
        return daemon.calls["CONNECT_OPEN"] > opened

    def is_well() -> bool:
        answers = cycle(inspector, uuids).values()
        return set(map(type, answers)) == {list} and not inspector.health().hung

    for count in range(1, 6):
        # It hangs until it is reset: those who wait for it by then are told nothing any more.
        for procedure in ("CONNECT_OPEN", *AFTER_THE_OPEN):
            daemon.on(procedure, Never(), repeat=True)
        opened = daemon.calls["CONNECT_OPEN"]
        with pytest.raises(virtmeter.InspectorException):
            inspector.inspect_disks(uuids[count % len(uuids)])
        wait_for(is_tried, "another connection is tried")
        daemon.off()
        wait_for(is_well, f"all is well after reset {count}")
    assert inspector.health().stuck > 0
    # None of those serves.
    daemon.on("CONNECT_OPEN", TOO_MANY, repeat=True)

    def is_noticed() -> bool:
        # Again and again, as one may be reading ahead just then.
        daemon.hang_up_on_the_idle()
        cycle(inspector, uuids)
        return inspector.health().outage is not None

    wait_for(is_noticed, "an outage is one again")
    daemon.off()
    daemon.stop()
    daemon.start()
    wait_for(lambda: is_well() and inspector.health().stuck == 0, "they come back")
    wait_for(lambda: inspector.health().threads <= 4, "so many threads are too many")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("refuses", [False, True])
def test_those_that_are_asked_about_are_read_again_after_a_reset(
    daemon: Daemon, count: int, refuses: bool
) -> None:
    """Nobody asks about any other, nor for a list, which would show that the host is back."""
    uuids = add_samples(daemon)[:count]
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.3)
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(inspector.inspect_instance, uuids))
        for procedure in AFTER_THE_OPEN:
            daemon.on(procedure, Never(), repeat=True)
        for reading in [pool.submit(inspector.inspect_instance, uuid) for uuid in uuids]:
            with pytest.raises(virtmeter.InspectorException):
                reading.result()
        assert inspector.health().outage is not None
        daemon.off()
        if refuses:  # while the host starts
            daemon.on("CONNECT_OPEN", *[TOO_MANY] * 3)

        def is_read(uuid: str) -> bool:
            try:
                return bool(list(inspector.inspect_disks(uuid)))
            except virtmeter.InspectorException:
                return False

        wait_for(lambda: all(pool.map(is_read, uuids)), "they are read again")
