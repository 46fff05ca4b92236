"""Lets users in: at once who is known, the others one after the other, as passwords take long."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import (
    Future,
    ThreadPoolExecutor,
    TimeoutError,  # noqa: A004 - another before 3.11
)
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.places import FullError, Places, last
from virtmeter.cli.export.reading import GLANCE
from virtmeter.cli.export.users import login

if TYPE_CHECKING:
    from virtmeter.cli.export.access import Access
    from virtmeter.cli.export.connections import Connection
    from virtmeter.cli.export.users import Login

LOG = logging.getLogger(__name__)

WAITING = 8
"""Clients whose passwords are to be checked: the last of them waits 2 s if each takes 250 ms."""


class Try(NamedTuple):
    """A password that is to be checked."""

    who: Login
    connection: Connection
    right: Future[bool]


class Turns:
    """Whose password is checked next: networks take turns, and each begins with its first to come.

    So who has all other places keeps nobody waiting who comes from elsewhere.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._tries: dict[str, deque[Try]] = {}
        """By networks, in the order of their turns."""
        self._last = ""
        """The network that had the last turn."""

    def add(self, who: Login, connection: Connection) -> Future[bool]:
        """Add a try, and return whether it was right, once that is known."""
        tried = Try(who, connection, Future())
        with self._lock:
            self._tries.setdefault(connection.network, deque()).append(tried)
        return tried.right

    def next(self) -> Try | None:
        """Return whose turn it is, and forget who has gone; None if nobody is left."""
        with self._lock:
            if self._last in self._tries:  # it has had its turn
                self._tries[self._last] = self._tries.pop(self._last)
            for network in list(self._tries):
                tries = self._tries.pop(network)
                while tries:
                    tried = tries.popleft()
                    if tried.connection.gone():
                        continue
                    if tries:
                        self._tries[network] = tries
                    self._last = network
                    return tried
        return None


class Guard:
    """Who tries passwords occupies one processor at the most, and keeps nobody out who is known."""

    def __init__(self, access: Access) -> None:
        """Take who knows the users.

        :raises RuntimeError: there are some, and there can be no thread that checks passwords.
        """
        self._access = access
        self._waiting: Places[Connection] = Places(WAITING, last)
        self._turns = Turns()
        self._checking = ThreadPoolExecutor(1, "virtmeter-password")
        if access.users:
            self._checking.submit(int).result()  # later, there may be no more threads

    def admit(self, authorization: str, connection: Connection) -> None:
        """Let a user in, or everybody if there are no users.

        :raises RefusalError: this is no user, or there are too many who may be one.
        :raises GoneError: the client has not waited for it.
        """
        users = self._access.users
        if users is None:
            return
        # What is no login is refused at once: that tells nothing of who is a user.
        who = login(authorization)
        if who is None:
            raise _needs_a_user()
        if users.know(who):
            return
        try:
            with self._waiting.held(connection):
                checked = self._turns.add(who, connection)
                self._checking.submit(self._check_next)
                while True:
                    try:
                        right = checked.result(GLANCE)
                        break
                    except TimeoutError:
                        connection.check()
        except FullError:
            LOG.warning("%d passwords are already waiting to be checked: refusing more", WAITING)
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many passwords are waiting to be checked; try again.",
                ("Retry-After", "5"),
            ) from None
        if not right:
            raise _needs_a_user()

    def _check_next(self) -> None:
        """Check the password whose turn it is."""
        tried = self._turns.next()
        if tried is None:  # all have gone
            return
        who, users = tried.who, self._access.users
        try:
            tried.right.set_result(users is None or users.know(who) or users.check(who))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            tried.right.set_exception(error)


def _needs_a_user() -> RefusalError:
    return RefusalError(
        HTTPStatus.UNAUTHORIZED,
        "A user name and a password are required.",
        ("WWW-Authenticate", 'Basic realm="virtmeter", charset="UTF-8"'),
    )
