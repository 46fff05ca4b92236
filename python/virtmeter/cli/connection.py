"""The options of every command that reads: which libvirt, and how long to wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import virtmeter

if TYPE_CHECKING:
    from collections.abc import Callable


def connects(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--uri``, ``--timeout`` and ``--workers``."""
    options = (
        click.option(
            "--uri",
            default="",
            metavar="URI",
            help="libvirt's connection URI.  [default: libvirt's own choice, which "
            "LIBVIRT_DEFAULT_URI can make]",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=5.0,
            show_default=True,
            metavar="SECONDS",
            help="Give a VM up that has not answered for so long.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=6,
            show_default=True,
            metavar="N",
            help="Read so many VMs at once, each over a connection of its own.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def inspector(
    uri: str, timeout: float, workers: int, *, report_stopped: bool = False
) -> virtmeter.LibvirtInspector:
    """Return an inspector with what these options say."""
    return virtmeter.LibvirtInspector(
        uri, timeout=timeout, workers=workers, report_stopped=report_stopped
    )
