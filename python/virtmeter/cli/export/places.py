"""Bounds how many connections wait for a thing, and decides which has to go when they are more.

Who holds many connections takes places from himself: it is one of the address that has the most.
"""

from __future__ import annotations

import ipaddress
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

GRACE = 1.0
"""Seconds in which a client is not taken for a slow one while there are others to choose from."""


class Waiting(Protocol):
    """A connection, as far as it matters here."""

    network: str
    """Where it comes from, see :func:`network`."""
    since: float
    """When it came to the place that it has, by the monotonic clock."""

    def gone(self) -> bool:
        """Return whether the client has hung up."""

    def hang_up(self) -> None:
        """End it. Its thread notices."""


Client = TypeVar("Client", bound=Waiting)


class FullError(Exception):
    """There is no place for one more of this address."""


class Places(Generic[Client]):
    """So many connections, each in the place that it waits in."""

    def __init__(self, size: int, choose: Callable[[Sequence[Client]], Client]) -> None:
        """Take how many there are, and how to choose who goes when there is one more."""
        self.size = size
        self._choose = choose
        self._lock = threading.Lock()
        self._taken: dict[Client, None] = {}

    def enter(self, newcomer: Client) -> Client | None:
        """Take a place, and return who has lost his for that: nobody, another, or the newcomer."""
        with self._lock:
            newcomer.since = time.monotonic()
            self._taken[newcomer] = None
            if len(self._taken) <= self.size:
                return None
            loser = self._choose(tuple(self._taken))
            del self._taken[loser]
            return loser

    def leave(self, connection: Client) -> None:
        """Give a place back, if it is there still."""
        with self._lock:
            self._taken.pop(connection, None)

    def all(self) -> tuple[Client, ...]:
        """Return who has a place."""
        with self._lock:
            return tuple(self._taken)

    @contextmanager
    def held(self, newcomer: Client) -> Iterator[None]:
        """Have a place for as long as a block runs; another may be hung up on for that.

        :raises FullError: there is none.
        """
        loser = self.enter(newcomer)
        if loser is newcomer:
            raise FullError
        try:
            if loser:
                loser.hang_up()
            yield
        finally:
            self.leave(newcomer)


def slow(taken: Sequence[Client]) -> Client:
    """Choose among clients that are to send or to receive something.

    At random, so that who is quick has a chance however many come: the oldest or the youngest would
    always be the honest one, for some way to attack.
    """
    late = time.monotonic() - GRACE
    crowd = _largest_crowd(taken)
    return random.choice([each for each in crowd if each.since < late] or crowd)


def last(taken: Sequence[Client]) -> Client:
    """Choose among clients that wait for us: the last to come, but at first who has hung up."""
    for each in taken:
        if each.gone():
            return each
    return _largest_crowd(taken)[-1]


def _largest_crowd(taken: Sequence[Client]) -> list[Client]:
    """Return the connections of the network that has the most, in their order."""
    sizes = Counter(each.network for each in taken)
    largest = max(sizes.values())
    return [each for each in taken if sizes[each.network] == largest]


def network(address: str) -> str:
    """Return what stands for all that one client can come from: of IPv6, the first 64 bits."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
