"""HTTP's messages: a request's head, as it was sent, and the answer. One of each a connection."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

    from virtmeter.cli.export.texts import Part

LONGEST = 16384
"""Bytes of a request's head."""

MOST_FIELDS = 200
"""The most fields of a query."""

PIECE = 65536
"""Bytes that are sent at a time, and all that a client occupies of a text that is shared."""

MOST_ESCAPED = 1000
"""The most bytes of a target that are escaped, or should be."""

HEAD_ENDS = re.compile(rb"\r?\n\r?\n")

BARE_CR = re.compile(rb"\r(?!\n)")
"""HTTP has none: the standard library takes what follows two of them for a body, of many parts."""

TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What is asked for."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message


class Answer(NamedTuple):
    """What is sent back; the body in parts, which many answers may share."""

    status: HTTPStatus
    body: tuple[Part, ...]
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()

    def head(self) -> bytes:
        """Return what is sent before the body."""
        headers = (
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", self.content_type),
            ("Content-Length", sum(map(len, self.body))),
            ("Connection", "close"),
            *self.headers,
        )
        first = f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
        return (
            first + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        ).encode()

    def pieces(self, *, with_body: bool) -> Iterator[bytes]:
        """Yield all that is sent.

        :raises GoneError: a shared part was dropped meanwhile.
        """
        piece = bytearray(self.head())
        for part in self.body if with_body else ():
            for begin in range(0, len(part), PIECE):
                piece += part[begin : begin + PIECE]
                if len(piece) >= PIECE:
                    yield bytes(piece)
                    piece.clear()
        yield bytes(piece)


class RefusalError(Exception):
    """A request is not done, and the answer says why."""

    def __init__(self, status: HTTPStatus, why: str, *headers: tuple[str, str]) -> None:
        """Take a sentence for the client."""
        super().__init__(why)
        self.answer = Answer(status, (line(why),), headers=headers)


def line(text: str) -> bytes:
    """Return a sentence as it is sent; the name of a file in it need not be UTF-8."""
    return f"{text}\n".encode(errors="backslashreplace")


def receive(recv: Callable[[int], bytes]) -> bytes:
    """Receive a request up to the end of its head, or somewhat more.

    :raises EOFError: the client has hung up before that.
    :raises RefusalError: it is too long.
    """
    head, seen = b"", 0
    while not HEAD_ENDS.search(head, max(0, seen - 3)):
        if len(head) > LONGEST:
            raise RefusalError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"More than {LONGEST} bytes of headers."
            )
        chunk = recv(4096)
        if not chunk:
            raise EOFError
        seen = len(head)
        head += chunk
    return head


def parse(head: bytes) -> Request:
    """Take a request apart.

    :raises RefusalError: it is none.
    """
    end = HEAD_ENDS.search(head)
    if BARE_CR.search(head, 0, end.end() if end else len(head)):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "Malformed request.")
    try:
        parsed = _Head(head)
        if parsed.refused is not None:
            raise RefusalError(parsed.refused, "Unsupported request.")
        if sum(not char.isascii() or char == "%" for char in parsed.path) > MOST_ESCAPED:
            raise RefusalError(
                HTTPStatus.REQUEST_URI_TOO_LONG, f"More than {MOST_ESCAPED} bytes are escaped."
            )
        target = urlsplit(parsed.path)
        query = parse_qs(target.query, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusalError(HTTPStatus.BAD_REQUEST, "Malformed request.") from None
    return Request(parsed.command, unquote(target.path), query, parsed.headers)


class _Head(BaseHTTPRequestHandler):
    """The standard library's parser, without its server."""

    def __init__(self, head: bytes) -> None:
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        self.refused: HTTPStatus | None = None
        if not self.parse_request() and self.refused is None:
            self.refused = HTTPStatus.BAD_REQUEST

    def send_error(
        self,
        code: int,
        message: str | None = None,  # noqa: ARG002
        explain: str | None = None,  # noqa: ARG002
    ) -> None:
        self.refused = HTTPStatus(code)
