"""What is answered to a request."""

from __future__ import annotations

import logging
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from virtmeter.cli.export import formats
from virtmeter.cli.export.messages import Answer, RefusalError
from virtmeter.cli.export.places import FullError, Places, last

if TYPE_CHECKING:
    from virtmeter.cli.export.connections import Connection
    from virtmeter.cli.export.formats import Format
    from virtmeter.cli.export.messages import Request
    from virtmeter.cli.export.reading import Pass, Reader
    from virtmeter.cli.export.rendering import Renderer
    from virtmeter.cli.export.texts import Part

LOG = logging.getLogger(__name__)

MOMENT = 0.25
"""Seconds that a pass may have to wait for a thread though few others are read."""

PAGE = b"""<!DOCTYPE html>
<title>virtmeter</title>
<h1>virtmeter</h1>
<p>What every virtual machine on this host uses: <a href="/metrics">metrics</a> for Prometheus.</p>
"""
HEALTHY = Answer(HTTPStatus.OK, (b"virtmeter is healthy.\n",))
HTML = "text/html; charset=utf-8"
PAGES = {"/": Answer(HTTPStatus.OK, (PAGE,), HTML), "/-/healthy": HEALTHY}


class Scrapes:
    """Answers scrapes in time, with what was read by then."""

    def __init__(self, deadline: float, most: int) -> None:
        """Take the bounds.

        :param deadline: seconds that a scrape waits for VMs if it does not say it itself.
        :param most: how many may wait for metrics at a time.
        """
        self._deadline = deadline
        self._places: Places[Connection] = Places(most, last)

    def answer(
        self, request: Request, connection: Connection, reader: Reader, renderer: Renderer
    ) -> Answer:
        """Return the metrics of what is read.

        :raises RefusalError: too many wait for some, or too much else is read.
        :raises GoneError: the client has not waited for it.
        """
        header = request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "")
        until = connection.accepted + time_to_read(header, self._deadline)

        def time_left(current: Pass) -> float:
            return until - renderer.time_for(current) - time.monotonic()

        names = request.query.get("name[]")
        form = form_of(request)
        if names is not None:
            form = form._replace(gzip=False)
        try:
            with self._places.held(connection):
                current = reader.read(time_left, connection.check)
                if current.is_unknown():
                    if current.waited() < MOMENT:
                        reader.tell_unread("no time was left of the scrape's timeout")
                        raise RefusalError(
                            HTTPStatus.SERVICE_UNAVAILABLE, "The scrape's timeout is too short."
                        )
                    reader.tell_unread("too many other targets are being read or hang")
                    raise RefusalError(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        "Too many targets are being read; try again.",
                        ("Retry-After", "1"),
                    )
                body = renderer.render(current, form, names, connection.check)
                reader.forget()  # before it is sent
        except FullError:
            LOG.warning("%d scrapes are already waiting: refusing more", self._places.size)
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many concurrent scrapes; try again.",
                ("Retry-After", "1"),
            ) from None
        return answered(body, form)


def form_of(request: Request) -> Format:
    """Return the format that a request is answered in."""
    return formats.choose(
        request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", "")
    )


def answered(body: tuple[Part, ...], form: Format) -> Answer:
    """Return the answer with such a body."""
    encoding = (("Content-Encoding", "gzip"),) if form.gzip else ()
    return Answer(HTTPStatus.OK, body, form.content_type, encoding)


def only(request: Request, *methods: str) -> None:
    """Go on if it is one of these methods.

    :raises RefusalError: it is not.
    """
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise RefusalError(
            HTTPStatus.METHOD_NOT_ALLOWED, f"Only {methods[0]} is supported.", ("Allow", allowed)
        )


class Pages:
    """Finds the answer to each request to the exporter of one hypervisor."""

    def __init__(self, reader: Reader, renderer: Renderer, scrapes: Scrapes) -> None:
        """Take where the metrics come from."""
        self._reader, self._renderer, self._scrapes = reader, renderer, scrapes

    def answer(self, request: Request, connection: Connection) -> Answer:
        """Return the answer.

        :raises RefusalError: there is none.
        :raises GoneError: the client has not waited for it.
        """
        only(request, "GET", "HEAD")
        if request.path == "/metrics":
            return self._scrapes.answer(request, connection, self._reader, self._renderer)
        if request.path not in PAGES:
            raise RefusalError(HTTPStatus.NOT_FOUND, "Not found; see /metrics.")
        return PAGES[request.path]


def time_to_read(header: str, deadline: float) -> float:
    """Return for how long a scrape may wait; the rest of Prometheus' timeout is for the answer."""
    try:
        seconds = float(header)
    except ValueError:
        return deadline
    if not 0 < seconds < threading.TIMEOUT_MAX:
        return deadline
    return seconds - min(max(0.5, seconds / 10), seconds / 2)
