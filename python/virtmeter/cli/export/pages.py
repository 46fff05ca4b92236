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
    from virtmeter.cli.export.messages import Request
    from virtmeter.cli.export.reading import Pass, Reader
    from virtmeter.cli.export.rendering import Renderer

LOG = logging.getLogger(__name__)

PAGE = b"""<!DOCTYPE html>
<title>virtmeter</title>
<h1>virtmeter</h1>
<p>What every virtual machine on this host uses: <a href="/metrics">metrics</a> for Prometheus.</p>
"""
PAGES = {
    "/": Answer(HTTPStatus.OK, (PAGE,), "text/html; charset=utf-8"),
    "/-/healthy": Answer(HTTPStatus.OK, (b"virtmeter is healthy.\n",)),
}


class Pages:
    """Finds the answer to each request."""

    def __init__(self, reader: Reader, renderer: Renderer, deadline: float, scrapes: int) -> None:
        """Take where the metrics come from.

        :param deadline: seconds that a scrape waits for VMs if it does not say it itself.
        :param scrapes: how many may wait for metrics at a time.
        """
        self._reader, self._renderer = reader, renderer
        self._deadline = deadline
        self._scrapes: Places[Connection] = Places(scrapes, last)

    def answer(self, request: Request, connection: Connection) -> Answer:
        """Return the answer.

        :raises RefusalError: there is none.
        :raises GoneError: the client has not waited for it.
        """
        if request.method not in ("GET", "HEAD"):
            raise RefusalError(
                HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is supported.", ("Allow", "GET, HEAD")
            )
        if request.path == "/metrics":
            return self._metrics(request, connection)
        if request.path not in PAGES:
            raise RefusalError(HTTPStatus.NOT_FOUND, "Not found; see /metrics.")
        return PAGES[request.path]

    def _metrics(self, request: Request, connection: Connection) -> Answer:
        """Return the metrics, in time for the scrape."""
        header = request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "")
        until = connection.accepted + time_to_read(header, self._deadline)

        def time_left(current: Pass) -> float:
            return until - self._renderer.time_for(current) - time.monotonic()

        names = request.query.get("name[]")
        form = formats.choose(
            request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", "")
        )
        if names is not None:
            form = form._replace(gzip=False)
        try:
            with self._scrapes.held(connection):
                current = self._reader.read(time_left, connection.check)
                body = self._renderer.render(current, form, names, connection.check)
        except FullError:
            LOG.warning("%d scrapes are already waiting: refusing more", self._scrapes.size)
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many concurrent scrapes; try again.",
                ("Retry-After", "1"),
            ) from None
        encoding = (("Content-Encoding", "gzip"),) if form.gzip else ()
        return Answer(HTTPStatus.OK, body, form.content_type, encoding)


def time_to_read(header: str, deadline: float) -> float:
    """Return for how long a scrape may wait; the rest of Prometheus' timeout is for the answer."""
    try:
        seconds = float(header)
    except ValueError:
        return deadline
    if not 0 < seconds < threading.TIMEOUT_MAX:
        return deadline
    return seconds - min(max(0.5, seconds / 10), seconds / 2)
