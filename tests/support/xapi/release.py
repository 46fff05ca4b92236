"""What answers look like in a release of xapi."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Release(NamedTuple):
    """A release of xapi, as in a host's software_version["xapi_build"]."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, build: str) -> Release:
        numbers = [int(part) for part in build.split(".")]
        return cls(*([*numbers, 0, 0])[:3])

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @property
    def freezes_paused(self) -> bool:
        """The RRD of a paused VM stands still, and its old rows come under current times."""
        return self < (25, 22, 0)

    @property
    def multiplies_requests(self) -> bool:
        """Sources that count what was added since the last reading are five times too high."""
        return (25, 2, 0) <= self < (25, 31, 0)

    @property
    def knows_all(self) -> bool:
        """``vm_uuid=all`` and ``none`` are no ordinary uuids."""
        return self < (26, 7, 0)

    @property
    def accepts_json(self) -> bool:
        """The header Accept is read, and ``*/*`` means JSON."""
        return self >= (23, 17, 0)

    @property
    def tells_thumbprints(self) -> bool:
        """HOST_IS_SLAVE comes with the master's thumbprint if one asks for it."""
        return self >= (24, 1, 0)

    def number(self, value: float) -> str:
        """Print as the library does what it knows as a float."""
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        if value == 0:
            return "0.0"
        if self < (23, 26, 0):
            return f"{value:0.4f}"
        return f"{value:0.5g}" if self < (25, 3, 0) else f"{value:0.15g}"

    def last_update(self, time: float) -> str:
        """Print ``<lastupdate>``: an integer, save in a few releases."""
        if self < (24, 40, 0) or self >= (25, 8, 0):
            return str(int(time))
        return self.number(time)

    def json_updates(
        self, meta: dict[str, int], legend: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]
    ) -> str:
        """Print the answer to /rrd_updates in this release's kind of JSON."""
        names = ",".join(f'"{name}"' for name in legend)
        if self < (23, 26, 0):  # a literal of JavaScript
            head = ",".join(f"{key}:{value}" for key, value in meta.items())
            data = ",".join(f"{{t:{t},values:[{','.join(row)}]}}" for t, row in rows)
            return f"{{meta: {{{head},legend:[{names}]}},data:[{data}]}}"
        head = ",".join(f'"{key}":"{value}"' for key, value in meta.items())
        data = ",".join(
            f'{{"t":"{t}","values":[{",".join(f"{chr(34)}{value}{chr(34)}" for value in row)}]}}'
            for t, row in rows
        )
        if self < (24, 11, 0):  # `data` within `meta`
            return f'{{"meta":{{{head},"legend":[{names}],"data":[{data}]}}}}'
        return f'{{"meta":{{{head},"legend":[{names}]}},"data":[{data}]}}'
