"""The options of every command that reads: which libvirt, and how long to wait for it."""

from __future__ import annotations

import logging
import math
import resource
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import virtmeter
from virtmeter.cli import default_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNSUPPORTED = "[libvirt error 3,"
"""Of a device for which this hypervisor has no such counters: a dash in a table says as much."""

GOES_ON = "; virtmeter keeps trying"
"""The library does."""

MOST_WORKERS = 1000
"""More the library does not take."""

MOST_STUCK, PROBERS = 12, 3
"""Connections that may be open beyond those of the workers."""
OTHERS = ("xenserver",)
"""Schemes of the URIs that are not for libvirt."""

OWN = 10
"""Descriptors that the process itself needs."""


class Uri(click.types.StringParamType):
    """What libvirt may be able to open: text, as bytes that are no UTF-8 are not."""

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
        super().__init__(least, 86400)

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
            help="libvirt's connection URI.  [default: LIBVIRT_DEFAULT_URI, libvirt.conf's "
            f"uri_default, or {default_uri.SYSTEM}]",
        ),
        click.option(
            "--timeout",
            type=Seconds(0.01),
            default=5.0,
            show_default=True,
            metavar="SECONDS",
            help="A VM that has not answered within this time counts as hung.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MOST_WORKERS),
            default=4,
            show_default=True,
            metavar="N",
            help="How many VMs are read at once, each over its own connection.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def kind(uri: str) -> str:
    """Return what reads a URI: ``xenserver``, or else ``libvirt``."""
    scheme = uri.partition(":")[0].lower()
    return scheme if scheme in OTHERS else "libvirt"


def descriptors(workers: int, more: int = 0) -> int:
    """Return how many there are beside those for libvirt's connections, which need two each.

    libvirt's library ends a process that has too few.

    :param more: how many are needed beside those at least.
    :raises click.ClickException: there are too few.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = sys.maxsize
    # For each worker, one that reads and one that waits for its closing; those that are stuck and
    # those that ask after them.
    libvirts = 2 * (2 * workers + MOST_STUCK + PROBERS)
    least = libvirts + OWN + more
    if limit < least:
        raise click.ClickException(
            f"with {workers} workers, {least} file descriptors are needed, and only {limit} are "
            "allowed: raise the limit ('ulimit -n', systemd's LimitNOFILE=) or lower --workers"
        )
    return limit - libvirts


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
) -> Iterator[virtmeter.Inspector]:
    """Give an inspector with what these options say.

    :param quiet: log no outages and no hung VMs: the command shows these itself, or fails with
        them, and nothing should be said twice. Nor what a hypervisor cannot tell.
    """
    is_libvirt = kind(uri) == "libvirt"
    if is_libvirt:
        descriptors(workers)
    logger = logging.getLogger("virtmeter.collector")
    if quiet:
        logger.addFilter(_said_by_the_command)
    try:
        made: virtmeter.Inspector
        if is_libvirt:
            made = virtmeter.LibvirtInspector(
                uri,
                timeout=timeout,
                workers=workers,
                report_stopped=report_stopped,
                reckon_sizes=reckon_sizes,
                parity=parity,
                all_vnics=not parity,
            )
        else:
            made = virtmeter.Inspector(uri, timeout=timeout, report_stopped=report_stopped)
        yield made
        # Not after an exception: the process ends, and a libvirt that hangs would not say good-bye.
        made.close()
    except (virtmeter.InspectorException, ValueError) as error:
        if _is_about_libvirt(error):
            message = str(error).removesuffix(GOES_ON)  # a command that has failed does not
            error.args = (default_uri.explained(message),)
        raise
    finally:
        logger.removeFilter(_said_by_the_command)


def _is_about_libvirt(error: Exception) -> bool:
    """Whether it says that a connection or a list is not to be had: a wrong URI is a ValueError."""
    if isinstance(error, virtmeter.InspectorException):
        return error.instance_id is None or isinstance(error, virtmeter.ConnectionLost)
    return str(error).startswith("libvirt cannot open ")


def _said_by_the_command(record: logging.LogRecord) -> bool:
    """Whether a line of the core's is to be logged all the same."""
    line = record.getMessage()
    told = line.startswith("no connection to ") or " hangs: " in line or " is read again, " in line
    return not told and UNSUPPORTED not in line
