"""The command itself: its options, and its way through the parts beside it."""

from __future__ import annotations

import json
import logging
import platform
import textwrap
from collections import Counter
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

import virtmeter
from virtmeter.cli import connection, fleet, kinds, threads
from virtmeter.cli.doctor.agent import agent
from virtmeter.cli.doctor.finding import OK, PROBLEM, RESTART, WARNING, Finding, names
from virtmeter.cli.doctor.sockets import sockets
from virtmeter.cli.doctor.versions import versions
from virtmeter.cli.doctor.vms import vms
from virtmeter.cli.doctor.vsphere import vcenter
from virtmeter.cli.doctor.xenserver import pool
from virtmeter.cli.text import printable, shown_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtmeter.cli.targets import Target

STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}
MARGIN = 9
AT_ONCE = 16
"""So many targets are looked at at a time, as each libvirt takes a process for its versions."""
INSPECTORS = 2
"""Of each libvirt: one that reads ahead, and one that does not."""
OPERATION_TIMEOUT = 68
"""The code of the error of a libvirt that says nothing."""


@click.command()
@connection.table_or_json
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Measure NICs and disks of at most this many VMs; with XenServer, read the exact counters "
    "of so many; with vSphere, look at the samples of so many.",
)
@click.option(
    "--check-rows",
    type=connection.Seconds(1),
    metavar="SECONDS",
    help="XenServer: read again for so long, to compare its rows with exact counters; 90 is "
    "enough. vSphere: ask for the same samples again after so long.",
)
@fleet.reads
def doctor(targets: list[Target], form: str, sample: int, check_rows: float | None) -> int:
    """Check this host for problems, and say what to do about them.

    Checks libvirt's library, socket and daemon, reads every VM, and checks Ceilometer if it is
    installed. With a URI of XenServer or vSphere, it logs in once, checks every host, and prints
    what a report of a fault should have. With --targets, it checks each of them. Changes nothing.
    Exit status 1: there is a problem.

    \b
    Examples:
      virtmeter doctor
      virtmeter doctor --uri qemu:///system --timeout 2
      virtmeter doctor --uri 'xenserver://monitor@host/?password_file=/etc/virtmeter/pass'
      virtmeter doctor --targets /etc/virtmeter/targets.toml
      virtmeter doctor --format json | jq '.findings[] | select(.level != "ok")'
    """
    # What it logs is what the findings say.
    logging.getLogger("virtmeter").setLevel(logging.CRITICAL)
    has_names = bool(targets[0].name)
    found: list[tuple[str, Finding]] = []
    for target, finding in look(targets, sample, check_rows):
        if form == "table":
            if target and target != (found[-1][0] if found else ""):
                click.secho(f"\n{target}", bold=True)
            show(finding)
        found.append((target, finding))
    if form == "json":
        told = [
            ({"target": target or None} if has_names else {}) | finding._asdict()
            for target, finding in found
        ]
        click.echo(json.dumps({"findings": told}, indent=2))
    else:
        click.echo(summary(found))
    return int(any(finding.level == PROBLEM for _, finding in found))


def look(
    targets: list[Target], sample: int, check_rows: float | None
) -> Iterator[tuple[str, Finding]]:
    """Yield what is found, from the ground up, each with the name of its target if it has one."""
    yield "", Finding(OK, f"virtmeter {virtmeter.__version__}, Python {platform.python_version()}")
    uris = [target.uri for target in targets]
    if not targets[0].name:
        yield from (("", finding) for finding in hypervisor(targets[0], sample, check_rows))
        yield from (("", finding) for finding in agent(uris))
        return
    yield from (("", finding) for finding in agent(uris))
    libvirts = [target.workers for target in targets if kinds.is_libvirt(target.uri)]
    connection.allow_descriptors(libvirts * INSPECTORS, len(targets) - len(libvirts))
    try:
        came = threads.call_each(
            lambda target: list(hypervisor(target, sample, check_rows)), targets, AT_ONCE
        )
    finally:
        connection.close_all()  # after a Ctrl-C
    for target, findings in zip(targets, came):
        yield from ((target.name, finding) for finding in findings)


def hypervisor(target: Target, sample: int, check_rows: float | None) -> Iterator[Finding]:
    """Yield what is found of one hypervisor."""
    uri, timeout, workers = target.uri, target.timeout, target.workers
    yield Finding(OK, f"reading the hypervisor at {shown_uri(uri)}")
    try:
        _ = virtmeter.LibvirtInspector
    except ImportError as error:
        yield Finding(PROBLEM, str(error))
        return
    try:
        if kinds.is_libvirt(uri):
            yield from libvirt(uri, timeout, workers, sample)
        else:
            look_at = vcenter if kinds.kind(uri) == kinds.VSPHERE else pool
            yield from look_at(uri, timeout, workers, sample, check_rows)
    except virtmeter.ConnectionLost as error:
        if error.error_code == OPERATION_TIMEOUT:
            yield Finding(PROBLEM, f"libvirt did not answer within {timeout:g} s", RESTART)
        else:
            yield Finding(PROBLEM, str(error))
    except click.ClickException as error:  # of the options, there are too few descriptors
        yield Finding(PROBLEM, error.message)
    except (virtmeter.InspectorException, ValueError, OSError) as error:
        yield Finding(PROBLEM, str(error))


def libvirt(uri: str, timeout: float, workers: int, sample: int) -> Iterator[Finding]:
    """Yield what is found of libvirt, from its library to its VMs."""
    yield from versions(uri, timeout)
    yield from sockets(uri, timeout)
    with connection.inspector(uri, timeout, workers, quiet=True, opens=INSPECTORS) as inspector:
        exact = virtmeter.LibvirtInspector(uri, timeout=timeout, workers=workers, max_age=0)
        yield from vms(inspector, exact, sample)


def show(finding: Finding) -> None:
    """Print one, with its advice below it."""
    width = max(40, get_terminal_size((100, 0)).columns - MARGIN)
    level = click.style(f"{finding.level:{MARGIN}}", fg=STYLES[finding.level])
    what = textwrap.wrap(printable(finding.what), width)
    advice = textwrap.wrap(f"-> {printable(finding.advice)}", width) if finding.advice else []
    click.echo(level + f"\n{'':{MARGIN}}".join([*what, *advice]))


def summary(found: list[tuple[str, Finding]]) -> str:
    """Return how it is, in a sentence."""
    counted = Counter(finding.level for _, finding in found)
    text = f"\n{counted[PROBLEM]} problem(s), {counted[WARNING]} warning(s)"
    ill = dict.fromkeys(name for name, finding in found if name and finding.level == PROBLEM)
    return f"{text}; problems with {names(list(ill))}" if ill else text
