"""The options of every command that reads: which hypervisor, and how long to wait for it."""

from __future__ import annotations

import logging
import math
import resource
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import virtmeter
from virtmeter.cli import default_uri, kinds, threads
from virtmeter.cli.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from virtmeter import Inspector

UNSUPPORTED = "[libvirt error 3,"
"""Of a device for which this hypervisor has no such counters: a dash in a table says as much."""

GOES_ON = "; virtmeter keeps trying"
"""The library does."""

LONGEST_TIMEOUT, MOST_WORKERS = 86400, 1000
"""More the library does not take."""

MOST_STUCK, PROBERS = 12 + 3, 3
"""Connections that may be open beyond those of the workers."""

OWN = 10
"""Descriptors that the process itself needs."""

OF_OTHERS = 48
"""Those that a pool or vCenter may need, whose hosts are read side by side."""


_OPEN: list[virtmeter.Inspector] = []
"""Pools and vCenters, in all threads."""

MOST_CLOSED = 64
"""So many at a time."""


class Uri(click.types.StringParamType):
    """What a hypervisor may be read by: text, as bytes that are no UTF-8 are not."""

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Return the URI; where none is given, the one that is opened then."""
        uri: str = super().convert(value, param, ctx) or default_uri.chosen()
        try:
            uri.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8.", param, ctx)
        return uri


class Seconds(click.FloatRange):
    """A number of seconds within a range, up to a day. NaN is out of every range."""

    def __init__(self, least: float) -> None:
        """Take the least that is allowed."""
        super().__init__(least, LONGEST_TIMEOUT)

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Return the number."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


table_or_json = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)


def connects(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--uri``, ``--timeout`` and ``--workers``."""
    options = (
        click.option(
            "--uri",
            type=Uri(),
            default="",
            envvar=default_uri.VARIABLE,
            metavar="URI",
            help="libvirt's connection URI, or that of a XenServer or XCP-ng pool, a vCenter or "
            "an ESXi host: xenserver://USER@HOST/?password_file=FILE&sha256=FINGERPRINT, "
            "vsphere://USER@HOST/?….  "
            f"[default: LIBVIRT_DEFAULT_URI, libvirt.conf's uri_default, or {default_uri.SYSTEM}]",
        ),
        click.option(
            "--timeout",
            type=Seconds(0.01),
            default=5.0,
            show_default=True,
            metavar="SECONDS",
            help="A VM that has not answered within this time counts as hung, a host of a "
            "pool or vCenter as away.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MOST_WORKERS),
            default=4,
            show_default=True,
            metavar="N",
            help="libvirt only: how many VMs are read at once, each over its own connection.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def uri_is_typed() -> bool:
    """Return whether ``--uri`` is on the command line; the environment's is but a default."""
    source = click.get_current_context().get_parameter_source("uri")
    return source == ParameterSource.COMMANDLINE


def libvirts(workers: int) -> int:
    """Return how many descriptors the connections of one inspector of libvirt may take.

    For each worker, one that reads and one that waits for its closing; those that are stuck and
    those that ask after them.
    """
    return 2 * (2 * workers + MOST_STUCK + PROBERS)


def limit() -> int:
    """Return how many descriptors this process may have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


def raise_limit() -> None:
    """Have as many as an administrator allows: what 1024 is kept for, select(), nobody calls."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def descriptors(workers: int, more: int = 0) -> int:
    """Return how many there are beside those for libvirt's connections, which need two each.

    libvirt's library ends a process that has too few.

    :param workers: of libvirt's, or 0 if it is not read.
    :param more: how many are needed beside those at least.
    :raises click.ClickException: there are too few.
    """
    allowed, libvirt = limit(), libvirts(workers) if workers else 0
    least = libvirt + OWN + more
    if allowed < least:
        whose = f"with {counted(workers, 'worker')}, " if workers else ""
        raise click.ClickException(
            f"{whose}{least} file descriptors are needed, and only {allowed} are allowed: raise "
            "the limit ('ulimit -n', systemd's LimitNOFILE=)"
            f"{' or lower --workers' if workers else ''}"
        )
    return allowed - libvirt


def allow_descriptors(workers: Sequence[int], others: int) -> None:
    """Let this process have the descriptors for several hypervisors at once.

    :param workers: of each libvirt.
    :param others: how many hypervisors are not libvirt.
    :raises click.ClickException: it may not have so many.
    """
    least = OWN + sum(map(libvirts, workers)) + OF_OTHERS * others
    raise_limit()
    if limit() < least:
        raise click.ClickException(
            f"for all targets, {least} file descriptors may be needed, and only {limit()} are "
            "allowed: raise the limit ('ulimit -Hn', systemd's LimitNOFILE=) or lower --workers"
        )


def opened(
    uri: str,
    timeout: float,
    workers: int,
    *,
    report_stopped: bool = False,
    reckon_sizes: bool = True,
    parity: bool = False,
) -> virtmeter.Inspector:
    """Return an inspector with what these options say, which connects to nothing yet."""
    if not kinds.is_libvirt(uri):
        return virtmeter.Inspector(uri, timeout=timeout, report_stopped=report_stopped)
    return virtmeter.LibvirtInspector(
        uri,
        timeout=timeout,
        workers=workers,
        report_stopped=report_stopped,
        reckon_sizes=reckon_sizes,
        parity=parity,
        all_vnics=not parity,
    )


@contextmanager
def unsaid(*, quiet: bool, tells_vms: bool) -> Iterator[None]:
    """Keep from being logged what the command tells itself, as ``inspector`` has it."""
    logger = logging.getLogger("virtmeter.collector")
    filters = [_said_by_the_command] * quiet + [_said_of_vms] * tells_vms
    for each in filters:
        logger.addFilter(each)
    try:
        yield
    finally:
        for each in filters:
            logger.removeFilter(each)


@contextmanager
def inspector(
    uri: str,
    timeout: float,
    workers: int,
    *,
    report_stopped: bool = False,
    reckon_sizes: bool = True,
    parity: bool = False,
    quiet: bool = False,
    tells_vms: bool = False,
    opens: int = 1,
) -> Iterator[virtmeter.Inspector]:
    """Give an inspector with what these options say.

    :param quiet: log no outages and no hung VMs: the command shows these itself, or fails with
        them, and nothing should be said twice. Nor what a hypervisor cannot tell.
    :param tells_vms: nor which hosts of a pool are away: the command says that of each of
        their VMs.
    :param opens: how many such inspectors of a libvirt the command has open at once.
    """
    is_libvirt = kinds.is_libvirt(uri)
    if is_libvirt:
        descriptors(workers, (opens - 1) * libvirts(workers))
    made: virtmeter.Inspector | None = None
    with unsaid(quiet=quiet, tells_vms=tells_vms):
        try:
            made = opened(
                *(uri, timeout, workers),
                report_stopped=report_stopped,
                reckon_sizes=reckon_sizes,
                parity=parity,
            )
            if not is_libvirt:
                _OPEN.append(made)
            yield made
            # Not after an exception: the process ends, and who hangs would not say good-bye.
            if is_libvirt:
                made.close()
        except (virtmeter.InspectorException, ValueError) as error:
            if _is_about_connection(error):
                message = str(error).removesuffix(GOES_ON)  # a command that has failed does not
                error.args = (default_uri.explained(message),)
            raise
        finally:
            # Whatever ends the command: a pool keeps sessions for a day that nobody has ended, and
            # is waited for no longer than a second.
            if made and not is_libvirt:
                made.close()
                _OPEN.remove(made)


def close_all() -> None:
    """Close all pools and vCenters that threads have open which are not waited for any more."""
    threads.call_each(lambda made: made.close(), _OPEN.copy(), MOST_CLOSED)


def is_away(inspector: Inspector, error: virtmeter.InspectorException) -> bool:
    """Whether this was raised as the hypervisor cannot be reached.

    Where that can be, it was the reading of one VM that broke its connections, which costs the
    others nothing.
    """
    if not isinstance(error, virtmeter.ConnectionLost):
        return False
    return error.instance_id is None or inspector.health().outage is not None


def _is_about_connection(error: Exception) -> bool:
    """Whether it says that a connection or a list is not to be had: a wrong URI is a ValueError."""
    if isinstance(error, virtmeter.InspectorException):
        return error.instance_id is None or isinstance(error, virtmeter.ConnectionLost)
    return str(error).startswith("libvirt cannot open ")


def _said_by_the_command(record: logging.LogRecord) -> bool:
    """Whether a line of the core's is to be logged all the same."""
    line = record.getMessage()
    told = (" refuses the login: ", " hangs: ", " is read again, ", UNSUPPORTED)
    return not line.startswith("no connection to ") and not any(each in line for each in told)


def _said_of_vms(record: logging.LogRecord) -> bool:
    """Whether a line of the core's is to be logged where the reason is told of each VM."""
    return ", and its instances are left out: " not in record.getMessage()
