"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import logging
import math
import queue
import signal
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import virtmeter
from virtmeter.cli import connection, files, kinds, targets
from virtmeter.cli.export import reading
from virtmeter.cli.export.access import Access
from virtmeter.cli.export.choice import BY_DEFAULT, PARTS, Choice
from virtmeter.cli.export.reading import Pass, Reader, failures
from virtmeter.cli.export.rendering import Renderer
from virtmeter.cli.export.server import LEAST
from virtmeter.cli.export.serving import SPARE, Address, Serving
from virtmeter.cli.text import counted, say

if TYPE_CHECKING:
    from pathlib import Path

ALL = "[::]"
"""Every address of this host, IPv4 and IPv6."""


def address(_context: click.Context, _parameter: click.Parameter, value: str) -> Address:
    """Take HOST:PORT apart; without a host, or with ``*``, it is all addresses."""
    host, _, port = value.rpartition(":")
    whole = f"{ALL}:{port}" if host in ("", "*") else value
    try:
        parts = urlsplit(f"//{whole}")
        # No user; nor "*", of which the resolver makes this host alone.
        bare = parts.netloc == whole and not {"@", "*"}.intersection(whole)
        if bare and parts.hostname and parts.port is not None:
            return Address(parts.hostname, parts.port)
    except ValueError:
        pass
    raise click.BadParameter(
        f"'{value}' is not HOST:PORT, as 127.0.0.1:9177 or [::1]:9177 are, nor :PORT"
    )


FILE = files.Readable()
PART = click.Choice(list(PARTS))
OF_SERVING = ("listen", "tls_cert", "tls_key", "tls_client_ca", "auth_file")
"""The options that make no sense with ``--once``."""


@click.command()
@click.option(
    "--listen",
    callback=address,
    default="127.0.0.1:9177",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; :PORT means all addresses, IPv4 and IPv6.",
)
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Serve HTTPS with this certificate.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its key.  [default: in the same file]")
@click.option(
    "--tls-client-ca",
    type=FILE,
    metavar="FILE",
    help="Accept only clients with a certificate signed by this authority.",
)
@click.option(
    "--auth-file",
    type=FILE,
    metavar="FILE",
    help="Accept only the users in this file; create it with 'htpasswd -B'.",
)
@click.option(
    "--deadline",
    type=connection.Seconds(0.01),
    metavar="SECONDS",
    help="Longest time to wait for VMs, for scrapes that do not send a timeout.  "
    "[default: 8; with --once: as long as it takes]",
)
@click.option(
    "--ask-sizes",
    is_flag=True,
    help="libvirt only: ask for all disk sizes in each scrape, instead of computing most of them.",
)
@click.option(
    "--vm",
    "vms",
    multiple=True,
    metavar="INSTANCE",
    help="Read only this VM: a UUID, a name or a name pattern. May be repeated.",
)
@click.option(
    "--collect",
    multiple=True,
    type=PART,
    metavar="WHAT",
    help=f"Also read this. May be repeated. WHAT is one of {', '.join(PARTS)}.  "
    f"[default: {', '.join(name for name in PARTS if name in BY_DEFAULT)}]",
)
@click.option(
    "--no-collect",
    multiple=True,
    type=PART,
    metavar="WHAT",
    help="Do not read this. May be repeated.",
)
@click.option(
    "--targets",
    "targets_file",
    type=FILE,
    metavar="FILE",
    help="Serve many hypervisors, which this file names, each at /probe?target=NAME.",
)
@click.option(
    "--check-targets",
    is_flag=True,
    help="Say whether there is a mistake in the file of --targets, and exit.",
)
@click.option("--once", is_flag=True, help="Print the metrics once and exit, without serving them.")
@click.option(
    "--output",
    type=files.Writable(),
    metavar="FILE",
    help="With --once: write to this file instead, completely or not at all.",
)
@connection.connects
@click.pass_context
def export(
    context: click.Context,
    uri: str,
    timeout: float,
    workers: int,
    listen: Address,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    auth_file: Path | None,
    deadline: float | None,
    ask_sizes: bool,
    vms: tuple[str, ...],
    collect: tuple[str, ...],
    no_collect: tuple[str, ...],
    targets_file: Path | None,
    check_targets: bool,
    once: bool,
    output: Path | None,
) -> int:
    """Serve the resource usage of all VMs as Prometheus metrics.

    Scrapes are answered even if the hypervisor is away or VMs hang, with what is available; the
    metrics virtmeter_up, virtmeter_scrape_complete and virtmeter_domain_answering show that, and
    virtmeter_host_up for the hosts of a pool or vCenter.

    \b
    Examples:
      virtmeter export
      virtmeter export --listen :9177 --tls-cert host.pem --auth-file users
      virtmeter export --vm 'web-*' --no-collect disk-sizes
      virtmeter export --once --output /var/lib/prometheus/node-exporter/virtmeter.prom
      virtmeter export --targets /etc/virtmeter/targets.toml
    """
    if output and not once:
        raise click.UsageError("--output needs --once")
    if check_targets and not targets_file:
        raise click.UsageError("--check-targets needs --targets")
    if targets_file and (once or connection.uri_is_typed()):
        raise click.UsageError("--targets names what is served: leave out --uri and --once")
    if once and (given := [name for name in OF_SERVING if _is_given(context, name)]):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"--once serves nothing: leave out {options}")
    if (tls_key or tls_client_ca) and not tls_cert:
        raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert")
    choice = chosen(vms, collect, no_collect)
    defaults = targets.Defaults(timeout, workers, ask_sizes, choice)
    if targets_file and check_targets:
        count = len(targets.read(targets_file, defaults))
        click.echo(f"{targets_file}: {counted(count, 'target')}, no mistake")
        return 0
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()
    if not once:
        signal.signal(signal.SIGHUP, lambda *_: asked.put(None))
    how = Serving(listen, Access(tls_cert, tls_key, tls_client_ca, auth_file), asked, deadline)
    if targets_file:
        how.serve_fleet(targets_file, defaults)
    if not once:
        descriptors = connection.descriptors(workers, LEAST) - SPARE
    with connection.inspector(uri, timeout, workers, reckon_sizes=not ask_sizes) as inspector:
        if once:
            for logger in ("virtmeter.collector", reading.__name__):
                logging.getLogger(logger).addFilter(_is_not_raised)
            until = time.monotonic() + (deadline or math.inf)
            current = Reader(inspector, choice, once=True).read(lambda _: until - time.monotonic())
            return write_once(current, inspector, output)
        how.serve(inspector, choice, descriptors)
    return 0


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) != ParameterSource.DEFAULT


def chosen(vms: tuple[str, ...], more: tuple[str, ...], less: tuple[str, ...]) -> Choice:
    """Return what the options choose.

    :raises click.UsageError: they contradict one another.
    """
    if both := sorted({*more} & {*less}):
        raise click.UsageError(f"--collect and --no-collect both name {', '.join(both)}")
    return Choice(BY_DEFAULT.union(more).difference(less), vms)


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Whether a line is to be logged with ``--once``: why it failed, the command says itself."""
    line = record.getMessage()
    raised = ("no connection to ", "not all VMs could be read: ")
    return not line.startswith(raised) and " refuses the login: " not in line


def write_once(current: Pass, inspector: virtmeter.Inspector, output: Path | None) -> int:
    """Write what was read; the status says whether that is all."""
    text = b"".join(part[:] for part in Renderer(inspector.health).render(current))
    if output is None or files.is_stdout(output):
        sys.stdout.buffer.write(text)
    else:
        try:
            files.write(output, text)
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    if current.failure:
        raise current.failure
    if not current.reached:
        raise virtmeter.ConnectionLost(f"{kinds.name(inspector.uri)} did not answer in time")
    if not current.complete:
        say("not everything was read in time: some values are missing")
    elif failed := failures(current.answers):
        say(f"{counted(failed, 'reading')} failed: some values are missing")
    else:
        return 0
    return 1
