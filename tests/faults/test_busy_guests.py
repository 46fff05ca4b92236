"""Real guests that are saved, dumped, restored, migrated or killed while they are polled."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

import virtmeter
from tests.faults.test_hung_guests import devices, still
from tests.support.oracle import METHODS
from tests.support.polling import Answers, cycle
from tests.support.procedures import (
    NOWAIT,
    VIR_DOMAIN_PAUSED,
    VIR_DOMAIN_PAUSED_DUMP,
    VIR_DOMAIN_PAUSED_MIGRATION,
    VIR_DOMAIN_PAUSED_SAVE,
    VIR_DOMAIN_PAUSED_SNAPSHOT,
    VIR_DOMAIN_PAUSED_STARTING_UP,
    VIR_DOMAIN_PAUSED_USER,
)
from tests.support.qemu import Guest, Libvirtd, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from typing_extensions import Self

TIMEOUT = 4.0
STATES = libvirt.VIR_DOMAIN_STATS_STATE
NEED_JOB = ("inspect_disks", "inspect_disk_info")
SNAPSHOT = """
<domainsnapshot><name>busy</name><memory file='{target}' snapshot='external'/><disks>
<disk name='vda' snapshot='no'/><disk name='vdb' snapshot='no'/></disks></domainsnapshot>
"""


@pytest.fixture(scope="module")
def guests(rig: Libvirtd) -> Iterator[list[Guest]]:
    with rig.bulk(4) as guests:
        # The first bulk reading of a libvirtd looks at the whole host, for a second or two, and
        # holds the lock of its domain meanwhile.
        with closing(rig.connect()) as conn:
            conn.getAllDomainStats()
        yield guests


@pytest.fixture
def inspector(rig: Libvirtd) -> Iterator[virtmeter.LibvirtInspector]:
    with virtmeter.LibvirtInspector(rig.uri, timeout=TIMEOUT) as inspector:
        yield inspector


class Fifo:
    """A file that takes a guest's memory as slowly as a test wants."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end: int | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._discard)

    def open(self) -> None:
        """Let it be opened to write: whoever does that waits until it can be read."""
        self._end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def drain(self) -> None:
        """Take all that is written, from now on. libvirt opens an image twice."""
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._end is not None:
            os.close(self._end)

    def _discard(self) -> None:
        assert self._end is not None
        while not self._closed.wait(0.01):
            with suppress(BlockingIOError):
                while os.read(self._end, 1 << 16):
                    pass


@pytest.fixture
def fifo(rig: Libvirtd) -> Iterator[Fifo]:
    fifo = Fifo(rig.directory / f"{uuid.uuid4()}.fifo")
    yield fifo
    fifo.close()
    fifo.path.unlink(missing_ok=True)


@contextmanager
def under_way(guest: Guest, action: Callable[[libvirt.virDomain], object]) -> Iterator[Future[Any]]:
    """Let something happen to a guest meanwhile, to its end."""
    with ThreadPoolExecutor(1) as pool, closing(guest.rig.connect()) as conn:
        yield pool.submit(action, guest.domain(conn))


def state(guest: Guest) -> list[int]:
    with closing(guest.rig.connect()) as conn:
        return list(guest.domain(conn).state())


def answers_at_once(guest: Guest) -> bool:
    """Whether its lock is free, and QEMU is so far that it has its vCPUs and its NIC."""
    with closing(guest.rig.connect()) as conn:
        [(_, stats)] = conn.domainListGetStats([guest.domain(conn)], 0, NOWAIT)
        return "vcpu.0.time" in stats and "net.0.rx.bytes" in stats


def back(guest: Guest) -> None:
    """Have the guest as it was, whatever has become of it."""
    with closing(guest.rig.connect()) as conn:
        domain = guest.domain(conn)
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()
        for snapshot in domain.listAllSnapshots():
            snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        if not domain.isActive():
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        elif domain.state() != [VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER]:
            if domain.state()[0] == VIR_DOMAIN_PAUSED:
                domain.resume()
            domain.suspend()


def all_are_read(inspector: virtmeter.LibvirtInspector, guests: Sequence[Guest]) -> bool:
    """Whether all is told of them in the next cycle."""
    return {type(answer) for answer in cycle(inspector, uuids_of(guests)).values()} == {list}


def uuids_of(guests: Sequence[Guest]) -> list[str]:
    return [guest.uuid for guest in guests]


def assert_complete(answers: Answers, before: Answers, guests: Sequence[Guest]) -> None:
    for guest in guests:
        for method in METHODS:
            now, then = answers[method, guest.uuid], before[method, guest.uuid]
            assert still(now) == still(then), (method, guest.name)


def is_paused(answers: Answers, guest: Guest) -> bool:
    answer = answers["inspect_instance", guest.uuid]
    return isinstance(answer, list) and answer[0][0] == VIR_DOMAIN_PAUSED


def assert_told(answers: Answers, before: Answers, guest: Guest) -> None:
    """What libvirt knows of a guest that is busy; and what needs its job, or that it is busy.

    It has run just before, so its counters need not stand still.
    """
    answer = answers["inspect_instance", guest.uuid]
    assert isinstance(answer, list), answer
    [stats] = answer
    assert isinstance(stats, virtmeter.InstanceStats)
    assert stats.power_state == VIR_DOMAIN_PAUSED
    assert stats.cpu_time is not None
    for method in ("inspect_vnics", *NEED_JOB):
        now, then = answers[method, guest.uuid], before[method, guest.uuid]
        if method == "inspect_vnics" or not isinstance(now, virtmeter.InstanceBusyException):
            assert devices(now) == devices(then)


def assert_quiet(inspector: virtmeter.LibvirtInspector, caplog: pytest.LogCaptureFixture) -> None:
    health = inspector.health()
    assert (health.hung, health.timeouts, health.stuck, health.outage) == ({}, 0, 0, None)
    assert caplog.messages == []


def assert_busy(inspector: virtmeter.LibvirtInspector, guest: Guest, word: str) -> None:
    busy = inspector.health().busy
    assert list(busy) == [guest.uuid]
    assert word in busy[guest.uuid][1]


def save(target: Path, domain: libvirt.virDomain) -> None:
    domain.save(str(target))


def managed_save(_: Path, domain: libvirt.virDomain) -> None:
    domain.managedSave(0)


def dump(target: Path, domain: libvirt.virDomain) -> None:
    domain.coreDump(str(target), 0)


def memory_dump(target: Path, domain: libvirt.virDomain) -> None:
    domain.coreDump(str(target), libvirt.VIR_DUMP_MEMORY_ONLY)


def snapshot(target: Path, domain: libvirt.virDomain) -> None:
    domain.snapshotCreateXML(SNAPSHOT.format(target=target), 0)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (save, VIR_DOMAIN_PAUSED_SAVE),
        (managed_save, VIR_DOMAIN_PAUSED_SAVE),
        (dump, VIR_DOMAIN_PAUSED_DUMP),
        (memory_dump, VIR_DOMAIN_PAUSED_DUMP),
        (snapshot, VIR_DOMAIN_PAUSED_SNAPSHOT),
    ],
)
def test_a_guest_whose_memory_is_written_slowly(
    rig: Libvirtd,
    guests: list[Guest],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
    fifo: Fifo,
    action: Callable[[Path, libvirt.virDomain], None],
    reason: int,
) -> None:
    """Its job is free for whoever asks QEMU something, so there is nothing to wait for."""
    guest, *others = guests
    guest.resume()  # it waits for an operating system, which is running, too
    uuids = uuids_of(guests)
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    if action is managed_save:
        images = rig.directory / "private/var/lib/libvirt/qemu/save"
        fifo.path = fifo.path.rename(images / f"{guest.name}.save")
    fifo.open()
    with ExitStack() as stack:
        stack.callback(back, guest)
        done = stack.enter_context(under_way(guest, lambda domain: action(fifo.path, domain)))
        stack.callback(fifo.drain)
        wait_for(lambda: state(guest) == [VIR_DOMAIN_PAUSED, reason], "it is busy")
        wait_for(lambda: is_paused(cycle(inspector, uuids), guest), "that is seen")
        for _ in range(3):
            answers = cycle(inspector, uuids)
            assert_told(answers, before, guest)
            assert_complete(answers, before, others)
        assert not done.done()
        assert_quiet(inspector, caplog)
    done.result()
    wait_for(lambda: all_are_read(inspector, guests), "it is read again")
    assert inspector.health().busy == {}
    assert_quiet(inspector, caplog)


def test_a_guest_that_is_restored_slowly(
    rig: Libvirtd,
    guests: list[Guest],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
    fifo: Fifo,
) -> None:
    """Nobody gets its job meanwhile, and control info says that it were free."""
    guest, *others = guests
    uuids = uuids_of(guests)
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    image = rig.directory / "saved"
    with under_way(guest, lambda domain: save(image, domain)) as done:
        done.result()
    whole = image.read_bytes()
    image.unlink()

    def restore(domain: libvirt.virDomain) -> None:
        flags = libvirt.VIR_DOMAIN_SAVE_PAUSED
        domain.connect().restoreFlags(str(fifo.path), None, flags)

    with ExitStack() as stack:
        stack.callback(back, guest)
        done = stack.enter_context(under_way(guest, restore))
        half = len(whole) // 2
        image_now = stack.enter_context(Writer(fifo.path))
        image_now.write(whole[:half])
        busy = [VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_STARTING_UP]
        wait_for(lambda: state(guest) == busy and answers_at_once(guest), "it starts")
        for _ in range(3):
            answers = cycle(inspector, uuids)
            assert_told(answers, answers, guest)
            for method in NEED_JOB:
                refused = answers[method, guest.uuid]
                assert isinstance(refused, virtmeter.InstanceBusyException)
            assert_complete(answers, before, others)
            assert_busy(inspector, guest, "start")
        assert not done.done()
        assert_quiet(inspector, caplog)
        image_now.write(whole[half:])
        image_now.end()
        done.result()
        # It says for as long as it is paused that it were for a migration. It is not busy.
        assert state(guest) == [VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION]
        wait_for(lambda: all_are_read(inspector, guests), "it is read again")
        assert inspector.health().busy == {}
        assert_quiet(inspector, caplog)


class Writer:
    """Writes to a FIFO as fast as it is read, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks: SimpleQueue[bytes] = SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def write(self, data: bytes) -> None:
        self._chunks.put(data)

    def end(self) -> None:
        """Write what is left, and close it."""
        self._ended.set()
        self._chunks.put(b"")
        self._thread.join()

    def _run(self) -> None:
        while (end := self._open()) is None:
            if self._ended.wait(0.01):
                return
        with suppress(BrokenPipeError), os.fdopen(end, "wb", buffering=0) as file:
            while chunk := self._chunks.get():
                while chunk:
                    chunk = chunk[file.write(chunk) :]

    def _open(self) -> int | None:
        """Open it once it is being read."""
        try:
            end = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None
        os.set_blocking(end, True)
        return end


class Relay:
    """A migration's way from one host to the other, on which nothing moves before it is told."""

    PATH = "/run/virtmeter-migration"

    def __init__(self, source: Libvirtd, destination: Libvirtd) -> None:
        self.uri = f"unix:{self.PATH}"
        self._there = f"{destination.directory}/private{self.PATH}"
        self._moves = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{source.directory}/private{self.PATH}")
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._moves.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # of a migration that has not come so far
        self._thread.join()
        self._listener.close()

    def go_on(self) -> None:
        self._moves.set()

    def _run(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        with client, socket.socket(socket.AF_UNIX) as server:
            self._moves.wait()
            server.connect(self._there)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._pump, server, client)
                self._pump(client, server)

    @staticmethod
    def _pump(source: socket.socket, destination: socket.socket) -> None:
        """Hand on what comes, until one of them has ended."""
        try:
            while data := source.recv(1 << 16):
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_a_guest_that_migrates_slowly(
    rig: Libvirtd,
    guests: list[Guest],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest, *others = guests
    uuids = uuids_of(guests)
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)

    def migrate(domain: libvirt.virDomain) -> None:
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
        domain.migrate3(conn, {libvirt.VIR_MIGRATE_PARAM_URI: relay.uri}, flags)

    with ExitStack() as stack:
        destination = stack.enter_context(Libvirtd("destination.example"))
        conn = stack.enter_context(closing(destination.connect()))
        conn.getAllDomainStats()
        there = stack.enter_context(
            virtmeter.LibvirtInspector(destination.uri, timeout=TIMEOUT, max_age=0)
        )
        assert there.list_instances() == []
        arriving = Guest(destination, guest.what, guest.xml)
        stack.callback(back, guest)
        relay = stack.enter_context(Relay(rig, destination))
        done = stack.enter_context(under_way(guest, migrate))
        stack.callback(relay.go_on)

        def arrives() -> bool:
            states = [domain.state() for domain in conn.listAllDomains()]
            busy = [VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION]
            return states == [busy] and answers_at_once(arriving)

        wait_for(arrives, "it arrives")
        for _ in range(3):
            # On this side its QEMU may wait for the other side, and then it does hang.
            assert_complete(cycle(inspector, uuids_of(others)), before, others)
            answers = cycle(there, [guest.uuid])
            assert len(devices(answers["inspect_vnics", guest.uuid])) == 1
            assert_told(answers, answers, arriving)
            for method in NEED_JOB:
                refused = answers[method, guest.uuid]
                assert isinstance(refused, virtmeter.InstanceBusyException)
                assert "is busy: paused for migration" in str(refused)
            assert [usage.id for usage in there.usage_all()] == [guest.uuid]
            assert_busy(there, arriving, "migration")
        assert not done.done()
        assert_quiet(inspector, caplog)
        assert_quiet(there, caplog)
        relay.go_on()
        done.result()
        wait_for(lambda: all_are_read(there, [arriving]), "it is read where it is now")
        assert there.health().busy == {}
        wait_for(lambda: not all_are_read(inspector, [guest]), "it is gone")
        gone = cycle(inspector, uuids)
        assert isinstance(gone["inspect_disks", guest.uuid], virtmeter.InstanceShutOffException)
        assert_complete(gone, before, others)
        assert_quiet(inspector, caplog)
        assert_quiet(there, caplog)
        arriving.destroy()


def wait_until_the_list_hangs(rig: Libvirtd, stack: ExitStack) -> Callable[[], None]:
    """Return what waits for that. Ask for it before what ends the hanging is on the stack."""
    conn = stack.enter_context(closing(rig.connect()))
    pool = stack.enter_context(ThreadPoolExecutor(1))

    def hangs() -> bool:
        asked = pool.submit(conn.getAllDomainStats, STATES)
        return bool(wait([asked], timeout=0.5).not_done)

    return lambda: wait_for(hangs, "the list hangs")


def test_a_guest_that_is_saved_to_storage_that_is_gone(
    rig: Libvirtd, guests: list[Guest], inspector: virtmeter.LibvirtInspector, fifo: Fifo
) -> None:
    """Its lock is held for as long as the file cannot be opened."""
    guest, *others = guests
    listed = inspector.list_instances()
    inspector.usage_all()
    cycle(inspector, uuids_of(guests))
    before = cycle(inspector, uuids_of(guests))
    with ExitStack() as stack:
        stack.callback(back, guest)
        wait_until_it_hangs = wait_until_the_list_hangs(rig, stack)
        done = stack.enter_context(under_way(guest, lambda domain: save(fifo.path, domain)))
        stack.callback(fifo.drain)
        stack.callback(fifo.open)
        wait_until_it_hangs()
        for _ in range(3):
            assert inspector.list_instances() == listed
            assert_complete(cycle(inspector, uuids_of(others)), before, others)
            usages = {usage.id: usage for usage in inspector.usage_all()}
            assert all(usages[uuid].memory_total is not None for uuid in uuids_of(others))
        wait_for(lambda: set(inspector.health().locked) == {guest.uuid}, "it is found")
        assert inspector.health().list_hangs
        assert inspector.health().outage is None
        assert not done.done()
    done.result()
    wait_for(lambda: inspector.health().list_hangs is None, "the list comes")
    assert set(inspector.health().locked) == set()
    wait_for(lambda: all_are_read(inspector, guests), "all are read again")
    assert inspector.list_instances() == listed
    assert inspector.health().hung == {}


def test_a_guest_that_takes_long_to_die(rig: Libvirtd, guests: list[Guest]) -> None:
    """One that SIGTERM does not reach: libvirtd waits for ten seconds, and holds its lock."""
    guest, *others = guests
    with virtmeter.LibvirtInspector(rig.uri, timeout=1) as inspector, ExitStack() as stack:
        listed = {each.id for each in inspector.list_instances()}
        cycle(inspector, uuids_of(guests))
        before = cycle(inspector, uuids_of(guests))
        locked = set()
        stack.callback(back, guest)
        wait_until_it_hangs = wait_until_the_list_hangs(rig, stack)
        guest.sigstop()
        done = stack.enter_context(under_way(guest, libvirt.virDomain.destroy))
        wait_until_it_hangs()
        while not done.done():
            assert {each.id for each in inspector.list_instances()} == listed
            assert_complete(cycle(inspector, uuids_of(others)), before, others)
            locked |= set(inspector.health().locked)
            assert inspector.health().outage is None
        done.result()
        assert guest.uuid in locked

        def is_shut_off() -> bool:
            states = {each.id: each.state for each in inspector.list_instances()}
            return states[guest.uuid] == virtmeter.PowerState.SHUTOFF

        wait_for(is_shut_off, "the list is new")
        health = inspector.health()
        assert (health.list_hangs, set(health.locked)) == (None, set())
        guest.start()
        wait_for(lambda: all_are_read(inspector, guests), "all are read again")
        assert inspector.health().hung == {}
