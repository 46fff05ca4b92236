"""What becomes of targets over time: who is closed, who is read unasked, whose certificate ends."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import click
import pytest

import virtmeter
from tests.support import sample
from tests.support.libvirtd import Daemon, Never
from tests.support.remote import eventually, size
from tests.support.threads import WITHOUT_MEMORY
from tests.support.xapi import PASSWORD, Pool, synthetic
from virtmeter.cli import certificates, connection, targets
from virtmeter.cli.export import fleet as lives
from virtmeter.cli.export import fleet_pages, logs, messages
from virtmeter.cli.export.access import Access
from virtmeter.cli.export.connections import Connection, GoneError
from virtmeter.cli.export.fleet import Entry, Fleet
from virtmeter.cli.export.fleet_pages import RELOADS, FleetPages
from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.pages import Scrapes
from virtmeter.cli.export.reading import RECENT, Reader
from virtmeter.cli.export.reload import Reload
from virtmeter.cli.export.server import LEAST
from virtmeter.cli.export.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DESCRIPTORS = 100_000


@pytest.fixture
def pool() -> Iterator[Pool]:
    with synthetic(hosts=1, vms=3, delay=0.0) as pool:
        yield pool


@pytest.fixture
def file(tmp_path: Path, daemon: Daemon, pool: Pool) -> Path:
    daemon.add(sample.domain())
    (tmp_path / "pass").write_text(PASSWORD)
    file = tmp_path / "targets.toml"
    file.write_text(
        f'[targets.kvm]\nuri = "{daemon.uri}"\n'
        f'[targets.pool]\nuri = "{pool.uri()}&password_file={tmp_path}/pass"\n'
    )
    return file


@pytest.fixture
def fleet(file: Path) -> Iterator[Fleet]:
    fleet = Fleet(file, targets.Defaults(), Workers(4), DESCRIPTORS)
    yield fleet
    fleet.close()


def read(fleet: Fleet, name: str) -> None:
    assert fleet.open(name).reader.read(lambda _: 30).complete


def body(pages: FleetPages, asked: messages.Request) -> bytes:
    end, theirs = socket.socketpair()
    with end, theirs:
        answer = pages.answer(asked, Connection(end, "127.0.0.1"))
        return b"".join(part[:] for part in answer.body)


def test_a_target_that_nobody_asks_for_is_closed(fleet: Fleet, daemon: Daemon, pool: Pool) -> None:
    for name in ("kvm", "pool"):
        read(fleet, name)
    now = time.monotonic()
    fleet.look_after(now + lives.KEPT - 1)
    assert daemon.open_connections
    assert pool.count("session.logout") == 0
    [kvm, _] = fleet.entries()
    kvm.asked += 10  # it was asked for again
    fleet.look_after(now + lives.KEPT + 1)
    eventually(lambda: pool.count("session.logout") == 1)
    assert daemon.open_connections
    fleet.look_after(now + 3 * lives.KEPT)
    eventually(lambda: not daemon.open_connections)
    for name in ("kvm", "pool"):
        read(fleet, name)
    assert pool.count("session.login_with_password") == 2


def test_what_a_pool_forgets_is_read_before_that_and_libvirt_is_left_alone(
    fleet: Fleet, daemon: Daemon
) -> None:
    for name in ("kvm", "pool"):
        read(fleet, name)
    reader, pace = fleet.open("pool").reader, lives.PACE["xenserver"]
    first = reader.last()
    assert first is not None
    eventually(lambda: not first.is_recent())
    calls = sum(daemon.calls.values())
    fleet.look_after(first.began + pace - 1)
    assert not reader.is_reading()
    fleet.look_after(first.began + pace + 1)
    eventually(lambda: getattr(reader.last(), "began", 0.0) > first.began)
    second = reader.last()
    assert second is not None
    assert second.complete
    assert sum(daemon.calls.values()) == calls


def test_nothing_of_a_reading_is_held_when_it_serves_nobody(fleet: Fleet) -> None:
    read(fleet, "kvm")
    reader = fleet.open("kvm").reader
    last = reader.last()
    assert last is not None
    assert last.answers
    eventually(lambda: not last.is_recent())
    fleet.look_after(time.monotonic())
    forgotten = reader.last()
    assert forgotten is not None
    assert (forgotten.answers, forgotten.instances, forgotten.known) == ([], [], {})
    assert (forgotten.began, forgotten.vms, forgotten.complete) == (last.began, 1, True)


def test_one_that_failed_is_closed_at_once_as_well(fleet: Fleet, daemon: Daemon) -> None:
    """An exception that is kept would keep its traceback, and that all that reads."""
    read(fleet, "kvm")
    reader = fleet.open("kvm").reader
    time.sleep(RECENT)
    daemon.stop()
    failure = reader.read(lambda _: 30).failure
    assert isinstance(failure, virtmeter.ConnectionLost)
    gone = weakref.ref(reader)
    gc.disable()
    try:
        del reader
        fleet.look_after(time.monotonic() + 2 * lives.KEPT)
        eventually(lambda: gone() is None)
    finally:
        gc.enable()


def test_no_session_is_left_by_a_reading_that_is_under_way_at_the_end(
    fleet: Fleet, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "SETTLING", 30.0)
    pool.hosts[0].fail(path="/rrd_updates", delay=0.3)
    reader = fleet.open("pool").reader
    reader.begin()
    eventually(lambda: pool.count("GET /rrd_updates"))
    fleet.close()
    eventually(lambda: not reader.is_reading())
    assert pool.count("session.login_with_password") == pool.count("session.logout") == 1
    time.sleep(RECENT)
    reader.begin()  # as for a request that is still being answered
    eventually(lambda: not reader.is_reading())
    assert not pool.sessions.open


@pytest.mark.parametrize("bounded_by", ["descriptors", "number"])
def test_targets_of_libvirt_give_way_to_each_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bounded_by: str,
) -> None:
    file = tmp_path / "targets.toml"
    one_needs = 2 * (2 * 4 + 18)
    with Daemon() as first, Daemon() as second, Daemon() as third:
        daemons = {"first": first, "second": second, "third": third}
        file.write_text(
            "".join(f'[targets.{name}]\nuri = "{each.uri}"\n' for name, each in daemons.items())
        )
        if bounded_by == "number":
            monkeypatch.setattr(lives, "MOST_CONNECTED", 2)
        enough = 2 if bounded_by == "descriptors" else 3
        fleet = Fleet(file, targets.Defaults(), Workers(4), enough * one_needs)
        for name in daemons:
            read(fleet, name)
        eventually(lambda: not first.open_connections)
        assert second.open_connections
        assert third.open_connections
        for daemon in (second, third):
            daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), repeat=True)
        eventually(lambda: not fleet.open("third").reader.last().is_recent())  # type: ignore[union-attr]
        for name in ("second", "third"):
            fleet.open(name).reader.begin()
        eventually(
            lambda: all(fleet.open(each).reader.is_reading() for each in ("second", "third"))
        )
        with pytest.raises(RefusalError, match="Too many targets"):
            fleet.open("first")
    (line,) = (each for each in caplog.messages if "no other target" in each)
    assert "all that may be connected (2) are being read" in line
    assert ("LimitNOFILE=" in line) == (bounded_by == "descriptors")


def test_pools_and_vcenters_are_reckoned_with_where_descriptors_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "targets.toml"
    one_needs, of_others = 2 * (2 * 4 + 18), connection.OF_OTHERS
    begun, go_on = [], threading.Event()

    def hang(self: Reader, *_: object) -> None:
        begun.append(self)
        go_on.wait(60)

    monkeypatch.setattr("virtmeter.cli.export.workers.SLOW", 0.1)
    (tmp_path / "pass").write_text(PASSWORD)
    others = [
        f'[targets.{scheme}{number}]\nuri = "{scheme}://u@127.0.0.1:1/?password_file={file}"\n'
        for number in range(4)
        for scheme in ("xenserver", "vsphere")
    ]
    with Daemon() as first, Daemon() as second:
        kvm = [f'[targets.k{n}]\nuri = "{d.uri}"\n' for n, d in enumerate((first, second))]
        file.write_text("".join(kvm + others))
        least = 5 * of_others
        fleet = Fleet(file, targets.Defaults(), Workers(4), least + 2 * one_needs - 1)
        assert fleet.others_take() == least, "so many are read at a time"
        (line,) = caplog.messages
        assert "up to 5 of 8 pools and vCenters are read at a time" in line
        # There is room for one of libvirt's beside them.
        read(fleet, "k0")
        read(fleet, "k1")
        eventually(lambda: not first.open_connections)
        # Nothing is taken from who has plenty.
        assert (
            Fleet(file, targets.Defaults(), Workers(4), DESCRIPTORS).others_take() == 8 * of_others
        )
        monkeypatch.setattr(Reader, "_run", hang)
        for name in fleet.read():
            if not name.startswith("k"):
                fleet.open(name).reader.begin()
        try:
            eventually(lambda: len(begun) == 4)  # the fifth is for those that have failed
            time.sleep(1)
            assert len(begun) == 4
        finally:
            go_on.set()
        eventually(lambda: len(begun) == len(others))
        # It is not begun with what would not do for one of libvirt's beside them.
        monkeypatch.setattr(connection, "limit", lambda: connection.OWN + LEAST + least + one_needs)
        fleet.read()
        monkeypatch.setattr(connection, "limit", lambda: LEAST + least + one_needs)
        with pytest.raises(click.ClickException, match="file descriptors are needed"):
            fleet.read()
        file.write_text("".join(kvm + others[:4]))
        fleet.take(fleet.read())
        assert fleet.others_take() == 4 * of_others


def test_one_of_libvirts_that_hangs_does_not_give_way(tmp_path: Path) -> None:
    """Its threads and connections would be left behind, and as many more each time."""
    file = tmp_path / "targets.toml"
    one_needs = 2 * (2 * 4 + 18)
    with Daemon() as first, Daemon() as second, Daemon() as hangs:
        hangs.on("CONNECT_OPEN", Never(), repeat=True)
        file.write_text(
            f'[targets.hangs]\nuri = "{hangs.uri}"\ntimeout = 0.2\n'
            f'[targets.first]\nuri = "{first.uri}"\n[targets.second]\nuri = "{second.uri}"\n'
        )
        fleet = Fleet(file, targets.Defaults(), Workers(4), 2 * one_needs)
        opened = fleet.open("hangs")
        assert not opened.reader.read(lambda _: 30).reached
        eventually(lambda: opened.inspector.health().stuck)
        for _ in range(3):
            for name in ("first", "second"):
                read(fleet, name)
        assert fleet.open("hangs") is opened
        fleet.look_after(time.monotonic() + 2 * lives.KEPT)
        assert [entry.opened for entry in fleet.entries()] == [opened, None, None]


def test_a_password_that_was_refused_is_not_tried_again_after_an_hour(
    fleet: Fleet, pool: Pool, tmp_path: Path
) -> None:
    (tmp_path / "pass").write_text("wrong")
    for hours in range(1, 4):
        assert not fleet.open("pool").reader.read(lambda _: 30).reached
        fleet.look_after(time.monotonic() + 2 * hours * lives.KEPT)
    assert pool.count("session.login_with_password") == 1


def test_what_is_logged_is_about_its_target_whoever_asks(
    fleet: Fleet, pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caplog.handler, "filters", [logs.named])
    read(fleet, "pool")
    reader = fleet.open("pool").reader
    pool.hosts[0].fail(path="/rrd_updates", status=500)
    time.sleep(RECENT)
    reader.begin()
    eventually(lambda: (reader.health(), caplog.messages)[1])
    assert all(line.startswith("pool: ") for line in caplog.messages), caplog.messages


def test_no_more_than_some_requests_wait_for_a_reload(fleet: Fleet) -> None:
    """They would take all connections from scrapes: there is one reload a second."""
    go_on = threading.Event()

    class Slow:
        def now(self) -> str:
            go_on.wait(30)
            return "reloaded"

    pages = FleetPages(fleet, cast("Reload", Slow()), Scrapes(8.0, 1))
    asked = messages.parse(b"POST /-/reload HTTP/1.1\r\n\r\n")
    ends, theirs = zip(*(socket.socketpair() for _ in range(RELOADS + 1)))
    *connections, one_more = (Connection(end, "127.0.0.1") for end in ends)
    with ThreadPoolExecutor(RELOADS) as clients:
        try:
            waiting = [clients.submit(pages.answer, asked, each) for each in connections]
            eventually(lambda: len(pages.reloads.all()) == RELOADS)
            with pytest.raises(RefusalError, match="Too many requests wait for a reload"):
                pages.answer(asked, one_more)
        finally:
            go_on.set()
        assert {each.result().status for each in waiting} == {200}
    for end in (*ends, *theirs):
        end.close()


def test_who_asks_in_the_middle_of_a_reload_finds_every_target(fleet: Fleet) -> None:
    seen = []

    class Slow(dict[str, targets.Target]):
        def items(self) -> Any:
            for item in super().items():
                yield item
                seen.append([entry.target.name for entry in fleet.entries()])
                fleet.open("pool")

    fleet.take(Slow(fleet.read()))
    assert seen == [["kvm", "pool"]] * 2


def test_pages_are_written_once_however_many_ask(
    fleet: Fleet, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_pages, "RECENT", 60)
    written = []
    entries = fleet.entries

    def counted() -> list[Entry]:
        written.append(1)
        return entries()

    monkeypatch.setattr(fleet, "entries", counted)
    reload = Reload(Access(None, None, None, None), fleet)
    pages = FleetPages(fleet, reload, Scrapes(8.0, 1))
    for path in ("/targets", "/", "/metrics"):
        asked = messages.parse(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        written.clear()
        first = body(pages, asked)
        for _ in range(9):
            assert body(pages, asked) == first
        assert len(written) == 1, path
    file.write_text(file.read_text() + '[targets.other]\nuri = "test:///default"\n')
    fleet.take(fleet.read())
    for path in ("/targets", "/", "/metrics"):
        asked = messages.parse(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert b"other" in body(pages, asked), path


def test_until_when_a_certificate_is_good_is_known_where_that_matters(pool: Pool) -> None:
    place = pool.uri().partition("?")[0]
    assert certificates.expires(pool.uri(), 30) is None, "it is pinned"
    assert certificates.expires(f"{place}?insecure=1", 30) is None
    by_a_ca = certificates.expires(place, 30)
    assert by_a_ca is not None
    assert by_a_ca > time.time()


def test_a_certificate_is_looked_at_once_an_hour(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def expires(uri: str, _: float) -> float:
        asked.append(uri)
        return 7.0

    monkeypatch.setattr(certificates, "expires", expires)
    [kvm, pool] = fleet.entries()
    for name in ("kvm", "pool"):
        read(fleet, name)
    for looks in (1, 1, 2):
        if looks == 2:
            assert pool.looked is not None
            pool.looked -= lives.LOOKED
        fleet.look_after(time.monotonic())
        wanted = [pool.target.uri] * looks
        eventually(lambda wanted=wanted: asked == wanted)  # type: ignore[misc]
    assert (kvm.expires, pool.expires) == (None, 7.0)
    fleet.look_after(time.monotonic() + 2 * lives.KEPT)
    assert pool.expires is None, "it may be another one by now"


def test_what_has_failed_leaves_threads_to_what_has_not() -> None:
    workers = Workers(4)
    go_on, begun = threading.Event(), []

    def hang() -> None:
        begun.append(1)
        go_on.wait(30)

    for _ in range(10):
        workers.begin(hang, doubtful=True)
    eventually(lambda: len(begun) == 2)
    done = threading.Event()
    workers.begin(done.set)
    assert done.wait(30)
    assert len(begun) == 2
    go_on.set()
    eventually(lambda: len(begun) == 10)


@pytest.mark.parametrize("slow", [0.1, 60.0])
def test_readings_that_take_long_give_their_turn_to_others(
    monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    monkeypatch.setattr("virtmeter.cli.export.workers.SLOW", slow)
    workers = Workers(2)
    go_on, begun, done = threading.Event(), [], threading.Event()

    def hang() -> None:
        begun.append(1)
        go_on.wait(30)

    try:
        for _ in range(5):
            workers.begin(hang)
        workers.begin(done.set)
        if slow < 1:
            assert done.wait(20)
        else:
            eventually(lambda: len(begun) == 2)
            assert not done.wait(0.2)
    finally:
        go_on.set()
    assert done.wait(20)
    eventually(lambda: len(begun) == 5)


def occupy(begun: threading.Event, go_on: threading.Event) -> None:
    begun.set()
    go_on.wait(30)


def test_one_that_waits_for_a_thread_in_vain_is_not_taken_for_away(
    fleet: Fleet, daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    workers = Workers(1)
    shared = Fleet(fleet.file, targets.Defaults(), workers, DESCRIPTORS)
    pages = FleetPages(shared, Reload(Access(None, None, None, None), shared), Scrapes(0.5, 10))
    asked = messages.parse(b"GET /probe?target=kvm HTTP/1.1\r\n\r\n")
    go_on = threading.Event()
    try:
        for _ in range(2):  # never read, and well the last time
            go_on.clear()
            occupied = threading.Event()
            workers.begin(partial(occupy, occupied, go_on))
            assert occupied.wait(30)
            caplog.clear()
            with pytest.raises(RefusalError) as refused:
                body(pages, asked)
            assert refused.value.answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert "too many other targets are being read or hang" in caplog.text
            go_on.set()
            read(shared, "kvm")
            time.sleep(RECENT)
        daemon.stop()
        eventually(lambda: not shared.open("kvm").reader.read(lambda _: 30).reached)
        go_on.clear()
        workers.begin(lambda: go_on.wait(30), doubtful=True)
        time.sleep(RECENT)
        assert b"\nvirtmeter_up 0.0\n" in body(pages, asked), "as it was the last time"
    finally:
        go_on.set()
        shared.close()


@pytest.mark.parametrize("timeout", ["0.05", "0.01", "1e-9"])
def test_a_scrape_whose_timeout_is_too_short_is_told_that(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    timeout: str,
) -> None:
    monkeypatch.setattr("virtmeter.cli.export.pages.MOMENT", 30.0)  # on a busy machine
    workers = Workers(1)
    shared = Fleet(fleet.file, targets.Defaults(), workers, DESCRIPTORS)
    pages = FleetPages(shared, Reload(Access(None, None, None, None), shared), Scrapes(8, 10))
    header = f"X-Prometheus-Scrape-Timeout-Seconds: {timeout}"
    asked = messages.parse(f"GET /probe?target=kvm HTTP/1.1\r\n{header}\r\n\r\n".encode())
    go_on, occupied = threading.Event(), threading.Event()
    workers.begin(partial(occupy, occupied, go_on))  # no thread is that fast
    assert occupied.wait(30)
    try:
        with pytest.raises(RefusalError, match="timeout is too short") as refused:
            body(pages, asked)
        assert refused.value.answer.status == HTTPStatus.SERVICE_UNAVAILABLE
        assert "no time was left of the scrape's timeout" in caplog.text
        assert "other targets" not in caplog.text
    finally:
        go_on.set()
        shared.close()


def test_one_that_gets_its_thread_at_the_last_moment_is_not_taken_for_away(
    fleet: Fleet, daemon: Daemon
) -> None:
    daemon.on("CONNECT_OPEN", Never(), repeat=True)
    workers = Workers(1)
    shared = Fleet(fleet.file, targets.Defaults(), workers, DESCRIPTORS)
    pages = FleetPages(shared, Reload(Access(None, None, None, None), shared), Scrapes(2.0, 10))
    asked = messages.parse(b"GET /probe?target=kvm HTTP/1.1\r\n\r\n")
    try:
        workers.begin(lambda: time.sleep(1.7))
        with pytest.raises(RefusalError) as refused:
            body(pages, asked)
        assert refused.value.answer.status == HTTPStatus.SERVICE_UNAVAILABLE
        assert b"\nvirtmeter_up 0.0\n" in body(pages, asked), "it has had its time"
    finally:
        shared.close()


def test_where_there_can_be_no_more_threads_what_has_failed_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(4)

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("virtmeter.cli.export.workers.start_new_thread", start)
    done = threading.Event()
    workers.begin(done.set, doubtful=True)
    assert done.wait(30)


def test_what_takes_long_to_write_is_written_once_for_all_who_have_waited_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not for who has gone: the lines of 10,000 targets take longer than they are recent."""
    now = 0.0
    asked: list[float] = []
    written: list[str] = []

    def monotonic() -> float:
        asked.append(now)
        return now

    def write(what: str) -> bytes:
        nonlocal now
        now += 2 * RECENT
        written.append(what)
        return what.encode()

    def ask(what: str) -> bytes:
        return pages._recent(what, partial(write, what), here)

    unused: Any = None
    fleet: Any = SimpleNamespace(taken=1)
    here: Any = SimpleNamespace(check=lambda: None)
    pages = FleetPages(fleet, unused, unused)
    monkeypatch.setattr(fleet_pages, "time", SimpleNamespace(monotonic=monotonic))
    with ThreadPoolExecutor(8) as pool:
        with pages._lock:
            texts = [pool.submit(ask, what) for what in "abcd" * 2]
            eventually(lambda: len(asked) == 8)
        assert [text.result() for text in texts] == [what.encode() for what in "abcd" * 2]
    assert sorted(written) == list("abcd")

    def gone() -> None:
        raise GoneError

    here.check = gone
    with pytest.raises(GoneError):
        ask("e")
    assert "e" not in written
    # Nor is a target opened for it.
    fleet.open = lambda _: pytest.fail("it is opened for nobody")
    probe: Any = SimpleNamespace(path="/probe", method="GET", query={"target": ["a"]})
    with pytest.raises(GoneError):
        pages.answer(probe, here)


WAITS_FOR_OTHERS = f"""{WITHOUT_MEMORY}
import os, threading
from virtmeter.cli.export.workers import Workers

workers = Workers(4)
occupied, go_on = threading.Event(), threading.Event()
workers.begin(lambda: (occupied.set(), go_on.wait()))
occupied.wait()
done = [threading.Event() for _ in range(3)]
lost.append(True)
for each in done:
    workers.begin(each.set)
for each in done:
    each.wait()
os._exit(0)
"""


def test_a_thread_that_has_no_memory_to_begin_with_holds_up_no_reading() -> None:
    command = [sys.executable, "-c", WAITS_FOR_OTHERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reading_that_fails_ends_no_thread() -> None:
    workers = Workers(1)
    for _ in range(3):
        workers.begin(lambda: 1 / 0)
    done = threading.Event()
    workers.begin(done.set)
    assert done.wait(30)


def test_a_thousand_targets_need_no_thousand_threads(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "pass").write_text("x")
    uri = f"xenserver://u@127.0.0.1:{port}/?insecure=1&password_file={tmp_path}/pass"
    file = tmp_path / "targets.toml"
    file.write_text("".join(f'[targets.t{n}]\nuri = "{uri}"\n' for n in range(1000)))
    fleet = Fleet(file, targets.Defaults(), Workers(4), DESCRIPTORS)
    before = size()[0]
    for entry in fleet.entries():
        assert not fleet.open(entry.target.name).reader.read(lambda _: 30).reached
    assert sum(entry.opened is not None for entry in fleet.entries()) == 1000
    eventually(lambda: size()[0] < before + 20)
