"""Readings of whole hosts, one after the other, each in a thread that may be kept waiting."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import virtmeter
from virtmeter import Instance, PowerState, VmUsage
from virtmeter.cli import about, session
from virtmeter.cli.connection import is_away
from virtmeter.cli.fleet import AT_ONCE, FAILURES
from virtmeter.cli.selection import is_wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from virtmeter import Inspector
    from virtmeter.cli.fleet import Source
    from virtmeter.cli.watch.model import Model

LOG = logging.getLogger(__name__)

CALLER = "watch"
AWAKE = 0.1


@dataclass(frozen=True)
class Snapshot:
    """What one reading told."""

    taken: float
    """When it was complete, by ``time.monotonic``."""
    instances: tuple[Instance, ...] = ()
    """All that the hypervisor knows, running or not."""
    usages: tuple[VmUsage, ...] = ()
    hung: Collection[str] = ()
    busy: Collection[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why those that do not run are in their states."""
    away: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """The hosts of a pool that do not answer: by name, why, and for how many seconds."""
    error: Exception | None = None
    """Why there is nothing of all this but, perhaps, usages that were told before."""
    target: str = ""
    """The name of what was read, where there are several."""
    time: float = 0.0
    """When it was complete, seconds since the epoch."""


def take(source: Source, wanted: Sequence[str] = ()) -> Snapshot:
    """Read a target once, or only the VMs that are wanted of it, named as ``is_wanted`` has it."""
    target, inspector = source.target, source.inspector
    usages: list[VmUsage] = []
    try:
        if wanted or target.choice.vms:
            for usage in _usages(inspector, _listed(source), wanted):
                usages.append(usage)  # noqa: PERF402 - those before one that fails
        else:
            usages = inspector.usage_all(caller=CALLER)
        listed = _listed(source)  # after that: one that has gone meanwhile is not missing
        health = inspector.health()
    except FAILURES as error:
        # What was told before that is told no more.
        return Snapshot(
            time.monotonic(),
            usages=tuple(usages),
            error=error,
            target=target.name,
            time=time.time(),
        )
    session.tell(inspector.uri, listed)
    hung, busy = frozenset(health.hung), frozenset(health.busy)
    asked = (
        each for each in listed if each.id not in hung and is_wanted(each, wanted, stopped=False)
    )
    reasons = dict(_reasons(inspector, asked))
    return Snapshot(
        *(time.monotonic(), tuple(listed), tuple(usages)),
        hung=hung,
        busy=busy,
        reasons=reasons,
        away=health.away,
        target=target.name,
        time=time.time(),
    )


def _listed(source: Source) -> list[Instance]:
    choice = source.target.choice
    return [each for each in source.inspector.list_instances() if choice.wants(each)]


def _usages(
    inspector: Inspector, listed: Iterable[Instance], wanted: Sequence[str]
) -> Iterator[VmUsage]:
    """Yield what ``usage_all`` has of these, and ask for no others."""
    for instance in listed:
        if instance.state == PowerState.SHUTOFF or not is_wanted(instance, wanted, stopped=False):
            continue
        try:
            yield inspector.usage(instance, caller=CALLER)
        except (
            virtmeter.InstanceNotFoundException,
            virtmeter.InstanceShutOffException,
            virtmeter.InspectionTimeout,  # the core says once that it hangs
        ):
            continue
        except virtmeter.InspectorException as error:
            if is_away(inspector, error):
                raise
            LOG.warning("a VM is left out of the usage: %s", error)


def _reasons(inspector: Inspector, instances: Iterable[Instance]) -> Iterator[tuple[str, str]]:
    """Yield the ids of those that do not run, and why; what is not told is left out."""
    for instance in instances:
        if instance.state != PowerState.RUNNING:
            with suppress(virtmeter.InspectorException):
                if reason := inspector.inspect_details(instance).reason:
                    yield instance.id, reason


def pause(begun: float, interval: float) -> float:
    """Return how long to wait for the next reading's time, which is an interval after the last."""
    return max(0.0, begun + interval - time.monotonic())


def sleep(begun: float, interval: float) -> None:
    """Wait for the next reading's time."""
    # Python may oversleep a Ctrl-C that comes just when it begins to sleep.
    while (left := pause(begun, interval)) > 0:
        time.sleep(min(left, AWAKE))


class Reader(threading.Thread):
    """Takes a reading each interval and hands it over; dies with the process, wherever it waits."""

    def __init__(
        self,
        source: Source,
        interval: float,
        came: Callable[[Snapshot], object],
        wanted: Sequence[str],
        turns: threading.Semaphore,
    ) -> None:
        """Start nothing yet.

        :param came: is called in this thread.
        :param turns: bounds how many read at a time.
        """
        super().__init__(name="virtmeter-watch", daemon=True)
        self._source = source
        self._interval = interval
        self._came = came
        self._wanted = wanted
        self._turns = turns
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until nobody watches any more."""
        while not self._ended.is_set():
            with about.target(self._source.target.name), self._turns, self._source.reading:
                begun = time.monotonic()
                snapshot = take(self._source, self._wanted)
            self._came(snapshot)
            self._ended.wait(pause(begun, self._interval))

    def end(self) -> None:
        """Have it end after the reading that it may be in; nobody needs to wait for that."""
        self._ended.set()


@contextmanager
def followed(
    sources: Sequence[Source], model: Model, came: Callable[[Snapshot], object]
) -> Iterator[None]:
    """Have each target read at its own pace meanwhile, and hand the readings over.

    :param came: is called in threads of the readers.
    """
    turns = threading.BoundedSemaphore(AT_ONCE)
    readers = [
        Reader(source, model.watched[source.target.name].interval, came, model.wanted, turns)
        for source in sources
    ]
    try:
        for reader in readers:
            reader.start()
        yield
    finally:
        for reader in readers:
            reader.end()
