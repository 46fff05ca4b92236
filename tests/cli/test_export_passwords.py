"""``virtmeter export``: which passwords are checked, and for how many who wait."""

from __future__ import annotations

import base64
import gc
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING
from weakref import WeakSet

import bcrypt
import pytest

from tests.support.qemu import wait_for
from virtmeter.cli.export.access import Access
from virtmeter.cli.export.connections import Connection, GoneError
from virtmeter.cli.export.guard import WAITING, Guard, Turns
from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.users import Login, Seals, Users, login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path


def hashed(password: bytes, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost))


def header(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def users(path: Path, **hashes: bytes) -> Path:
    path.write_bytes(b"".join(b"%s:%s\n" % (name.encode(), each) for name, each in hashes.items()))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return users(tmp_path / "users", cheap=hashed(b"1", 4), dear=hashed(b"2", 6))


def test_whether_there_is_a_user_is_not_told_by_the_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Users(file, Seals())
    costs: list[int] = []

    def check(password: bytes, hashed: bytes) -> bool:
        costs.append(int(hashed.split(b"$")[2]))
        return checkpw(password, hashed)

    checkpw = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", check)
    for name in (b"cheap", b"dear", b"nobody", b""):
        costs.clear()
        assert not known.check(Login(name, b"wrong"))
        assert sorted(costs) == [4, 6], name
    assert known.check(Login(b"cheap", b"1"))
    assert known.check(Login(b"dear", b"2"))


def test_what_was_right_is_known_until_it_is_no_more(file: Path) -> None:
    seals = Seals()
    before = Users(file, seals)
    assert not before.know(Login(b"cheap", b"1"))
    for right in (Login(b"cheap", b"1"), Login(b"dear", b"2")):
        assert before.check(right)
        assert before.know(right)
        assert not before.know(right._replace(password=b"3"))
    dear = file.read_bytes().splitlines()[1].partition(b":")[2]
    after = Users(users(file, cheap=hashed(b"1"), dear=dear), seals)
    assert not after.know(Login(b"cheap", b"1")), "the same password, but another hash"
    assert after.know(Login(b"dear", b"2"))
    assert not Users(users(file, cheap=hashed(b"1")), seals).know(Login(b"dear", b"2"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("Basic", None),
        ("", None),
        ("Bearer x", None),
        ("Basic !", None),
        ("Basic " + base64.b64encode(b"no colon").decode(), None),
        ("Basic é", None),
        (header("a", "b:c"), Login(b"a", b"b:c")),
        ("bAsIc   " + base64.b64encode(b":").decode(), Login(b"", b"")),
        (header("a", "x" * 100), Login(b"a", b"x" * 72)),
        (header("a", "\0"), Login(b"a", b"\0")),
    ],
)
def test_a_login_is_a_name_and_a_password(what: str, said: Login | None, file: Path) -> None:
    assert login(what) == said
    if said:
        assert not Users(file, Seals()).check(said)


@pytest.mark.parametrize(("cost", "words"), [("03", "not a bcrypt hash"), ("18", "takes too long")])
def test_a_hash_that_cannot_be_checked_or_not_in_time(
    cost: str, words: str, tmp_path: Path
) -> None:
    file = users(tmp_path / "users", joe=hashed(b"").replace(b"$04$", b"$%s$" % cost.encode()))
    with pytest.raises(ValueError, match=words):
        Users(file, Seals())


class Checks:
    """A guard who checks passwords only when the test lets him."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.begun: list[bytes] = []
        self.go_on = threading.Event()
        self.waiting: WeakSet[Connection] = WeakSet()
        self.guard = Guard(Access(None, None, None, file))
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(2 * WAITING))
        stack.callback(self.go_on.set)
        check = Users.check

        def checked(users: Users, who: Login) -> bool:
            self.begun.append(who.password)
            assert self.go_on.wait(30)
            return check(users, who)

        monkeypatch.setattr(Users, "check", checked)
        add = Turns.add

        def added(turns: Turns, connection: Connection) -> None:
            add(turns, connection)
            self.waiting.add(connection)

        monkeypatch.setattr(Turns, "add", added)

    def admit(
        self, password: str, address: str = "127.0.0.1"
    ) -> tuple[socket.socket, Future[None]]:
        """Begin to let somebody in who says that he is a user, and wait until he waits."""
        theirs, ours = (self._stack.enter_context(each) for each in socket.socketpair())
        connection = Connection(ours, address)
        admitted = self._pool.submit(self.guard.admit, header("cheap", password), connection)
        wait_for(lambda: connection in self.waiting or admitted.done(), "he waits, or is answered")
        return theirs, admitted


@pytest.fixture
def checks(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checks]:
    with ExitStack() as stack:
        yield Checks(file, monkeypatch, stack)


def test_passwords_are_checked_in_order_but_not_for_who_has_gone(checks: Checks) -> None:
    clients = {password: checks.admit(password) for password in "abcde"}
    for password in "bd":
        client, admitted = clients.pop(password)
        client.close()
        with pytest.raises(GoneError):
            admitted.result(30)
    checks.go_on.set()
    for _, admitted in clients.values():
        with pytest.raises(RefusalError) as refused:
            admitted.result(30)
        assert refused.value.answer.status == 401
    assert checks.begun == [b"a", b"c", b"e"]


def test_nothing_is_left_of_who_has_gone_while_others_wait(checks: Checks) -> None:
    def come_and_go() -> None:
        client, admitted = checks.admit("b")
        client.close()
        with pytest.raises(GoneError):
            admitted.result(30)

    checks.admit("a")
    for _ in range(3):
        come_and_go()
    gc.collect()
    assert len(checks.waiting) == 1


def test_addresses_take_turns_which_nobody_has_who_has_gone(checks: Checks) -> None:
    crowd = [checks.admit(password) for password in "abcdef"]
    _, admitted = checks.admit("1", "192.0.2.1")
    for client, gone in crowd[1:4]:
        client.close()
        with pytest.raises(GoneError):
            gone.result(30)
    checks.go_on.set()
    assert admitted.result(30) is None
    for _, refused in (crowd[0], *crowd[4:]):
        with pytest.raises(RefusalError):
            refused.result(30)
    assert checks.begun == [b"a", b"1", b"e", b"f"]


def test_each_other_address_has_its_turn_before_one_has_another(checks: Checks) -> None:
    crowd = [checks.admit(password) for password in "abc"]
    others = [checks.admit(f"wrong {place}", f"192.0.{place}.1") for place in range(2)]
    checks.go_on.set()
    for _, refused in (*crowd, *others):
        with pytest.raises(RefusalError):
            refused.result(30)
    assert checks.begun == [b"a", b"wrong 0", b"wrong 1", b"b", b"c"]


def test_so_many_wait_and_the_next_one_is_told_at_once(checks: Checks) -> None:
    waiting = [checks.admit("wrong") for _ in range(WAITING)]
    _, admitted = checks.admit("1")
    with pytest.raises(RefusalError) as refused:
        admitted.result(30)
    assert refused.value.answer.status == 503
    assert "Retry-After" in dict(refused.value.answer.headers)
    waiting[1][0].close()  # who has gone makes room
    waiting[1] = checks.admit("1")
    # And so does, for another, the address that has the most.
    other = checks.admit("1", "192.0.2.1")
    with pytest.raises(GoneError):
        waiting[1][1].result(30)
    checks.go_on.set()
    assert other[1].result(30) is None


def test_who_tries_passwords_from_many_addresses_keeps_nobody_else_out(checks: Checks) -> None:
    many = [f"192.0.2.{place}" for place in range(2 * WAITING)]
    checks.go_on.set()
    for address in many:
        with pytest.raises(RefusalError):
            checks.admit("wrong", address)[1].result(30)
    checks.go_on.clear()
    waiting = [checks.admit("wrong", address) for address in many[:WAITING]]
    checks.begun.clear()
    _, admitted = checks.admit("1", "198.51.100.1")
    # Nor those that come later.
    others = [checks.admit("wrong", address) for address in many[WAITING:]]
    checks.go_on.set()
    assert admitted.result(30) is None
    assert checks.begun[:1] == [b"1"]
    for _, refused in (*waiting, *others):
        with pytest.raises((GoneError, RefusalError)):
            refused.result(30)


def test_only_the_last_addresses_of_wrong_passwords_are_remembered(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtmeter.cli.export.guard.REMEMBERED", 4)
    checks.go_on.set()
    for place in (1, 2, 3, 1, 4, 5, 6):
        with pytest.raises(RefusalError):
            checks.admit("wrong", f"192.0.2.{place}")[1].result(30)
    assert list(checks.guard._failed) == [f"192.0.2.{place}" for place in (1, 4, 5, 6)]
    assert checks.admit("1", "192.0.2.4")[1].result(30) is None
    assert list(checks.guard._failed) == [f"192.0.2.{place}" for place in (1, 5, 6)]


def test_who_is_known_waits_for_nobody(checks: Checks) -> None:
    checks.go_on.set()
    assert checks.admit("1")[1].result(30) is None
    checks.go_on.clear()
    waiting = [checks.admit("wrong") for _ in range(WAITING)]
    assert checks.admit("1")[1].result(30) is None
    assert not any(admitted.done() for _, admitted in waiting)
    checks.go_on.set()


def test_a_password_that_was_found_right_meanwhile_is_not_checked_again(checks: Checks) -> None:
    several = [checks.admit("1") for _ in range(5)]
    checks.go_on.set()
    assert [admitted.result(30) for _, admitted in several] == [None] * 5
    assert checks.begun == [b"1"]


def test_passwords_are_checked_where_no_more_threads_can_be_started(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(Access(None, None, None, file))

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    theirs, ours = socket.socketpair()
    with theirs, ours:
        guard.admit(header("cheap", "1"), Connection(ours, "127.0.0.1"))
        with pytest.raises(RefusalError):
            guard.admit(header("cheap", "2"), Connection(ours, "127.0.0.1"))
