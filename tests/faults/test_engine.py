"""Guests that hang and errors of all kinds on a scripted daemon: bounds, blame, recovery."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.faults.test_process import start
from tests.support import sample, xdr
from tests.support.libvirtd import Answer, Daemon, Garbage, HangUp, Late, Never, Reply, Then
from tests.support.oracle import METHODS
from tests.support.polling import Answers, ask, cycle
from tests.support.procedures import VIR_FROM_QEMU, Error
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import _Call

STATS = "CONNECT_GET_ALL_DOMAIN_STATS"
# The calls that wait for the guest's process.
FROM_GUESTS = ("DOMAIN_MEMORY_STATS", "DOMAIN_BLOCK_STATS", "DOMAIN_GET_BLOCK_INFO")
OCCUPIED = Reply(xdr.pack("IIQ", 2, 0, 0))  # VIR_DOMAIN_CONTROL_OCCUPIED


def add_samples(daemon: Daemon, count: int) -> list[str]:
    domains = [sample.domain(number) for number in range(1, count + 1)]
    daemon.add(*domains)
    return [domain.uuid for domain in domains]


def expected(uuids: list[str]) -> Answers:
    """Return what a cycle says if all is well."""
    answers = [sample.answers(number) for number in range(1, len(uuids) + 1)]
    return {(method, uuid): of[method] for method in METHODS for uuid, of in zip(uuids, answers)}


@contextmanager
def hanging(daemon: Daemon, *uuids: str) -> Iterator[None]:
    """Let these guests hang for a while, and the daemon say so."""
    over = threading.Event()
    for uuid in uuids:
        for procedure in FROM_GUESTS:
            daemon.on(procedure, Then(lambda _: over.wait(60)), uuid=uuid, repeat=True)
        daemon.on("DOMAIN_GET_CONTROL_INFO", OCCUPIED, uuid=uuid, repeat=True)
    try:
        yield
    finally:
        daemon.off()
        over.set()


def reading_threads(name: str = "virtmeter-read") -> set[str]:
    """Return the threads of this process that take readings, or have another name."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found_name = (task / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found_name == name:
            found.add(task.name)
    return found


def test_thirty_hung_guests_and_five_threads(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 30)
    well = expected(uuids)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=1, workers=2, max_stuck=3)
    others = reading_threads()
    done = threading.Event()
    most = {"threads": 0, "connections": 0, "tasks": 0}

    def watch() -> None:
        while not done.wait(0.01):
            health = inspector.health()
            most["threads"] = max(most["threads"], health.threads)
            most["connections"] = max(most["connections"], health.connections)
            most["tasks"] = max(most["tasks"], len(reading_threads() - others))

    with ThreadPoolExecutor(31) as pool, hanging(daemon, *uuids):
        watching = pool.submit(watch)
        try:
            for method in METHODS:
                asking = [pool.submit(ask, inspector, method, uuid) for uuid in uuids]
                for uuid, future in zip(uuids, asking):
                    answer = future.result(timeout=60)
                    if method == "inspect_vnics":
                        assert answer == well[method, uuid]
                    elif method == "inspect_instance" and isinstance(answer, list):
                        assert answer[0][0] == 1, "its power state"
                        assert answer[0][3:7] == (None,) * 4, "its memory"
                    else:
                        assert isinstance(answer, virtmeter.InspectionTimeout)
        finally:
            done.set()
        watching.result()
    assert 2 < most["threads"] <= 2 + 3
    assert most["tasks"] <= 2 + 3
    assert most["connections"] <= 2 + 3 + 3, "three may be probing"
    wait_for(lambda: cycle(inspector, uuids) == well, "all guests are back")
    wait_for(lambda: inspector.health().threads <= 2, "what was stuck is gone")
    health = inspector.health()
    assert (health.hung, health.stuck) == ({}, 0)


def test_a_guest_that_hung_while_nobody_asked_is_to_blame_and_not_libvirt(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 4)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.5)
    for _ in range(3):
        cycle(inspector, uuids, ["inspect_disks"])
    inspector.close()
    before = daemon.calls["DOMAIN_BLOCK_STATS"]
    with hanging(daemon, uuids[1]):
        assert isinstance(ask(inspector, "inspect_disks", uuids[0]), list)
        # The next ones are read ahead, and one hangs; a polling interval passes.
        assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_BLOCK_STATS"] >= before + 4)
        threading.Event().wait(1.0)
        answers = cycle(inspector, uuids, ["inspect_disks"])
        assert [type(answer) for answer in answers.values()] == [
            *(list, virtmeter.InspectionTimeout, list, list)
        ]
        assert list(inspector.health().hung) == [uuids[1]]


@pytest.mark.parametrize("procedure", FROM_GUESTS)
def test_an_answer_that_is_lost_does_not_lose_the_guest(daemon: Daemon, procedure: str) -> None:
    uuids = add_samples(daemon, 2)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.2)
    daemon.on(procedure, Never(), uuid=uuids[0])
    well = expected(uuids)
    assert cycle(inspector, uuids) != well
    wait_for(lambda: cycle(inspector, uuids) == well, "the guest is read again")


def test_a_call_that_needs_no_guest_and_hangs_all_the_same(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 3)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.5, workers=2, max_stuck=2)
    over = threading.Event()
    daemon.on("DOMAIN_INTERFACE_STATS", Then(lambda _: over.wait(60)), uuid=uuids[0], repeat=True)
    try:
        for _ in range(30):
            for uuid in uuids:
                answer = ask(inspector, "inspect_vnics", uuid)
                assert isinstance(answer, virtmeter.InspectionTimeout if uuid == uuids[0] else list)
        assert inspector.health().timeouts <= 2, "after that, it is left alone"
    finally:
        daemon.off()
        over.set()
    well = expected(uuids)
    wait_for(lambda: cycle(inspector, uuids) == well, "it is read again")


def test_connections_that_do_not_close_take_no_threads_away(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 4)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=5, workers=2, max_stuck=0)

    def all_are_open() -> bool:
        cycle(inspector, uuids)
        return inspector.health().connections >= 2

    wait_for(all_are_open, "each thread has its own")
    daemon.on("CONNECT_CLOSE", Never(), repeat=True)
    for _ in range(3):
        inspector.close()
        assert cycle(inspector, uuids) == expected(uuids)


def test_probing_threads_whose_connections_do_not_close_do_not_add_up(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 2)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.2, workers=2, max_stuck=1)
    before = reading_threads("virtmeter-probe")
    with hanging(daemon, uuids[0]):
        daemon.on("CONNECT_CLOSE", Never(), repeat=True)
        for _ in range(20):
            cycle(inspector, uuids)
            threading.Event().wait(0.1)
            inspector.close()
        assert len(reading_threads("virtmeter-probe") - before) <= 3 + 2 + 1


def test_inspectors_whose_connections_do_not_close_do_not_add_up(daemon: Daemon) -> None:
    """Whoever makes one for each call would run out of threads and descriptors."""
    released = threading.Event()
    daemon.on("CONNECT_CLOSE", Then(lambda _: released.wait()), repeat=True)

    def is_refused() -> bool:
        try:
            assert virtmeter.LibvirtInspector(daemon.uri).list_instances() == []
        except virtmeter.ConnectionLost as error:
            if "has not confirmed" not in str(error):
                raise
            return True
        return False

    try:
        for _ in range(200):
            assert not is_refused()
        wait_for(is_refused, "no more are opened", timeout=10)
        with Daemon() as another:
            assert virtmeter.LibvirtInspector(another.uri).list_instances() == []
    finally:
        released.set()
    wait_for(lambda: not is_refused(), "they are closed", timeout=10)


class Erratic(Daemon):
    """A daemon that now and then does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(4)
        self.faulty = True
        self.for_ever = 3

    def arrived(self, call: _Call) -> Answer | None:
        answer = super().arrived(call)
        if not self.faulty or not call.name.startswith(("DOMAIN_", "CONNECT_OPEN", STATS)):
            return answer
        drawn = self.chance.random()
        if drawn < 0.0001 and self.for_ever:
            self.for_ever -= 1
            return Never()
        faults: list[tuple[float, Answer]] = [
            (0.0003, Late(1.0)),
            (0.0010, HangUp()),
            (0.0015, Garbage(b"\xff" * 64)),
            (0.0100, Error(1, VIR_FROM_QEMU, "not now")),
            (0.0200, Late(0.01)),
        ]
        return next((fault for limit, fault in faults if drawn < limit), answer)


STORM = """
    import gc, json, os, sys, time, virtmeter
    from tests.support import sample
    from tests.support.procedures import Domain

    uuids = sys.argv[2:]
    methods = ("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")
    inspector = virtmeter.LibvirtInspector(
        sys.argv[1], timeout=0.3, max_age=0.2, workers=4, read_ahead=8, max_stuck=6)
    right = {(method, uuid): sample.answers(number)[method]
             for number, uuid in enumerate(uuids, 1) for method in methods}
    counted = dict.fromkeys(("right", "partial", "refused", "lost", "wrong", "threads"), 0)

    def ask(method, uuid):
        expected = right[method, uuid]
        try:
            answer = sample.read(inspector, method, uuid)
        except virtmeter.ConnectionLost:
            time.sleep(0.005)  # who polls at once again would only see the outage
            return "lost"
        except virtmeter.InspectorException:
            return "refused"
        if answer == expected:
            return "right"
        # Of a guest that hangs, something is left out, and of a device that is refused, all.
        same = [all(ours in (theirs, None) for ours, theirs in zip(mine, yours))
                for mine, yours in zip(answer, expected)]
        return "partial" if all(same) else "wrong"

    def cycle():
        for method in methods:
            for uuid in uuids:
                counted[ask(method, uuid)] += 1
        counted["threads"] = max(counted["threads"], inspector.health().threads)

    def usage():
        gc.collect()
        with open("/proc/self/statm") as statm:
            memory = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return memory, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    for _ in range(300):
        cycle()
    before = usage()
    for _ in range(700):
        cycle()
    after = usage()
    print(json.dumps([counted, before, after]), flush=True)
    sys.stdin.readline()
    deadline = time.monotonic() + 30
    while True:
        counted = dict.fromkeys(counted, 0)
        cycle()
        if counted["right"] == len(right) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    print(json.dumps(counted), flush=True)
"""


def test_a_thousand_cycles_with_random_faults() -> None:
    with Erratic() as daemon:
        uuids = add_samples(daemon, 8)
        with start(STORM, daemon.uri, *uuids) as process:
            assert process.stdout is not None
            counted, before, after = json.loads(process.stdout.readline())
            daemon.faulty = False
            output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert counted["wrong"] == 0
    assert counted["right"] > 0
    assert sum(counted[what] for what in ("partial", "refused", "lost")) > 0, "there were faults"
    assert counted["threads"] <= 4 + 6
    (memory, descriptors, threads), (memory_, descriptors_, threads_) = before, after
    assert memory_ - memory < 4 * 1024 * 1024
    assert abs(descriptors_ - descriptors) <= 4 + 6 + 3, "as many connections as there may be"
    assert max(threads, threads_) <= 1 + 4 + 6 + 3
    assert json.loads(output)["right"] == 8 * 4, "once the faults stop, everything is read again"


def test_a_fork_while_all_threads_are_in_calls(daemon: Daemon) -> None:
    uuids = add_samples(daemon, 4)
    over = threading.Event()
    stuck = [Then(lambda _: over.wait(60))] * 4
    daemon.on("DOMAIN_MEMORY_STATS", *stuck)
    script = """
        import os, sys, threading, virtmeter
        from tests.support import sample
        uuids = sys.argv[2:]
        right = [sample.answers(number)["inspect_instance"] for number in range(1, 5)]
        # Nothing is slow enough to be probed: no thread is in a part of libvirt with a lock.
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=1000)
        answers = {}
        def read(uuid):
            answers[uuid] = sample.read(inspector, "inspect_instance", uuid)
        threads = [threading.Thread(target=read, args=(uuid,)) for uuid in uuids]
        for thread in threads:
            thread.start()
        sys.stdin.readline()
        child = os.fork()
        if child == 0:
            asked = [sample.read(inspector, "inspect_instance", uuid) for uuid in uuids]
            os._exit(0 if asked == right else 2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        for thread in threads:
            thread.join()
        print([answers[uuid] for uuid in uuids] == right)
    """
    with start(script, daemon.uri, *uuids) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            arrived = "DOMAIN_MEMORY_STATS"
            assert daemon.wait_until(lambda daemon: daemon.calls[arrived] == 4, timeout=30)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "0\n"
        finally:
            over.set()
        assert process.communicate(timeout=30) == ("True\n", "")


# Some threads poll for ever; the process ends while they do.
POLLING = """
    import logging, sys, threading, time, virtmeter
    logging.basicConfig(level="DEBUG", filename="/dev/null")
    methods = ("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")
    inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=1)
    inspector.list_instances()
    def poll():
        while True:
            for method in methods:
                for uuid in sys.argv[2:]:
                    try:
                        list(getattr(inspector, method)(uuid))
                    except virtmeter.InspectorException:
                        pass
    for _ in range(4):
        threading.Thread(target=poll, daemon=True).start()
    sys.stdin.readline()
    print(time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("hangs", [(), FROM_GUESTS, (STATS,), (*FROM_GUESTS, STATS)])
def test_the_interpreter_ends_in_the_middle_of_cycles(
    daemon: Daemon, hangs: tuple[str, ...]
) -> None:
    uuids = add_samples(daemon, 6)
    asked = "DOMAIN_GET_BLOCK_INFO"
    with start(POLLING, daemon.uri, *uuids) as process:
        assert daemon.wait_until(lambda daemon: daemon.calls[asked] > 50, timeout=30)
        if hangs:
            before = sum(daemon.calls[procedure] for procedure in hangs)
            for procedure in (*hangs, "CONNECT_CLOSE"):
                daemon.on(procedure, Never(), repeat=True)
            assert daemon.wait_until(
                lambda daemon: sum(daemon.calls[procedure] for procedure in hangs) > before,
                timeout=30,
            )
        output, errors = process.communicate("\n", timeout=30)
        ended = time.monotonic()
    assert (process.returncode, errors) == (0, "")
    assert ended - float(output) < 2


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        *(("timeout", value, ValueError) for value in (0, -1, 1e9, float("nan"), float("inf"))),
        *(("max_age", value, ValueError) for value in (-1, 1e9, float("nan"))),
        *((name, -1, ValueError) for name in ("workers", "read_ahead", "max_stuck")),
        *((name, 10**30, ValueError) for name in ("workers", "read_ahead", "max_stuck")),
        ("workers", 0, ValueError),
        *((name, "x", TypeError) for name in ("timeout", "max_age", "workers", "max_stuck")),
    ],
)
def test_a_limit_out_of_range_is_refused_by_its_name(
    parameter: str, value: object, error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {parameter: value}
    with pytest.raises(error, match=parameter):
        virtmeter.LibvirtInspector("test:///default", **arguments)
