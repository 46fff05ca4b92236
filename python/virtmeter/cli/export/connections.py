"""A client's connection."""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
import time
from contextlib import suppress

from virtmeter.cli.export.places import network

DROP = struct.pack("ii", 1, 0)
GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class GoneError(Exception):
    """The client has hung up, or was hung up on: nobody waits for an answer."""


class Connection:
    """One client, who sends one request."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        """Take what was accepted."""
        self.socket = sock
        self.network = network(address)
        self.accepted = self.since = time.monotonic()
        self.until = self.accepted
        """When the client is hung up on, if it is to send or to receive something."""
        self.begun = False
        """Whether its thread has begun, for which there may be no memory."""
        self.received = False
        """Whether the client has the whole answer."""
        self._hung_up = False

    def gone(self) -> bool:
        """Return whether nobody waits for an answer any more."""
        poll = select.poll()
        try:
            poll.register(self.socket, GONE)
        except ValueError:  # its thread has closed it
            return True
        return bool(poll.poll(0))

    def check(self) -> None:
        """Go on if the client is there still.

        :raises GoneError: it is not.
        """
        if self.gone():
            raise GoneError

    def end_answer(self) -> None:
        """Tell the client that it was all, without waiting for it to say the same."""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.setblocking(False)
            room = select.poll()
            room.register(self.socket, select.POLLOUT)
            while True:
                try:
                    self.socket.unwrap()
                except ssl.SSLWantWriteError:
                    room.poll()
                    continue
                except OSError:  # it was told, and has not said the same yet; or it has gone
                    pass
                break
            self.socket.setblocking(True)
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def unreceived(self) -> bool:
        """Return whether something that was sent has not reached the client yet.

        :raises GoneError: it never will.
        """
        if self._hung_up or self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise GoneError
        size = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, for a socket
        return int.from_bytes(size, sys.byteorder) > 0

    def drain(self, seconds: float) -> bool:
        """Drop what the client sends, or wait so long for that; return whether more may come."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        # Not the method of a TLS socket: what it was is of no interest any more.
        return not poll.poll(seconds * 1000) or bool(socket.socket.recv(self.socket, 65536))

    def hang_up(self) -> None:
        """End it: whatever its thread waits for, it notices."""
        self._hung_up = True
        with suppress(OSError):
            if not self.received:
                # What has not reached the client is dropped: it may never take it.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP)
            # Not the method of a TLS socket, which is its thread's alone.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
