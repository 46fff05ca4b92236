"""What is answered to a request to the exporter of many targets: names only, never a URI."""

from __future__ import annotations

import gzip
import json
import threading
import time
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from virtmeter.cli.export import fleet_metrics
from virtmeter.cli.export.messages import Answer, RefusalError, line
from virtmeter.cli.export.pages import HEALTHY, HTML, answered, form_of, only
from virtmeter.cli.export.places import FullError, Places, last
from virtmeter.cli.export.reading import RECENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtmeter.cli.export.connections import Connection
    from virtmeter.cli.export.fleet import Fleet
    from virtmeter.cli.export.formats import Format
    from virtmeter.cli.export.messages import Request
    from virtmeter.cli.export.pages import Scrapes
    from virtmeter.cli.export.reload import Reload

PAGE = """<!DOCTYPE html>
<title>virtmeter</title>
<h1>virtmeter</h1>
<p>What the virtual machines of these targets use, for Prometheus:</p>
<ul>
%s</ul>
<p><a href="/metrics">This exporter's own metrics</a>, <a href="/targets">its targets</a> for
<code>http_sd_configs</code>.</p>
"""
JSON = "application/json"

RELOADS = 32
"""Requests that wait for a reload at a time: there is one a second."""


class FleetPages:
    """Finds the answer to each request."""

    def __init__(self, fleet: Fleet, reload: Reload, scrapes: Scrapes) -> None:
        """Take where they come from."""
        self._fleet, self._reload, self._scrapes = fleet, reload, scrapes
        self.reloads: Places[Connection] = Places(RELOADS, last)
        self._lock = threading.Lock()
        self._written: dict[str | Format, tuple[float, int, bytes]] = {}
        """Pages by path, this exporter's own metrics by format: when, and of which targets."""

    def answer(self, request: Request, connection: Connection) -> Answer:
        """Return the answer.

        :raises RefusalError: there is none.
        :raises GoneError: the client has not waited for it.
        """
        if request.path == "/-/reload":
            only(request, "POST")
            return self._reloaded(connection)
        only(request, "GET", "HEAD")
        if request.path == "/probe":
            return self._probe(request, connection)
        if request.path == "/metrics":
            return self._own_metrics(request, connection)
        if request.path == "/targets":
            text = self._recent("/targets", self._discovered, connection)
            return Answer(HTTPStatus.OK, (text,), JSON)
        if request.path == "/":
            return Answer(HTTPStatus.OK, (self._recent("/", self._page, connection),), HTML)
        if request.path == "/-/healthy":
            return HEALTHY
        raise RefusalError(HTTPStatus.NOT_FOUND, "Not found; see /targets.")

    def _probe(self, request: Request, connection: Connection) -> Answer:
        names = request.query.get("target", [])
        if len(names) != 1:
            raise RefusalError(
                HTTPStatus.BAD_REQUEST, "Name one target, as in /probe?target=NAME; see /targets."
            )
        connection.check()  # to open one may cost more than to read it
        try:
            opened = self._fleet.open(names[0])
        except KeyError:
            raise RefusalError(HTTPStatus.NOT_FOUND, "No such target; see /targets.") from None
        return self._scrapes.answer(request, connection, opened.reader, opened.renderer)

    def _own_metrics(self, request: Request, connection: Connection) -> Answer:
        form = form_of(request)

        def write() -> bytes:
            text = fleet_metrics.text(
                self._fleet.entries(), self._reload, openmetrics=form.openmetrics
            )
            return gzip.compress(text) if form.gzip else text

        return answered((self._recent(form, write, connection),), form)

    def _recent(
        self, what: str | Format, write: Callable[[], bytes], connection: Connection
    ) -> bytes:
        """Return what was written since it was asked for, or a moment before, or write it.

        :raises GoneError: the client has not waited for it.
        """
        oldest = time.monotonic() - RECENT
        with self._lock:
            connection.check()
            written, taken, text = self._written.get(what, (float("-inf"), 0, b""))
            if taken != self._fleet.taken or written < oldest:
                written, taken = time.monotonic(), self._fleet.taken
                text = write()
                self._written[what] = written, taken, text
        return text

    def _discovered(self) -> bytes:
        """Return the targets as Prometheus' http_sd_configs takes them: see docs/fleet.md."""
        found = [
            {
                "targets": [target.name],
                "labels": {
                    **target.labels,
                    "instance": target.name,
                    "__metrics_path__": "/probe",
                    "__param_target": target.name,
                    "__meta_virtmeter_hypervisor": target.kind,
                },
            }
            for target in (entry.target for entry in self._fleet.entries())
        ]
        return json.dumps(found).encode()

    def _page(self) -> bytes:
        names = (entry.target.name for entry in self._fleet.entries())
        links = (
            f'<li><a href="/probe?target={quote(name, safe="")}">{escape(name)}</a>\n'
            for name in names
        )
        return (PAGE % "".join(links)).encode()

    def _reloaded(self, connection: Connection) -> Answer:
        try:
            with self.reloads.held(connection):
                return Answer(HTTPStatus.OK, (line(self._reload.now()),))
        except FullError:
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many requests wait for a reload; try again.",
                ("Retry-After", "1"),
            ) from None
        except ValueError as error:
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None
