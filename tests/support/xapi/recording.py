"""A data set of tests/data/xenserver, which can be asked what the host would have said at a time.

Exact at the times of the recorded polls. At other times:
- a row of 5 s is taken from the last poll before that had it, else from the first after; rows do
  not change once they are told, save of frozen VMs (shifted here as the library does) and in the
  set `boundary`, where they are what the nearest polls said;
- when a row appears is computed from the period and phase of the readings;
- rows of 60 s and of an hour are those at the end of the recording, cut off at the time asked for;
- raw counters are the truth, interpolated between the ends of rows at the time of the last reading.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.xapi.release import Release

DATA = Path(__file__).parents[2] / "data" / "xenserver"
SETS = ("xapi-1.249_8.2_drift", "xapi-24.19_drift", "xapi-26.17_steady", "xapi-26.17_boundary")

# A data source: the owner's uuid and the name of the source.
Source = tuple[str, str]


class Xport(NamedTuple):
    """An answer to /rrd_updates in XML, with values as they were printed."""

    meta: dict[str, int]
    legend: list[str]
    rows: list[tuple[int, list[str]]]


def parse(text: str) -> Xport:
    head, _, data = text.partition("</legend>")
    meta = {name: int(value) for name, value in re.findall(r"<(\w+)>(\d+)</\1>", head)}
    legend = re.findall(r"<entry>(.*?)</entry>", head)
    rows = re.findall(r"<row><t>(\d+)</t>(.*?)</row>", data)
    return Xport(meta, legend, [(int(t), re.findall("<v>(.*?)</v>", row)) for t, row in rows])


def values(xport: Xport) -> dict[tuple[str, int], str]:
    """Return each value by its entry in the legend and the time of its row."""
    return {(entry, t): value for t, row in xport.rows for entry, value in zip(xport.legend, row)}


def read(data_set: str, name: str) -> str:
    """Return the text of a recorded file."""
    return gzip.decompress((DATA / data_set / f"{name}.gz").read_bytes()).decode()


class Truth(NamedTuple):
    """What a source was at the ends of rows."""

    counter: bool
    whole: bool
    times: list[int]
    values: list[float]

    def at(self, time: float, reset: float | None = None) -> float | None:
        """Return the value at a time; at a reset, the counter began anew from 0."""
        after = bisect_right(self.times, time)
        if after == 0:
            if reset is None or not reset <= time <= self.times[0] or not self.counter:
                return None
            return self.values[0] * (time - reset) / max(self.times[0] - reset, 1e-9)
        if after == len(self.times):  # a little beyond the last row: as it went on before
            last, grown = self.values[-1], time - self.times[-1]
            if grown > 10:
                return None
            if not self.counter or len(self.times) < 2 or self.values[-2] > last:
                return last
            return last + (last - self.values[-2]) * grown / (self.times[-1] - self.times[-2])
        (t0, t1) = self.times[after - 1 : after + 1]
        (v0, v1) = self.values[after - 1 : after + 1]
        if not self.counter:
            return v0
        if v1 < v0:
            began = t0 if reset is None else reset
            return v0 if time < began else v1 * (time - began) / (t1 - began)
        return v0 + (v1 - v0) * (time - t0) / (t1 - t0)


class Archive:
    """Rows of one step: what polls said about each row of each source, by the time of the poll."""

    def __init__(self) -> None:
        self._told: dict[Source, dict[int, list[tuple[float, str]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.first = 1 << 62
        self.cfs: dict[Source, list[str]] = defaultdict(list)

    def add(self, time: float, xport: Xport) -> None:
        for column, entry in enumerate(xport.legend):
            cf, _, uuid, name = entry.split(":", 3)
            source = (uuid, name if cf == "AVERAGE" else f"{cf}:{name}")
            for t, row in xport.rows:
                told = self._told[source][t]
                told.append((time, row[column]))
                told.sort(key=lambda each: each[0])
                self.first = min(self.first, t)

    def value(self, source: Source, t: int, now: float) -> str:
        """Return what was told last about a row, or will be told first."""
        told = self._told.get(source, {}).get(t)
        if not told:
            return "NaN"
        return told[max(bisect_right(told, (now, "\U0010ffff")) - 1, 0)][1]

    def sources(self) -> list[Source]:
        return list(self._told)


class Recording:
    """One data set."""

    def __init__(self, data_set: str) -> None:
        self.name = data_set
        scenario = json.loads(read(data_set, "scenario.json"))
        self.end: int = scenario["t_end"]
        self.start: int = self.end - 600
        self.host: str = scenario["host_uuid"]
        self.vms: dict[str, str] = scenario["vms"]
        self.events: dict[str, int] = scenario["events"]
        self.period: float = scenario["period"]
        # Found by comparing the newest rows of the polls with what a phase would make them.
        last = {"drift": -0.66, "steady": -3.8, "boundary": -2.0}[data_set.rpartition("_")[2]]
        self._last_reading: float = self.end + last
        records = json.loads(read(data_set, "xapi_records.json"))["records"]
        self.records: dict[str, dict[str, dict[str, object]]] = records
        build = next(iter(records["host"].values()))["software_version"]["xapi_build"]
        self.release = Release.parse(build)
        self.truths = self._read_truths()
        self.archives = {5: Archive(), 60: Archive(), 3600: Archive()}
        self._polls: list[tuple[float, int, set[Source]]] = []
        for number in range(11):
            self._add_poll(self.start + 60 * number, f"polls/every60_{number:02}.xml")
        for number in range(13):
            self._add_poll(self.end - 120 + 10 * number, f"polls/every10_{number:02}.xml")
        self._add_poll(self.end, "last600_5s.xml")
        self._polls.sort(key=lambda poll: poll[0])
        self._times = [time for time, _, _ in self._polls]
        self.archives[60].add(self.end, parse(read(data_set, "hour_60s_allcf.xml")))
        self.archives[3600].add(self.end, parse(read(data_set, "hours3_3600s.xml")))

    def _read_truths(self) -> dict[Source, Truth]:
        rows = defaultdict(list)
        with gzip.open(DATA / self.name / "truth.csv.gz", "rt") as file:
            for row in csv.DictReader(file):
                rows[row["uuid"], row["name"]].append(row)
        return {
            source: Truth(
                counter=told[0]["type"] == "counter",
                whole=all(row["value"].isdigit() for row in told),
                times=[int(row["t"]) for row in told],
                values=[float(row["value"]) for row in told],
            )
            for source, told in rows.items()
        }

    def _add_poll(self, time: float, name: str) -> None:
        xport = parse(read(self.name, name))
        sources = {(uuid, name) for _, _, uuid, name in (e.split(":", 3) for e in xport.legend)}
        if self.frozen_since(self.vms["F"], time) is not None:
            xport = self._without(xport, self.vms["F"])
        self.archives[5].add(time, xport)
        self._polls.append((time, xport.meta["end"], sources))

    @staticmethod
    def _without(xport: Xport, uuid: str) -> Xport:
        """Keep the legend and forget the rows, which stand under times that are not theirs."""
        columns = [n for n, entry in enumerate(xport.legend) if entry.split(":")[2] == uuid]
        legend = [entry for n, entry in enumerate(xport.legend) if n not in columns]
        rows = [(t, [v for n, v in enumerate(row) if n not in columns]) for t, row in xport.rows]
        return Xport(xport.meta, legend, rows)

    def reading(self, now: float) -> float:
        """Return when sources were read last."""
        turns = math.floor((now - self._last_reading) / self.period)
        return self._last_reading + turns * self.period

    def newest(self, now: float) -> int:
        """Return the time of the newest row of 5 s."""
        poll = bisect_left(self._times, now)
        if poll < len(self._times) and self._times[poll] == now:
            return self._polls[poll][1]
        return int(self.reading(now) // 5 * 5)

    def frozen_since(self, uuid: str, now: float) -> float | None:
        """Return when a VM was paused whose RRD therefore stands still; None: it does not."""
        if uuid != self.vms["F"] or not self.release.freezes_paused:
            return None
        paused, resumed = self.events["F is paused"], self.events["F resumes"]
        return paused if paused < now and self.reading(now) <= resumed else None

    def began(self, source: Source) -> float | None:
        """Return when a source appeared or began anew, if that was within the recording."""
        letter = next((letter for letter, uuid in self.vms.items() if uuid == source[0]), "host")
        if letter == "C":
            return self.events["C starts"]
        if letter == "E":
            return self.events["E reboots (new domid, counters anew)"]
        if letter == "A" and source[1].startswith("vbd_xvde_"):
            return self.events["xvde is plugged into A"]
        return None

    def sources(self, now: float) -> list[Source]:
        """Return what has a column at a time."""
        halted = self.events["D is shut down (its RRD leaves the host)"]
        there = []
        for source in self.truths:
            began = self.began(source)
            if source[0] == self.vms["D"] and now >= halted:
                continue
            if began is not None and source[0] != self.vms["E"] and self.reading(now) < began:
                continue
            there.append(source)
        return there


@cache
def recording(data_set: str) -> Recording:
    """Return a data set; it takes about a second to read, once."""
    return Recording(data_set)
