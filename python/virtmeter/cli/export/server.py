"""The HTTP server: a thread for each connection, which has one request."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import time
from _thread import start_new_thread
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from virtmeter.cli.export import messages
from virtmeter.cli.export.connections import Connection, GoneError
from virtmeter.cli.export.guard import WAITING, Guard
from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.places import Places, slow

if TYPE_CHECKING:
    from virtmeter.cli.export.access import Access
    from virtmeter.cli.export.messages import Answer, Request

LOG = logging.getLogger(__name__)

BACKLOG = 512
"""Clients that are connected, as far as they know, but not accepted yet."""

BUFFER = 256 * 1024
"""Bytes that the kernel takes of an answer for a client that does not receive: half of what it may
occupy itself for that, which without a bound can be 4 MB."""

TO_SEND, TO_RECEIVE, TO_HANG_UP = 10.0, 10.0, 1.0
"""Seconds that a client has for TLS' handshake and its request, then for the answer, and then to
hang up."""

TICK = 0.5
"""Seconds after which is looked who is too slow."""

LEAST, MOST = 4 * WAITING, 512
"""Connections at a time, as there are descriptors for so many."""


class Answers(Protocol):
    """Who finds the answer to each request."""

    def answer(self, request: Request, connection: Connection) -> Answer:
        """Return the answer.

        :raises RefusalError: there is none.
        :raises GoneError: the client has not waited for it.
        """


class Bounds(NamedTuple):
    """How many connections there may be at a time."""

    all: int
    """More are not accepted before others have ended."""
    clients: int
    """That are to send or to receive something."""
    scrapes: int
    """That wait for metrics."""


def bounds(descriptors: int) -> Bounds:
    """Return the bounds for so many descriptors.

    What is left over is for passwords, and for those who were hung up on and are about to leave.
    """
    most = max(LEAST, min(MOST, descriptors))
    return Bounds(most, most // 2, most // 4)


def bound_to(host: str, port: int) -> socket.socket:
    """Return a socket with this address, the first one of a name that this host has.

    ``::`` is IPv4's as well, whatever net.ipv6.bindv6only says; without IPv6 it is IPv4's alone.

    :raises OSError: that cannot be.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if host == "::":
        found += socket.getaddrinfo("0.0.0.0", port, type=socket.SOCK_STREAM)
    missing = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, _, _, _, address in found:
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # the kernel has no IPv6
            missing = error
            continue
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(address)
        except OSError as error:
            made.close()
            if error.errno != errno.EADDRNOTAVAIL:  # it is switched off
                raise
            missing = error
        else:
            return made
    raise missing


class Server:
    """Listens, and answers each request in a thread of its own.

    A client that is to send or to receive something is hung up on when that takes too long, or when
    there are too many of them. While it waits for an answer it is not: ``guard`` and ``pages``
    bound how many do.
    """

    def __init__(self, host: str, port: int, access: Access, pages: Answers, bound: Bounds) -> None:
        """Listen.

        :raises OSError: that cannot be.
        """
        self._access, self._guard, self._pages = access, Guard(access), pages
        self._most = bound.all
        self._clients: Places[Connection] = Places(bound.clients, slow)
        self._open: set[Connection] = set()
        self._looked = time.monotonic()
        self._listener = bound_to(host, port)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # of each connection
        self._listener.listen(BACKLOG)
        self._listener.settimeout(TICK)
        address = self._listener.getsockname()
        self.port: int = address[1]
        # With the scope of an address that is only good on one link, fe80::1%eth0.
        self.host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)

    def serve_forever(self) -> NoReturn:
        """Answer requests, until a signal's handler raises something."""
        while True:
            self._hang_up_on_the_late()
            if len(self._open) >= self._most:  # who was hung up on is about to leave
                time.sleep(0.01)
                continue
            try:
                sock, (address, *_) = self._listener.accept()
            except socket.timeout:
                continue
            except OSError as error:  # as when there are no descriptors left
                LOG.warning("cannot accept a connection: %s", error.strerror)
                time.sleep(TICK)
                continue
            self._begin(Connection(sock, address))

    def _begin(self, connection: Connection) -> None:
        """Let a thread talk to a client."""
        self._open.add(connection)
        try:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._access.tls:
                connection.socket = self._access.tls.wrap_socket(
                    connection.socket, server_side=True, do_handshake_on_connect=False
                )
            self._clients_turn(connection, TO_SEND)
            # Not by threading, which waits for ever for a thread without memory to begin with.
            start_new_thread(self._talk, (connection,))
        except OSError as error:  # it has gone again
            LOG.debug("cannot serve a connection: %s", error)
            self._end(connection)
        except RuntimeError:  # there can be no thread
            LOG.warning(
                "cannot serve a connection, as no thread can be started for it: check the limits "
                "(ulimit -u, TasksMax)"
            )
            self._end(connection)
        except MemoryError:
            self._end(connection)
            with suppress(MemoryError):
                LOG.warning(
                    "cannot serve a connection, for lack of memory: check the limits (ulimit -v)"
                )

    def _talk(self, connection: Connection) -> None:
        connection.begun = True
        try:
            if isinstance(connection.socket, ssl.SSLSocket):
                connection.socket.do_handshake()
            with_body = True
            try:
                head = messages.receive(connection.socket.recv)
                with_body = not head.startswith(b"HEAD ")  # also where it is malformed
                request = messages.parse(head)
                self._clients.leave(connection)
                self._guard.admit(request.headers.get("Authorization", ""), connection)
                answer = self._pages.answer(request, connection)
            except RefusalError as refusal:
                answer = refusal.answer
            self._send(connection, answer, with_body=with_body)
        except GoneError:  # or its answer has
            connection.hang_up()
        except (OSError, EOFError) as error:
            LOG.debug("a client disconnected or does not use TLS: %s", error)
        except Exception as error:  # noqa: BLE001 - nothing is to end in a traceback
            # Not its text: the client may have chosen that, and could fill the log.
            LOG.warning("cannot answer a request: %s", type(error).__name__)
        finally:
            self._end(connection)

    def _send(self, connection: Connection, answer: Answer, *, with_body: bool) -> None:
        """Send an answer, wait until the client has it, and for a moment for it to hang up.

        Until it has it, nothing is closed: what waits in the kernel could be lost. Nor may anything
        be unread that the client has sent, as that would make closing an error for it.
        """
        self._clients_turn(connection, TO_RECEIVE)
        for piece in answer.pieces(with_body=with_body):
            connection.socket.sendall(piece)
        connection.end_answer()
        more = True
        while connection.unreceived():
            if more:
                more = connection.drain(TICK)
            else:
                time.sleep(TICK / 10)
        connection.received, connection.until = True, time.monotonic() + TO_HANG_UP
        connection.since = 0.0  # it has had its time, and gives way to others at first
        while more:
            more = connection.drain(TICK)

    def _clients_turn(self, connection: Connection, seconds: float) -> None:
        """Give a client time; when there are too many, one loses it."""
        connection.until = time.monotonic() + seconds
        loser = self._clients.enter(connection)
        if loser:
            loser.hang_up()

    def _hang_up_on_the_late(self) -> None:
        now = time.monotonic()
        if now - self._looked < TICK:
            return
        self._looked = now
        for connection in self._clients.all():
            if connection.until < now:
                self._clients.leave(connection)
                connection.hang_up()
        for connection in self._open.copy():
            if connection.until < now and not connection.begun:
                LOG.warning(
                    "cannot serve a connection, as its thread did not begin in time: check the "
                    "limits (ulimit -v)"
                )
                connection.hang_up()
                self._open.discard(connection)

    def _end(self, connection: Connection) -> None:
        self._clients.leave(connection)
        connection.socket.close()
        self._open.discard(connection)
