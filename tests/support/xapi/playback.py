"""A recording as the hosts of a pool tell it, with what a test did to the VMs.

What a test does is approximated: rows within which a VM was paused, resumed, plugged or unplugged
are 0 or unknown as a whole, and a reboot or a migration does not touch rows at all (xapi 24.40 and
newer lose one or two). Where the release asked for is not the recorded one, numbers are printed
anew, and what was added up is five times as high where that release has it so; no more than that.
The archives of /vm_rrd are empty.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from tests.support.xapi.metrics import Guest, LibraryError, Query, RawSource, Rrd, Updates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.xapi.recording import Recording, Source
    from tests.support.xapi.release import Release

# When the plugins of xcp-rrdd read, after the first of them.
PLUGINS = {"cpu": 0.0, "mem": 0.001, "vif": 0.012, "vbd": 0.05}


def copied(uuid: str, host: int) -> str:
    """Return the uuid that stands on a further host for one of the recording."""
    return f"{uuid[:9]}{int(uuid[9:13], 16) ^ host << 8:04x}{uuid[13:]}"


def is_added_up(name: str) -> bool:
    """Say whether the library is given what was added since the last reading."""
    return any(part in name for part in ("_iops_", "_io_throughput_", "_iowait"))


class Playback:
    """Each further host has a copy of the recorded one's VMs, under other uuids."""

    def __init__(self, recording: Recording, hosts: int, release: Release) -> None:
        self.recording = recording
        self.release = release
        self.shuffled = True
        self._random = random.Random(1)
        self.hosts = [copied(recording.host, host) for host in range(hosts)]
        self.guests = {
            copied(uuid, host): Guest(copied(uuid, host), uuid, host)
            for host in range(hosts)
            for uuid in recording.vms.values()
        }

    def updates(self, host: int, now: float, query: Query, clock: int = 0) -> str:
        answer = self.answer(host, now, query).shifted(clock)
        return answer.json(self.release) if query.json else answer.xml()

    def answer(self, host: int, now: float, query: Query) -> Updates:
        last = self.recording.reading(now)
        step = query.archive(last)
        newest = self.recording.newest(now) // step * step
        archive = self.recording.archives.get(step)
        first = math.ceil(query.begin(last) / step) * step
        if archive is not None and first <= newest:
            first = max(first, archive.first)
        times = list(range(newest, first - 1, -step)) if archive else []
        if query.cf not in (None, "AVERAGE"):
            raise LibraryError("Rrd.No_RRA_Available")
        columns = list(self._columns(host, now, query))
        if not columns:
            raise LibraryError(
                "Rrd.No_RRA_Available" if self.release.accepts_json else 'Failure("hd")'
            )
        if query.cf is None and archive is not None:
            told = {source for source in archive.sources() if ":" in source[1]}
            columns += [
                (f"{cf}:host:{self.hosts[host]}:{name}", None, (uuid, f"{cf}:{name}"))
                for cf in ("MIN", "MAX")
                for _, guest, (uuid, name) in columns
                if guest is None and (uuid, f"{cf}:{name}") in told
            ]
        rows = [
            (t, [self._value(guest, source, t, step, now) for _, guest, source in columns])
            for t in times
        ]
        return Updates(first, step, newest, [entry for entry, _, _ in columns], rows)

    def _columns(
        self, host: int, now: float, query: Query
    ) -> Iterator[tuple[str, Guest | None, Source]]:
        """Yield the entries of the legend, whose they are, and their sources; in any order."""
        there: dict[str, list[Source]] = {}
        for source in self.recording.sources(now):
            there.setdefault(source[0], []).append(source)
        if self.shuffled:
            for sources in there.values():
                self._random.shuffle(sources)
        special = bool(query.vms) and self.release.knows_all
        wanted = None if not query.vms or (special and "all" in query.vms) else query.vms
        if query.host:
            for source in there.get(self.recording.host, []):
                yield f"AVERAGE:host:{self.hosts[host]}:{source[1]}", None, source
        guests = [guest for guest in list(self.guests.values()) if guest.host == host]
        if self.shuffled:
            self._random.shuffle(guests)
        for guest in guests:
            if wanted is not None and guest.uuid not in wanted:
                continue
            for source in there.get(guest.source, []):
                if Guest.device(source[1]) not in guest.absent:
                    yield f"AVERAGE:vm:{guest.uuid}:{source[1]}", guest, source

    def _value(self, guest: Guest | None, source: Source, t: int, step: int, now: float) -> str:
        """Return a value as the release prints it."""
        if guest is not None:
            if (changed := self._changed(guest, source[1], t, step)) is not None:
                return changed
            t -= self._lag(guest, step, now)
        value = self.recording.archives[step].value(source, t, now)
        same = self.release == self.recording.release
        if same or value in ("NaN", "Infinity", "-Infinity"):
            return value
        factor = 5 if self.release.multiplies_requests and is_added_up(source[1]) else 1
        return self.release.number(float(value) * factor)

    def _changed(self, guest: Guest, name: str, t: int, step: int) -> str | None:
        """Return what a test's doings make of a row; None: they do not touch it."""
        device = Guest.device(name)
        began = max(guest.since, guest.plugged.get(device, 0))
        if t - step < began:
            return "NaN"
        if t > guest.unplugged.get(device, math.inf):
            return "0.0"
        for paused, resumed in guest.pauses:
            frozen = resumed is None and self.release.freezes_paused
            if not frozen and paused < t and t - step < (resumed or math.inf):
                return "0.0"
        return None

    def _frozen_since(self, guest: Guest, now: float) -> float | None:
        """Return when a VM was paused whose RRD therefore stands still."""
        if guest.paused_since is not None and self.release.freezes_paused:
            return guest.paused_since
        return self.recording.frozen_since(guest.source, now)

    def _lag(self, guest: Guest, step: int, now: float) -> int:
        """Return by how much the rows of a frozen RRD stand under later times than theirs."""
        since = self._frozen_since(guest, now)
        if since is None:
            return 0
        rows = self.recording.newest(now) // step - int(self.recording.reading(since) // step)
        return rows * step

    def rrd(self, uuid: str, now: float) -> Rrd | None:
        guest = self.guests[uuid]
        if guest.host is None:
            return None
        frozen = self._frozen_since(guest, now)
        reading = self.recording.reading(now if frozen is None else frozen)
        sources = [
            self._raw(guest, source, reading)
            for source in self.recording.sources(now)
            if source[0] == guest.source and Guest.device(source[1]) not in guest.absent
        ]
        if not sources:
            return None
        return Rrd(max(source.updated for source in sources), sources)

    def _raw(self, guest: Guest, source: Source, reading: float) -> RawSource:
        truth = self.recording.truths[source]
        name = source[1]
        time = reading
        if self.release >= (24, 40, 0):
            time += PLUGINS[name[:3]]
        value = self.truth(guest.uuid, name, time)
        kind = "DERIVE" if truth.counter else "GAUGE"
        if truth.counter and is_added_up(name) and value is not None:
            kind = "ABSOLUTE"
            before = self.truth(guest.uuid, name, time - self.recording.period) or 0
            value = value - before if value >= before else value
        if value is None or time > guest.unplugged.get(Guest.device(name), math.inf):
            last = "0.0"  # what the library prints for unknown
        else:
            last = str(round(value)) if truth.whole else self.release.number(value)
        return RawSource(name, kind, last, time)

    def truth(self, uuid: str, name: str, time: float) -> float | None:
        guest = self.guests[uuid]
        source = (guest.source, name)
        truth = self.recording.truths.get(source)
        if truth is None:
            return None
        reset = self.recording.began(source)
        time = min(time, guest.unplugged.get(Guest.device(name), math.inf))
        value = truth.at(time, reset)
        if value is None or not truth.counter:
            return value
        # A test's start is a new counter, and what grew while it had paused the VM did not.
        began = max(guest.counted_from, guest.plugged.get(Guest.device(name), 0))
        if began:
            value -= truth.at(began, reset) or 0
        for paused, resumed in guest.pauses:
            if paused < time:
                grown = truth.at(min(time, resumed or math.inf), reset) or 0
                value -= grown - (truth.at(paused, reset) or 0)
        return value

    def newest(self, uuid: str, name: str, now: float) -> float:
        guest = self.guests[uuid]
        if guest.host is None or (guest.source, name) not in self.recording.sources(now):
            return math.nan
        t = self.recording.newest(now)
        return float(self._value(guest, (guest.source, name), t, 5, now))
