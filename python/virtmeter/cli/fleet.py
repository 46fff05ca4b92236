"""What a command reads: the hypervisor of ``--uri``, or side by side those of ``--targets``."""

from __future__ import annotations

import functools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar

import click

import virtmeter
from virtmeter.cli import about, connection, files, kinds, targets, threads
from virtmeter.cli.export.choice import Choice
from virtmeter.cli.starting import UNREACHABLE
from virtmeter.cli.targets import Target
from virtmeter.cli.text import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from virtmeter import Inspector

Value = TypeVar("Value")

AT_ONCE = 64
"""So many targets are read at a time."""

SETTLING = 1.0
"""Seconds at most that the end waits for readings."""

FAILURES = (virtmeter.InspectorException, ValueError, ImportError)
"""What one target's fault comes as."""


class Source(NamedTuple):
    """One target, and what reads it."""

    target: Target
    """Without a name if it is the one of ``--uri``."""
    inspector: Inspector
    reading: threading.Lock
    """Held by a thread that reads it."""


def reads(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--targets`` and the options of ``connects``.

    It takes ``targets`` in their place: those of the file, or one without a name.
    """

    @connection.connects
    @click.option(
        "--targets",
        "file",
        type=files.Readable(),
        metavar="FILE",
        help="Read all hypervisors that this file names, instead of the one of --uri.",
    )
    @functools.wraps(command)
    def with_targets(
        *, file: Path | None, uri: str, timeout: float, workers: int, **others: object
    ) -> object:
        return command(targets=chosen(file, uri, timeout, workers), **others)

    return with_targets


def chosen(file: Path | None, uri: str, timeout: float, workers: int) -> list[Target]:
    """Return what is to be read.

    :raises click.UsageError: both are given.
    :raises ValueError: there is a mistake in the file.
    """
    if file is None:
        return [Target("", uri, {}, timeout, workers, ask_sizes=False, choice=Choice())]
    if connection.uri_is_typed():
        raise click.UsageError("--targets names the hypervisors: leave out --uri")
    return list(targets.read(file, targets.Defaults(timeout, workers)).values())


@contextmanager
def opened(
    wanted: Sequence[Target], *, report_stopped: bool = False, tells_vms: bool = False
) -> Iterator[list[Source]]:
    """Give what reads each of these. All that is open is closed in the end."""
    if not wanted[0].name:
        [target] = wanted
        with connection.inspector(
            *(target.uri, target.timeout, target.workers),
            report_stopped=report_stopped,
            quiet=True,
            tells_vms=tells_vms,
        ) as inspector:
            sources = [Source(target, inspector, threading.Lock())]
            try:
                yield sources
            finally:
                _settle(sources)
        return
    libvirts = [target.workers for target in wanted if kinds.is_libvirt(target.uri)]
    connection.allow_descriptors(libvirts, len(wanted) - len(libvirts))
    with connection.unsaid(quiet=True, tells_vms=tells_vms):
        sources = [
            Source(
                target,
                connection.opened(
                    *(target.uri, target.timeout, target.workers),
                    report_stopped=report_stopped,
                    reckon_sizes=not target.ask_sizes,
                ),
                threading.Lock(),
            )
            for target in wanted
        ]
        to_close = [source for source in sources if _keeps_sessions(source)]
        try:
            yield sources
            # Not after an exception: the process ends, and who hangs would not say good-bye.
            to_close += [
                source
                for source in sources
                if not _keeps_sessions(source) and source.inspector.connected
            ]
        finally:
            _settle(sources)
            threads.call_each(lambda source: source.inspector.close(), to_close, AT_ONCE)


def _keeps_sessions(source: Source) -> bool:
    """Whether it is a pool or vCenter, where sessions last that nobody ends."""
    return not kinds.is_libvirt(source.target.uri)


def _settle(sources: Sequence[Source]) -> None:
    """Have nobody read a pool or vCenter any more: who does after its closing logs in again."""
    until = time.monotonic() + SETTLING
    for source in sources:
        if _keeps_sessions(source):
            source.reading.acquire(timeout=max(0.0, until - time.monotonic()))


def ask(
    sources: Sequence[Source], question: Callable[[Source], Value]
) -> tuple[list[Value], dict[str, Exception]]:
    """Ask all of them at once; return the answers, and by name those that have failed, and why.

    What is wrong with the one of ``--uri`` is raised.
    """
    if not sources[0].target.name:
        return [question(sources[0])], {}

    def answer(source: Source) -> tuple[Value | None, Exception | None]:
        try:
            with about.target(source.target.name), source.reading:
                return question(source), None
        except FAILURES as error:
            return None, error

    came = threads.call_each(answer, sources, AT_ONCE)
    failed = {
        source.target.name: error for source, (_, error) in zip(sources, came) if error is not None
    }
    return [value for value, error in came if error is None], failed  # type: ignore[misc]


def tell(failed: Mapping[str, Exception]) -> None:
    """Say which targets could not be read, and why."""
    for name, error in failed.items():
        say(named(name, why(error)))


def status(failed: Mapping[str, Exception], count: int) -> int:
    """Return the exit status.

    :param failed: the targets that could not be read.
    :param count: how many targets there are in all.
    """
    lost = [error for error in failed.values() if isinstance(error, virtmeter.ConnectionLost)]
    return UNREACHABLE if len(lost) == count else int(bool(failed))


def named(target: str, text: str) -> str:
    """Return what is said of something of a target."""
    return f"{target}: {text}" if target else text


def why(error: Exception) -> str:
    """Return what is wrong; that the library keeps trying goes without saying."""
    return str(error).removesuffix(connection.GOES_ON)
