"""Lets users in: at once who is known, the others one after the other, as passwords take long."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor, TimeoutError  # noqa: A004 - another before 3.11
from http import HTTPStatus
from typing import TYPE_CHECKING

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


class Guard:
    """Who tries passwords occupies one processor at the most, and keeps nobody out who is known."""

    def __init__(self, access: Access) -> None:
        """Take who knows the users.

        :raises RuntimeError: there are some, and there can be no thread that checks passwords.
        """
        self._access = access
        self._waiting: Places[Connection] = Places(WAITING, last)
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
                checked = self._checking.submit(self._check, who, connection)
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

    def _check(self, who: Login, connection: Connection) -> bool:
        """Check a password when it is its turn, and its client waits still."""
        connection.check()
        users = self._access.users
        return users is None or users.know(who) or users.check(who)


def _needs_a_user() -> RefusalError:
    return RefusalError(
        HTTPStatus.UNAUTHORIZED,
        "A user name and a password are required.",
        ("WWW-Authenticate", 'Basic realm="virtmeter", charset="UTF-8"'),
    )
