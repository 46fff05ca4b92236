"""Serves one hypervisor, or many, from the start to a signal that ends it."""

from __future__ import annotations

import ipaddress
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from virtmeter.cli import connection, ending
from virtmeter.cli.export import logs
from virtmeter.cli.export.fleet import SETTLING, Fleet
from virtmeter.cli.export.fleet_pages import FleetPages
from virtmeter.cli.export.pages import Pages, Scrapes
from virtmeter.cli.export.reading import Reader
from virtmeter.cli.export.reload import Reload
from virtmeter.cli.export.rendering import Renderer
from virtmeter.cli.export.server import MOST, Server, bounds
from virtmeter.cli.export.workers import Workers
from virtmeter.cli.text import counted, shown_uri

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from queue import SimpleQueue

    import virtmeter
    from virtmeter.cli.export.access import Access
    from virtmeter.cli.export.choice import Choice
    from virtmeter.cli.export.server import Answers, Bounds
    from virtmeter.cli.targets import Defaults

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.INFO)  # its start is said

DEADLINE = 8.0
"""Seconds; Prometheus waits for 10 where nobody has told it otherwise."""

SPARE = 100
"""Descriptors that are not given to clients if there are so many, to be on the safe side."""

READERS = 32
"""Targets that are read at a time, see `Workers`, and half as many that have failed before."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


class Serving:
    """How to serve."""

    def __init__(
        self,
        listen: Address,
        access: Access,
        asked: SimpleQueue[None],
        deadline: float | None,
    ) -> None:
        """Take the options.

        :param asked: gets something when files are to be read anew.
        :param deadline: seconds that a scrape waits for VMs if it does not say it itself.
        """
        self._listen, self._access, self._asked = listen, access, asked
        self._deadline = deadline or DEADLINE

    def serve(self, inspector: virtmeter.Inspector, choice: Choice, descriptors: int) -> NoReturn:
        """Serve one hypervisor.

        :param descriptors: how many there are for clients.
        """
        reader, renderer = Reader(inspector, choice), Renderer(inspector.health)
        try:
            self._serve(
                lambda bound: Pages(reader, renderer, Scrapes(self._deadline, bound.scrapes)),
                Reload(self._access),
                descriptors,
                f"reading the VMs at {shown_uri(inspector.uri)}",
            )
        finally:
            reader.stop()
            reader.settle(time.monotonic() + SETTLING)

    def serve_fleet(self, file: Path, defaults: Defaults) -> NoReturn:
        """Serve the targets of a file.

        :raises ValueError: there is a mistake in it.
        :raises click.ClickException: there are too few descriptors.
        """
        connection.raise_limit()
        descriptors = connection.limit() - SPARE - connection.OWN
        fleet = Fleet(file, defaults, Workers(READERS), descriptors - MOST)
        reload = Reload(self._access, fleet)
        threading.Thread(target=fleet.look_after_all, daemon=True).start()

        def pages(bound: Bounds) -> FleetPages:
            fleet.clients = bound.all
            return FleetPages(fleet, reload, Scrapes(self._deadline, bound.scrapes))

        try:
            targets = counted(len(fleet.entries()), "target")
            self._serve(
                pages,
                reload,
                descriptors - fleet.one_takes() - fleet.others_take(),
                f"reading {targets} of {file} when asked for",
            )
        finally:
            fleet.close()

    def _serve(
        self, pages: Callable[[Bounds], Answers], reload: Reload, descriptors: int, what: str
    ) -> NoReturn:
        """Serve until a signal comes that ends it."""
        access, bound = self._access, bounds(descriptors)
        try:
            server = Server(self._listen.host, self._listen.port, access, pages(bound), bound)
        except (OSError, UnicodeError) as error:  # a name that cannot be one is the latter
            why = getattr(error, "strerror", error)
            raise click.ClickException(
                f"cannot listen on {self._listen.host}, port {self._listen.port}: {why}"
            ) from None
        ending.on(signal.SIGTERM, 0)
        with logs.unblocked():
            LOG.info("%s", what)
            thread = threading.Thread(target=reload.when_asked, args=(self._asked,), daemon=True)
            thread.start()
            is_local = ipaddress.ip_address(server.host).is_loopback
            if access.users and not access.tls and not is_local:
                LOG.warning("without TLS, passwords can be read in transit")
            host = f"[{server.host}]" if ":" in server.host else server.host
            scheme = "https" if access.tls else "http"
            LOG.info("serving %s://%s:%s/metrics", scheme, host, server.port)
            server.serve_forever()
