"""The HTTP server: a thread for each request, TLS where it is wanted."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from virtmeter.cli.exporter import metrics

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from virtmeter import Health
    from virtmeter.cli.exporter.reading import Reader

LOG = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
PAGE = b"""<!DOCTYPE html>
<title>virtmeter</title>
<h1>virtmeter</h1>
<p>What every virtual machine on this host uses: <a href="/metrics">metrics</a> for Prometheus.</p>
"""
PAGES = {
    "/": ("200 OK", HTML, PAGE),
    "/-/healthy": ("200 OK", TEXT, b"virtmeter is healthy.\n"),
}
NO_PAGE = ("404 Not Found", TEXT, b"There is nothing here; see /metrics.\n")


def application(reader: Reader, health: Callable[[], Health], deadline: float) -> WSGIApplication:
    """Return what answers requests."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            start_response("405 Method Not Allowed", [("Content-Type", TEXT), ("Allow", "GET")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"Only GET is answered.\n"]
        if environ["PATH_INFO"] == "/metrics":
            header = environ.get("HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS", "")
            current = reader.read(time_to_read(header, deadline))
            app: WSGIApplication = make_wsgi_app(metrics.registry(current, health))
            return app(environ, start_response)
        status, kind, page = PAGES.get(environ["PATH_INFO"], NO_PAGE)
        start_response(status, [("Content-Type", kind)])
        return [page]

    return answer


def time_to_read(header: str, deadline: float) -> float:
    """Return for how long a scrape may wait; the rest of Prometheus' timeout is for the answer."""
    try:
        seconds = float(header)
    except ValueError:
        return deadline
    if not 0 < seconds < threading.TIMEOUT_MAX:
        return deadline
    return seconds - min(max(0.5, seconds / 10), seconds / 2)


MOST = 100
"""Clients that may be sending their requests at a time; then the slowest is hung up on."""


class Handler(WSGIRequestHandler):
    """Reads a request; whoever does not send one in time is hung up on."""

    timeout = 10.0

    def parse_request(self) -> bool:
        """Read the rest of a request, and tell the server that it is there."""
        parsed = super().parse_request()
        assert isinstance(self.server, Server)
        self.server.has_sent(self.request)
        return parsed

    def log_message(self, *_: object) -> None:
        """Log no requests."""


class Server(ThreadingMixIn, WSGIServer):
    """Listens, and answers each request in a thread of its own."""

    # The process can end while a request is being answered.
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, host: str, port: int, app: WSGIApplication, tls: ssl.SSLContext | None
    ) -> None:
        """Listen.

        :raises OSError: that cannot be.
        """
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family, bound = resolved[0], str(resolved[4][0])
        self._sending: dict[Any, float] = {}
        """The connections whose requests are not there yet, and since when; the oldest first."""
        super().__init__((bound, port), Handler)
        self.set_app(app)
        self._scheme = "https" if tls else "http"
        if tls:
            # The handshake belongs into the request's thread: a slow one must not hold up others.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def server_bind(self) -> None:
        """Bind without asking the DNS for this host's name, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer in a thread, and remember since when that waits for the request."""
        self._sending[request] = time.monotonic()
        super().process_request(request, client_address)

    def has_sent(self, request: Any) -> None:  # noqa: ANN401
        """Take note that a request is there."""
        self._sending.pop(request, None)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Hang up; there may never have been a request."""
        self.has_sent(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those who send their requests too slowly, byte by byte maybe."""
        late = time.monotonic() - Handler.timeout
        for request, since in list(self._sending.items()):
            if since < late or len(self._sending) > MOST:
                self.has_sent(request)
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Take no notice of clients that go away, or that want no TLS."""
        LOG.debug("a request of %s failed: %s", client_address, sys.exc_info()[1])

    @property
    def url(self) -> str:
        """Where it is found."""
        host = self.server_name
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self.server_port}"
