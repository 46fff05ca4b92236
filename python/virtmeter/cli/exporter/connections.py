"""A client's connection."""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress

from virtmeter.cli.exporter.places import network

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

    def hang_up(self) -> None:
        """End it: whatever its thread waits for, it notices."""
        with suppress(OSError):
            # What the client has not received is dropped: it may never take it.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP)
            # Not the method of a TLS socket, which is its thread's alone.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
