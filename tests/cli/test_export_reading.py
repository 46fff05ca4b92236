"""``virtmeter export``: how long a scrape waits for a pass, and for whom one begins."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from email.message import Message
from typing import TYPE_CHECKING, Any, cast

import pytest

import virtmeter
from tests.support.qemu import wait_for
from virtmeter.cli.export import reading
from virtmeter.cli.export.messages import Request
from virtmeter.cli.export.pages import Pages, Scrapes
from virtmeter.cli.export.reading import RECENT, Pass, Reader
from virtmeter.cli.export.rendering import Renderer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtmeter.cli.export.connections import Connection


class Host:
    """An inspector of a host without VMs, whose list can be held up and can fail."""

    uri = "qemu:///system"

    def __init__(self) -> None:
        self.lists = 0
        self.go_on = threading.Event()
        self.fails_with: BaseException | None = None

    def list_instances(self) -> list[virtmeter.Instance]:
        self.lists += 1
        assert self.go_on.wait(30)
        if self.fails_with:
            raise self.fails_with
        return []

    def list_servers(self, _: Sequence[virtmeter.Instance]) -> list[virtmeter.Server]:
        return []


@pytest.fixture
def host() -> Host:
    return Host()


def reader(host: Host) -> Reader:
    return Reader(cast("virtmeter.LibvirtInspector", host))


def half_a_minute() -> Callable[[Pass], float]:
    until = time.monotonic() + 30
    return lambda _: until - time.monotonic()


def gone() -> None:
    raise ConnectionAbortedError


def test_no_pass_begins_for_who_has_gone(host: Host) -> None:
    host.go_on.set()
    ours = reader(host)
    with pytest.raises(ConnectionAbortedError):
        ours.read(half_a_minute(), gone)
    ours.read(half_a_minute())
    assert host.lists == 1


def test_who_goes_meanwhile_leaves_and_the_pass_goes_on_for_the_others(host: Host) -> None:
    ours = reader(host)
    checks = iter([lambda: None, lambda: None, gone])
    with pytest.raises(ConnectionAbortedError):
        ours.read(half_a_minute(), lambda: next(checks)())
    host.go_on.set()
    assert ours.read(half_a_minute()).complete
    assert host.lists == 1


def test_the_time_that_is_left_is_asked_for_again_as_more_is_known(host: Host) -> None:
    ours = reader(host)
    left = iter([30, 0.01, 0])
    assert not ours.read(lambda _: next(left)).ended
    assert list(left) == []
    host.go_on.set()


def test_a_pass_that_has_just_ended_serves_who_asks_then(host: Host) -> None:
    host.go_on.set()
    ours = reader(host)
    first = ours.read(half_a_minute())
    for _ in range(100):
        current = ours.read(half_a_minute())
        assert current is first or current.began - first.began >= RECENT
    time.sleep(RECENT)
    assert ours.read(half_a_minute()).began - first.began >= RECENT


VM = virtmeter.Instance("uuid-1", "one", virtmeter.PowerState.RUNNING)
OTHER = virtmeter.Instance("uuid-2", "two", virtmeter.PowerState.RUNNING)
NOVAS: Any = virtmeter.Server._make([VM.id, *(None,) * (len(virtmeter.Server._fields) - 1)])


class Sick:
    """An inspector of a host with a VM of Nova's, which can refuse to be read, and another."""

    uri = "qemu:///system"

    def __init__(self) -> None:
        self.refuses = False
        self.lists = 0

    def list_instances(self) -> list[virtmeter.Instance]:
        return [VM, OTHER]

    def list_servers(self, _: Sequence[virtmeter.Instance]) -> list[virtmeter.Server]:
        self.lists += 1
        return [] if self.refuses else [NOVAS]

    def _inspect(self, instance: virtmeter.Instance) -> list[object]:
        if self.refuses and instance is VM:
            raise virtmeter.NoDataException("refused")
        return []

    def inspect_instance(self, instance: virtmeter.Instance) -> virtmeter.InstanceStats:
        self._inspect(instance)
        return virtmeter.InstanceStats()

    def inspect_details(self, instance: virtmeter.Instance) -> virtmeter.InstanceDetails:
        self._inspect(instance)
        return virtmeter.InstanceDetails(instance.state, *(None,) * 11, [], [], [])

    inspect_vnics = inspect_disks = inspect_disk_info = _inspect


@pytest.fixture
def no_pass_is_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RECENT", 0.0)


@pytest.mark.usefixtures("no_pass_is_recent")
def test_of_a_vm_that_could_not_be_read_it_is_not_said_that_it_is_not_novas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Sick()
    reader = Reader(cast("virtmeter.LibvirtInspector", host))
    host.refuses = True
    for _ in range(3):
        current = reader.read(half_a_minute())
        assert current.complete
        assert (current.servers, current.described) == ({}, {OTHER.id})
    assert host.lists == 1, "not at every pass"
    host.refuses = False
    monkeypatch.setattr(reading, "METADATA_RETRY", 0.0)
    current = reader.read(half_a_minute())
    assert (current.servers, current.described) == ({VM.id: NOVAS}, {VM.id, OTHER.id})


@pytest.mark.usefixtures("no_pass_is_recent")
def test_what_is_known_of_novas_stays_while_a_vm_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "METADATA_AGE", 0.0)
    host = Sick()
    reader = Reader(cast("virtmeter.LibvirtInspector", host))
    for host.refuses in (False, True, True):
        current = reader.read(half_a_minute())
        assert (current.servers, current.described) == ({VM.id: NOVAS}, {VM.id, OTHER.id})
    assert host.lists == 3


@pytest.mark.usefixtures("no_pass_is_recent")
def test_nothing_is_held_of_a_pass_in_which_a_vm_was_refused() -> None:
    """An exception that is kept would keep its traceback, and the pass with that."""
    host = Sick()
    host.refuses = True
    reader = Reader(cast("virtmeter.LibvirtInspector", host))
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        renderer = Renderer(inspector.health)
        current = reader.read(half_a_minute())
        assert reading.failures(current.answers)
        renderer.render(current)
        gone = weakref.ref(current)
        gc.disable()
        try:
            del current
            reader.read(half_a_minute())
            wait_for(lambda: gone() is None, "the pass is freed")
        finally:
            gc.enable()


class PanicException(BaseException):
    """What a panic of the core is to Python."""


def test_after_a_pass_that_fails_in_any_way_comes_the_next_one(host: Host) -> None:
    host.go_on.set()
    ours = reader(host)
    host.fails_with = PanicException("a panic")
    failed = ours.read(half_a_minute())
    assert failed.failure is host.fails_with
    assert not failed.reached
    host.fails_with = None
    time.sleep(RECENT)
    assert ours.read(half_a_minute()).complete


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("10", 9),
        ("2", 1.5),
        ("0.6", 0.3),
        *((nonsense, 8) for nonsense in ("", "x", "nan", "inf", "-1", "0", "1e300")),
    ],
)
def test_a_scrape_waits_until_there_is_just_the_time_to_render(
    header: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def time_for(self, _: Pass) -> float:
            return 0.125

        def render(self, *_: object) -> tuple[bytes, ...]:
            return (b"text",)

    class Asked:
        left: float
        is_forgotten = False

        def forget(self) -> None:
            self.is_forgotten = True

        def read(self, time_left: Callable[[Pass], float], _: object) -> Pass:
            current = Pass()
            self.left = time_left(current)
            return current

    class Client:
        network, since, accepted = "here", 0.0, 1000.0 - 0.0625  # and so long it took to ask

        def check(self) -> None:
            """Be there still."""

    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    asked: Any = Asked()
    headers = Message()
    headers["X-Prometheus-Scrape-Timeout-Seconds"] = header
    pages = Pages(asked, cast("Renderer", Slow()), Scrapes(8, 1))
    request = Request("GET", "/metrics", {}, headers)
    assert pages.answer(request, cast("Connection", Client())).body == (b"text",)
    assert asked.left == pytest.approx(seconds - 0.0625 - 0.125)
    assert asked.is_forgotten, "the text is all that is held while it is sent"


def test_a_want_of_memory_costs_no_more_than_that_reading(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.go_on.set()
    ours = reader(host)

    def allocate(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as without:
        without.setattr(ours._workers, "begin", allocate)
        with pytest.raises(MemoryError):
            ours.read(half_a_minute())
    with monkeypatch.context() as without:
        without.setattr(reading.LOG, "warning", allocate)
        without.setattr("virtmeter.cli.export.workers.LOG.warning", allocate)
        host.fails_with = MemoryError()
        assert ours.read(half_a_minute()).ended
    host.fails_with = None
    time.sleep(RECENT)
    assert ours.read(half_a_minute()).complete
