"""``virtmeter export``."""

from __future__ import annotations

import ipaddress
import logging
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import urlsplit

import click
from prometheus_client import generate_latest

import virtmeter
from virtmeter.cli import connection, files
from virtmeter.cli.exporter import metrics
from virtmeter.cli.exporter.logs import Seldom
from virtmeter.cli.exporter.reading import Pass, Reader, failures
from virtmeter.cli.exporter.server import Server, application
from virtmeter.cli.exporter.users import Users
from virtmeter.cli.text import say

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


DEADLINE = 8.0
"""Seconds; Prometheus waits for 10 where nobody has told it otherwise."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def address(_context: click.Context, _parameter: click.Parameter, value: str) -> Address:
    """Take HOST:PORT apart."""
    try:
        parts = urlsplit(f"//{value}")
        if parts.hostname and parts.port is not None and parts.netloc == value and "@" not in value:
            return Address(parts.hostname, parts.port)
    except ValueError:
        pass
    raise click.BadParameter(f"'{value}' is not HOST:PORT, as 127.0.0.1:9177 or [::1]:9177 are")


FILE = files.Readable()


@click.command()
@click.option(
    "--listen",
    callback=address,
    default="127.0.0.1:9177",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen.",
)
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Serve HTTPS with this certificate.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its key.  [default: in the same file]")
@click.option(
    "--tls-client-ca",
    type=FILE,
    metavar="FILE",
    help="Let only clients in that have a certificate of this authority.",
)
@click.option(
    "--auth-file",
    type=FILE,
    metavar="FILE",
    help="Let only these users in; 'htpasswd -B' writes the file.",
)
@click.option(
    "--deadline",
    type=connection.Seconds(0.01),
    metavar="SECONDS",
    help="Wait no longer for VMs, where a scrape does not say how long it waits itself.  "
    "[default: 8; with --once: as long as it takes]",
)
@click.option("--once", is_flag=True, help="Print the metrics once, and serve nothing.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="With --once: write this file instead, whole or not at all.",
)
@connection.connects
def export(
    uri: str,
    timeout: float,
    workers: int,
    listen: Address,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    auth_file: Path | None,
    deadline: float | None,
    once: bool,
    output: Path | None,
) -> int:
    """Serve what all VMs use as metrics for Prometheus.

    Scrapes are answered even when libvirt is away or VMs hang, with what there is; the metrics
    virtmeter_up, virtmeter_scrape_complete and virtmeter_domain_answering say so.

    \b
    Examples:
      virtmeter export
      virtmeter export --listen [::]:9177 --tls-cert host.pem --auth-file users
      virtmeter export --once --output /var/lib/prometheus/node-exporter/virtmeter.prom
    """
    if output and not once:
        raise click.UsageError("--output needs --once")
    if (tls_key or tls_client_ca) and not tls_cert:
        raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert")
    tls = tls_context(tls_cert, tls_key, tls_client_ca) if tls_cert else None
    users = Users(auth_file) if auth_file else None
    with connection.inspector(uri, timeout, workers) as inspector:
        reader = Reader(inspector)
        if once:
            return write_once(reader.read(deadline), inspector, output)
        app = application(reader, inspector.health, deadline or DEADLINE)
        serve(users.guard(app) if users else app, listen, tls, guarded=users is not None)
    return 0


def serve(
    app: WSGIApplication, listen: Address, tls: ssl.SSLContext | None, *, guarded: bool
) -> None:
    """Serve until a signal comes."""
    signal.signal(signal.SIGTERM, terminate)
    logging.getLogger("virtmeter.collector").addFilter(Seldom())
    try:
        server = Server(listen.host, listen.port, app, tls)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is the latter
        why = getattr(error, "strerror", error)
        raise click.ClickException(
            f"cannot listen on {listen.host}, port {listen.port}: {why}"
        ) from None
    if guarded and not tls and not ipaddress.ip_address(server.server_name).is_loopback:
        say("without TLS, passwords can be read on their way")
    say(f"serving {server.url}/metrics")
    server.serve_forever()


def terminate(*_: object) -> NoReturn:
    """End at once, and well."""
    sys.exit(0)


def tls_context(cert: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """Return what these files say.

    :raises click.ClickException: they cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password: the default would ask for one at the terminal.
        context.load_cert_chain(cert, key, password="")
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError) as error:
        raise click.ClickException(f"the certificate or its key cannot be used: {error}") from None
    return context


def write_once(current: Pass, inspector: virtmeter.LibvirtInspector, output: Path | None) -> int:
    """Write what was read; the status says whether that is all."""
    text = generate_latest(metrics.registry(current, inspector.health))
    if output is None:
        sys.stdout.buffer.write(text)
    else:
        try:
            files.write(output, text)
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    if current.failure:
        raise current.failure
    if not current.reached:
        raise virtmeter.ConnectionLost("libvirt has not answered in time")
    if not current.complete:
        say("not all was read in time: some values are missing")
    elif failed := failures(current.answers):
        say(f"{failed} readings failed: some values are missing")
    else:
        return 0
    return 1
