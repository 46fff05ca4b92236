"""Lets users in: at once who is known, the others one after the other, as passwords take long."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING

from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.places import FullError, Places, last
from virtmeter.cli.export.reading import GLANCE
from virtmeter.cli.export.users import login

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from virtmeter.cli.export.access import Access
    from virtmeter.cli.export.connections import Connection

LOG = logging.getLogger(__name__)

WAITING = 8
"""Clients whose passwords are to be checked: the last of them waits 2 s if each takes 250 ms."""


REMEMBERED = 1024
"""Networks that the last wrong passwords have come from."""


class Turns:
    """Whose password is checked next: networks take turns, and each begins with its first to come.

    So who has all other places keeps nobody waiting who comes from elsewhere.
    """

    def __init__(self, failed: Container[str]) -> None:
        """Begin with none; networks that have failed come after the others."""
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: dict[str, list[Connection]] = {}
        """By networks, in the order of their turns."""
        self._is_taken = False

    @contextmanager
    def turn(self, connection: Connection) -> Iterator[None]:
        """Wait for a turn, and have it for as long as a block runs.

        :raises GoneError: the client has not waited for it.
        """
        network = connection.network
        with self._changed:
            self.add(connection)
            try:
                while self._is_taken or self._next() is not connection:
                    connection.check()
                    self._changed.wait(GLANCE)
                self._is_taken = True
            finally:
                self._waiting[network].remove(connection)
                if not self._waiting[network]:
                    del self._waiting[network]
                if not self._is_taken:  # it has gone
                    self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                if network in self._waiting:  # it has had its turn
                    self._waiting[network] = self._waiting.pop(network)
                self._changed.notify_all()

    def add(self, connection: Connection) -> None:
        """Have somebody wait. The lock is held."""
        self._waiting.setdefault(connection.network, []).append(connection)

    def _next(self) -> Connection | None:
        """Return whose turn it is, of those who are there still. The lock is held."""
        networks = sorted(self._waiting, key=self._failed.__contains__)  # which keeps their order
        everybody = chain.from_iterable(self._waiting[network] for network in networks)
        return next((each for each in everybody if not each.gone()), None)


class Guard:
    """Who tries passwords occupies one processor at the most, and keeps nobody out who is known."""

    def __init__(self, access: Access) -> None:
        """Take who knows the users."""
        self._access = access
        self._failed: dict[str, None] = {}
        """Networks whose last password was wrong, the last one last."""
        self._places: Places[Connection] = Places(WAITING, self._choose)
        self._turns = Turns(self._failed)

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
            # In this client's own thread: who has gone leaves nothing behind that is to be done.
            with self._places.held(connection), self._turns.turn(connection):
                users = self._access.users
                right = users is None or users.know(who) or users.check(who)
                self._remember(connection.network, right=right)
        except FullError:
            LOG.warning("%d passwords are already waiting to be checked: refusing more", WAITING)
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many passwords are waiting to be checked; try again.",
                ("Retry-After", "5"),
            ) from None
        if not right:
            raise _needs_a_user()

    def _choose(self, taken: Sequence[Connection]) -> Connection:
        """Choose who has to go: of whom a wrong password has come, if there is one.

        So who tries passwords from many addresses keeps out nobody else.
        """
        failed = [each for each in taken if each.network in self._failed or each.gone()]
        return last(failed or taken)

    def _remember(self, network: str, *, right: bool) -> None:
        """Remember whether the last password of a network was right; called by one at a time."""
        self._failed.pop(network, None)
        if not right:
            self._failed[network] = None
            if len(self._failed) > REMEMBERED:
                del self._failed[next(iter(self._failed))]


def _needs_a_user() -> RefusalError:
    return RefusalError(
        HTTPStatus.UNAUTHORIZED,
        "A user name and a password are required.",
        ("WWW-Authenticate", 'Basic realm="virtmeter", charset="UTF-8"'),
    )
