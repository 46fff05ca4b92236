"""Who is logged in."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.xapi.records import ApiError


class Account(NamedTuple):
    """A user: a read-only one may write nothing; one without a role may not even read."""

    password: str
    role: str = "pool-admin"


@dataclass
class Sessions:
    """The sessions of a pool; they are valid on every host."""

    accounts: dict[str, Account]
    #: How many of a user there may be; the oldest go.
    most: int = 500
    #: How many seconds a wrong password costs (5 on a real host).
    penalty: float = 0.0
    #: How many seconds each login takes.
    delay: float = 0.0
    #: Answer every login with this error's code, as SESSION_AUTHENTICATION_FAILED or
    #: HOST_STILL_BOOTING.
    refusal: tuple[str, ...] = ()
    logins: int = 0
    refused: int = 0
    open: dict[str, str] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def login(self, user: str, password: str) -> str:
        self.closing.wait(self.delay)
        account = self.accounts.get(user)
        with self._lock:
            self.logins += 1
            right = account is not None and account.password == password
            if not right:
                self.refused += 1
        if self.refusal:
            raise ApiError(*self.refusal)
        if not right:
            self.closing.wait(self.penalty)
            raise ApiError("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        session = f"OpaqueRef:{uuid.uuid4()}"
        with self._lock:
            of_user = [each for each, whose in self.open.items() if whose == user]
            for oldest in of_user[: max(len(of_user) - self.most + 1, 0)]:
                del self.open[oldest]
            self.open[session] = user
        return session

    def logout(self, session: str) -> None:
        with self._lock:
            self.open.pop(session, None)

    def expire(self) -> None:
        """End all sessions, as a restart of xapi does."""
        with self._lock:
            self.open.clear()

    def role(self, session: str) -> str | None:
        """Return what the user of a session may do; None: there is no such session."""
        with self._lock:
            user = self.open.get(session)
        return None if user is None else self.accounts[user].role

    def check(self, session: object, method: str, *, writes: bool) -> None:
        """Raise what a call gets that this session may not make."""
        role = self.role(str(session))
        if role is None:
            raise ApiError("SESSION_INVALID", str(session))
        if role == "none" or (writes and role == "read-only"):
            raise ApiError("RBAC_PERMISSION_DENIED", method, f"permission denied: {method}")
