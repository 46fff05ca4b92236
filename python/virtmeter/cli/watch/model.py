"""What is watched: the VMs, in which order, and which of them. Pure: no terminal, no hypervisor."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, NamedTuple

from virtmeter import InspectorException
from virtmeter.cli import fleet
from virtmeter.cli.selection import check, is_wanted
from virtmeter.cli.text import natural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from virtmeter import Instance, VmUsage
    from virtmeter.cli.watch.readings import Snapshot

STEP = 5.0
"""Seconds that one character of the history stands for, or the interval where that is longer."""
KEPT = 120


@dataclass
class History:
    """Averages over steps of time, the youngest last; that one still changes."""

    values: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    """None: nothing is known of that step."""
    _step: int = -1
    _known: list[float] = field(default_factory=list)

    def add(self, now: float, value: float | None) -> None:
        """Add a value to the average of its step."""
        step = int(now // STEP)
        if step != self._step:
            self._step, self._known = step, []
            self.values.append(None)
        if value is not None:
            self._known.append(value)
            self.values[-1] = sum(self._known) / len(self._known)


@dataclass
class Row:
    """One VM."""

    id: str
    name: str
    state: int
    hung: bool
    busy: bool
    usage: VmUsage | None
    history: History
    reason: str
    """Why it does not run; empty if it does, or where that is not known."""
    target: str = ""
    """The name of its hypervisor, where there are several."""
    away: bool = False
    """Whether that could not be read the last time, so that all of this is old."""

    @property
    def memory_updated(self) -> int | None:
        """When the guest told its memory, seconds since the epoch."""
        return self.usage.memory_updated if self.usage else None

    def rate(self, name: str) -> float | None:
        """Return how much of something it has used, in a second."""
        return self.usage and self.usage.per_second(name)

    def rates(self, *names: str) -> float | None:
        """Return the sum of several, where there is any."""
        known = [rate for rate in map(self.rate, names) if rate is not None]
        return sum(known) if known else None


def name_of(row: Row) -> tuple[object, ...]:
    """Return a key that sorts by name, and the VMs of each target together."""
    return natural(row.target), natural(row.name), row.id


class Order(NamedTuple):
    """What rows can be sorted by."""

    what: str
    value: Callable[[Row], float | None]


def _value(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.usage and getattr(row.usage, name)


BY_NAME = "v"
ORDERS = {
    "c": Order("CPU", _value("cpu_utilization")),
    "w": Order("wait", _value("cpu_wait")),
    "s": Order("steal", _value("cpu_steal")),
    "m": Order("memory", _value("memory_used")),
    "n": Order("NICs", lambda row: row.rates("network_read_kib", "network_write_kib")),
    "d": Order("disks", lambda row: row.rates("disk_read_kib", "disk_write_kib")),
    "o": Order(
        "disk operations", lambda row: row.rates("disk_read_requests", "disk_write_requests")
    ),
    BY_NAME: Order("VM", lambda row: None),  # noqa: ARG005
}
"""By the keys that choose them; the greatest first, but names in their order."""


class NoneReadError(Exception):
    """Already the first reading of every target has failed."""

    def __init__(self, failed: Mapping[str, Exception]) -> None:
        """Take why, by the targets' names."""
        super().__init__()
        self.failed = failed


@dataclass
class Watched:
    """One target, as it was last read."""

    name: str = ""
    """Empty if it is the one of ``--uri``."""
    uri: str = ""
    interval: float = 0.0
    """Seconds between two readings."""
    readings: int = 0
    """How many have come, those that failed among them."""
    instances: Sequence[Instance] = ()
    rows: list[Row] = field(default_factory=list)
    told: Sequence[Row] = ()
    """Those of which the last reading told."""
    taken: float | None = None
    """When the last reading came that told anything."""
    error: Exception | None = None
    """Why the last reading told nothing, or not all."""
    away: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """The hosts that it lacked: by name, why, and for how many seconds by then."""

    @property
    def outage(self) -> str:
        """The same in words."""
        return fleet.why(self.error) if self.error else ""

    def update(self, snapshot: Snapshot, wanted: Sequence[str]) -> None:
        """Take in a reading; one that failed leaves the rows as they were, but for what it told.

        Beside those of other targets, they are marked. A single hypervisor's are old as a whole.
        """
        self.readings += 1
        self.error = snapshot.error
        usages = {usage.id: usage for usage in snapshot.usages}
        if snapshot.error:
            self.told = [row for row in self.rows if row.id in usages]
            for row in self.told:
                row.usage = usages[row.id]
                row.history.add(snapshot.taken, row.usage.cpu_utilization)
            for row in self.rows:
                row.away = bool(self.name) and row.id not in usages
            return
        self.taken, self.away, self.instances = snapshot.taken, snapshot.away, snapshot.instances
        histories = {row.id: row.history for row in self.rows}
        self.rows = [
            Row(
                *(each.id, each.name, each.state),
                *(each.id in snapshot.hung, each.id in snapshot.busy),
                usage=usages.get(each.id),
                history=histories.get(each.id) or History(),
                reason=snapshot.reasons.get(each.id, ""),
                target=self.name,
            )
            for each in snapshot.instances
            if is_wanted(each, wanted, stopped=False)
        ]
        for row in self.rows:
            row.history.add(snapshot.taken, row.usage and row.usage.cpu_utilization)
        self.told = self.rows


class Model:
    """The VMs as they were last read, and what the user has chosen to see of them."""

    def __init__(self, wanted: Sequence[str] = (), watched: Iterable[Watched] = ()) -> None:
        """Start without any VM.

        :param wanted: which VMs are to be watched, if not all that run.
        :param watched: the targets; by default, there is one, without a name.
        """
        self.watched = {each.name: each for each in watched} or {"": Watched()}
        self.order = "c"
        self.reverse = False
        self.filter = ""
        self.top = 0
        """The first row that the screen has room for."""
        self.wanted = wanted

    @property
    def rows(self) -> list[Row]:
        """The VMs of all targets."""
        return [row for each in self.watched.values() for row in each.rows]

    @property
    def has_names(self) -> bool:
        """Whether the targets have names, and the VMs are shown with them."""
        return "" not in self.watched

    @property
    def failed(self) -> dict[str, Exception]:
        """The targets whose last reading has failed, with why."""
        return {each.name: each.error for each in self.watched.values() if each.error}

    @property
    def status(self) -> int:
        """The exit status: 1 if one of several targets is away in the end."""
        return int(self.has_names and bool(self.failed))

    def update(self, snapshot: Snapshot) -> None:
        """Take in a reading; one that failed leaves the rows as they were.

        If already the first one fails of all targets, there is nothing to be watched.

        :raises Exception: why the first one of ``--uri`` failed.
        :raises NoneReadError: why those of all targets did.
        :raises click.UsageError: no target has a VM that was asked for.
        """
        watched = self.watched[snapshot.target]
        watched.update(snapshot, self.wanted)
        if snapshot.error and not self.has_names:
            if watched.taken is None or not isinstance(snapshot.error, InspectorException):
                raise snapshot.error
        elif watched.readings == 1 and all(each.readings for each in self.watched.values()):
            self._check()

    def _check(self) -> None:
        """See whether there is something to be watched, once all targets have been read."""
        if all(each.taken is None for each in self.watched.values()):
            raise NoneReadError(self.failed)
        if not self.failed:  # one that could not be read may have those that are missing
            listed = [vm for each in self.watched.values() for vm in each.instances]
            check(listed, self.wanted)

    def is_complete(self, count: int | None) -> bool:
        """Return whether there were so many readings of each target."""
        return count is not None and all(each.readings >= count for each in self.watched.values())

    def sort_by(self, key: str) -> None:
        """Sort by what this key stands for, in its usual direction."""
        self.order, self.reverse, self.top = key, False, 0

    def filter_by(self, text: str) -> None:
        """Show only VMs that have this in their name or target's, or begin their id with it."""
        self.filter, self.top = text, 0

    def shown(self) -> list[Row]:
        """Return the rows that pass the filter, in order; those without a value at the end."""
        rows = self._passing()
        rows.sort(key=name_of, reverse=self._names_reversed())
        if self.order == BY_NAME:
            return rows
        value = ORDERS[self.order].value
        known = [(row, each) for row in rows if (each := value(row)) is not None]
        known.sort(key=lambda pair: pair[1], reverse=not self.reverse)
        return [row for row, _ in known] + [row for row in rows if value(row) is None]

    def _passing(self) -> list[Row]:
        text = self.filter.lower()
        if not text:
            return self.rows
        return [
            row
            for row in self.rows
            if text in row.name.lower() or text in row.target.lower() or row.id.startswith(text)
        ]

    def _names_reversed(self) -> bool:
        return self.reverse and self.order == BY_NAME

    def scroll(self, by: int, room: int) -> None:
        """Move the part that the screen shows, which has room for so many rows."""
        self.top = max(0, min(self.top + by, len(self._passing()) - room))

    def total(self, of: Callable[[Row], float | None]) -> float | None:
        """Return the sum over all VMs that have this value now."""
        rows = (row for row in self.rows if not row.away)
        known: Iterable[float] = [each for each in map(of, rows) if each is not None]
        return sum(known) if known else None
