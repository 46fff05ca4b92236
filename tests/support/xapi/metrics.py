"""What hosts tell about their VMs: what is asked, and what is answered, without the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.xapi.release import Release

# Steps of the archives, and how many rows they have.
ARCHIVES = ((5, 120), (60, 120), (3600, 168), (86400, 366))


class LibraryError(Exception):
    """What an exception of the RRD library makes HTTP 500 of."""


class Query(NamedTuple):
    """A question to /rrd_updates."""

    start: int
    interval: int = 5
    cf: str | None = None
    host: bool = False
    vms: tuple[str, ...] = ()
    json: bool = False

    def archive(self, last: float) -> int:
        """Return the step of the first archive that is coarse enough and has the start."""
        for step, rows in ARCHIVES:
            if step >= self.interval and self.begin(last) > last - rows * step:
                return step
        return ARCHIVES[-1][0]

    def begin(self, last: float) -> float:
        """Return the time of the start; a negative one is relative to the last reading."""
        return self.start if self.start >= 0 else last + self.start


class Updates(NamedTuple):
    """An answer to /rrd_updates."""

    start: int
    step: int
    end: int
    legend: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    @property
    def meta(self) -> dict[str, int]:
        return {
            "start": self.start,
            "step": self.step,
            "end": self.end,
            "rows": len(self.rows),
            "columns": len(self.legend),
        }

    def shifted(self, seconds: int) -> Updates:
        """Return the same by a clock that is fast by some seconds, a multiple of the step."""
        rows = [(t + seconds, row) for t, row in self.rows]
        return Updates(self.start + seconds, self.step, self.end + seconds, self.legend, rows)

    def xml(self) -> str:
        meta = "".join(f"<{name}>{value}</{name}>" for name, value in self.meta.items())
        legend = "".join(f"<entry>{escape(name)}</entry>" for name in self.legend)
        rows = "".join(
            f"<row><t>{t}</t>{''.join(f'<v>{value}</v>' for value in values)}</row>"
            for t, values in self.rows
        )
        data = f"<data>{rows}</data>" if rows else "<data/>"
        head = '<?xml version="1.0" encoding="UTF-8"?>\n<xport>'
        return f"{head}<meta>{meta}<legend>{legend}</legend></meta>{data}</xport>"

    def json(self, release: Release) -> str:
        if not self.rows and not release.accepts_json:
            raise LibraryError('Invalid_argument("index out of bounds")')
        return release.json_updates(self.meta, self.legend, self.rows)


class RawSource(NamedTuple):
    """A data source in /vm_rrd."""

    name: str
    type: str
    last: str
    updated: float

    @property
    def maximum(self) -> str:
        cpu = self.name == "cpu_usage" or (self.name[:3] == "cpu" and self.name[3:].isdigit())
        return "1" if cpu else "Infinity"


class Rrd(NamedTuple):
    """The head of an answer to /vm_rrd."""

    updated: float
    sources: list[RawSource]


@dataclass
class Guest:
    """A VM as the host's RRDs see it: where it is, and what a test did to it."""

    uuid: str
    #: Whose data it has, in a recording.
    source: str
    #: On which host its RRD is.
    host: int | None
    #: When a test started it: rows before are unknown.
    since: float = 0.0
    #: When a test started, rebooted or migrated it: counters begin at 0.
    counted_from: float = 0.0
    #: When a test paused and resumed it.
    pauses: list[tuple[float, float | None]] = field(default_factory=list)
    #: Devices like vif_1 or vbd_xvdb that a test unplugged: they read 0 from then on.
    unplugged: dict[str, float] = field(default_factory=dict)
    #: Devices that a test plugged in: they have no rows before.
    plugged: dict[str, float] = field(default_factory=dict)
    #: Devices that have no column at all.
    absent: set[str] = field(default_factory=set)

    @property
    def paused_since(self) -> float | None:
        """Return when it was paused, if it is."""
        return self.pauses[-1][0] if self.pauses and self.pauses[-1][1] is None else None

    def begin(self, now: float) -> None:
        """Begin anew with a new domain, as a VM that starts, reboots or has moved."""
        self.counted_from = now
        self.pauses.clear()
        self.unplugged.clear()
        self.plugged.clear()

    @staticmethod
    def device(name: str) -> str:
        """Return the device of a source: vif_1 of vif_1_rx, vbd_xvda of vbd_xvda_iops_read."""
        return "_".join(name.split("_")[:2]) if name.startswith(("vif_", "vbd_")) else ""


class Metrics(Protocol):
    """All that the hosts of a pool measure, at any time."""

    release: Release
    guests: dict[str, Guest]

    def updates(self, host: int, now: float, query: Query, clock: int = 0) -> str:
        """Return the body of an answer to /rrd_updates, or raise LibraryError.

        The host's clock is fast by some seconds: its answers are labelled by it.
        """

    def rrd(self, uuid: str, now: float) -> Rrd | None:
        """Return what /vm_rrd says of a VM at a time; None: there is no such RRD."""

    def truth(self, uuid: str, name: str, time: float) -> float | None:
        """Return what a source really was at a time."""

    def newest(self, uuid: str, name: str, now: float) -> float:
        """Return a source's value in the newest row of its host, or NaN."""
