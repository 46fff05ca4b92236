"""HTTP over TLS, as the hosts speak it, with the faults that a test asks for."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.support.xapi.faults import Fault

RESET = struct.pack("ii", 1, 0)


@dataclass
class Request:
    """What a client asked."""

    verb: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


@dataclass
class Response:
    """What it gets. Without a length, the end of the connection is the end of the body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = True
    has_length: bool = True

    def head(self, more: int = 0) -> bytes:
        """Return the lines before the body; the length may be announced wrongly by some bytes."""
        version = "HTTP/1.1" if self.has_length else "HTTP/1.0"
        lines = [f"{version} {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.has_length:
            lines.append(f"Content-Length: {len(self.body) + more}")
        lines.append(f"Connection: {'close' if self.close else 'keep-alive'}")
        lines.append("Cache-Control: no-cache, no-store")
        return "\r\n".join([*lines, "", ""]).encode()


class BrokenError(Exception):
    """The connection is over, as a fault or the client wants it."""


class Connection:
    """One connection of a client, on a thread of its own."""

    def __init__(self, plain: socket.socket, closing: threading.Event) -> None:
        self.socket: socket.socket = plain
        self._closing = closing
        self._received = b""
        # Held while the socket becomes another one.
        self._lock = threading.Lock()

    def encrypt(self, context: ssl.SSLContext) -> None:
        with self._lock:
            self.socket = encrypted = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        encrypted.do_handshake()

    def stop(self) -> None:
        """Wake up the thread, from another one: ssl's own shutdown would race with it."""
        with self._lock, suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def request(self) -> Request | None:
        """Return the next request; None: the client has gone."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                return None
            if not self._received[:1].isalpha():
                raise ValueError("this is no HTTP")
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        verb, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        while len(self._received) < length:
            if not self._receive():
                return None
        body, self._received = self._received[:length], self._received[length:]
        return Request(verb, target, headers, body)

    def _receive(self) -> bool:
        data = self.socket.recv(65536)
        self._received += data
        return bool(data)

    def send(self, response: Response, fault: Fault | None) -> None:
        """Send an answer, or what a fault makes of it."""
        if fault is None:
            self.socket.sendall(response.head() + response.body)
            return
        self._wait(fault.delay)
        if fault.raw is not None:
            self.socket.sendall(fault.raw)
            raise BrokenError
        if fault.hang == "head":
            self.hang()
        if fault.reset and fault.cut is None:
            self.reset()
        if fault.status:
            body = response.body if fault.body is None else fault.body
            response = Response(fault.status, body, fault.headers, has_length=response.has_length)
        elif fault.body is not None:
            response.body = fault.body
        if fault.endless:
            response.has_length = False
        self.socket.sendall(response.head(fault.length))
        body = response.body if fault.cut is None else response.body[: fault.cut]
        if fault.hang == "body":
            self.socket.sendall(body[: len(body) // 2])
            self.hang()
        size = fault.drip or 65536
        for begin in range(0, len(body), size):
            self.socket.sendall(body[begin : begin + size])
            if fault.drip:
                self._wait(fault.pause)
        while fault.endless and not self._closing.is_set():
            self.socket.sendall(body[-65536:] or b" ")
        if fault.reset:
            self.reset()
        if fault.cut is not None or fault.length:
            raise BrokenError

    def _wait(self, seconds: float) -> None:
        if seconds and self._closing.wait(seconds):
            raise BrokenError

    def hang(self) -> None:
        """Wait until the client leaves, or the test ends."""
        leaving = select.poll()
        leaving.register(self.socket, select.POLLRDHUP)
        while not self._closing.is_set() and not leaving.poll(100):
            pass
        raise BrokenError

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise BrokenError

    def say_goodbye(self) -> None:
        """End TLS as one should: without it, a body that the end delimits would seem cut."""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(0)
            with suppress(OSError, ValueError):  # it does not wait for the client's goodbye
                self.socket.unwrap()
