"""A large pool for benchmarks, whose counters follow a formula.

Every counter grows by a rate that is the same throughout a row of 5 s and repeats every twelve
rows; all numbers are such that rows hold them exactly. VMs may stop; nothing else that a test does
to them changes what is measured.
"""

from __future__ import annotations

import math
import time
import uuid as uuids
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from tests.support.xapi.metrics import Guest, LibraryError, Query, RawSource, Rrd, Updates
from tests.support.xapi.pool import Pool
from tests.support.xapi.recording import recording
from tests.support.xapi.records import Database, Record
from tests.support.xapi.release import Release
from tests.support.xapi.scenario import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD = 12
FACTORS = (0.5, 1.5, 1.0, 0.75, 1.25, 1.0, 1.5, 0.5, 1.25, 0.75, 1.0, 1.0)
MEAN = sum(FACTORS) / PERIOD
#: Sources are read so many seconds after each multiple of 5.
PHASE = 3.2
DISK = ("read", "write", "iops_read", "iops_write", "iops_total", "iowait")
GAUGES = ("inflight", "latency", "read_latency")
SOURCES = (
    *("cpu0", "cpu1", "cpu2", "cpu3", "cpu_usage"),
    *("memory", "memory_target", "memory_internal_free"),
    *("vif_0_rx", "vif_0_tx", "vif_1_rx", "vif_1_tx"),
    *(f"vbd_{disk}_{what}" for disk in ("xvda", "xvdb") for what in DISK + GAUGES),
)


def base(name: str, vm: int) -> float:
    """Return a counter's mean rate in a second, or a gauge's value."""
    if name.startswith("cpu"):
        return (1 + (vm + len(name)) % 16) / 32
    if name == "memory_internal_free":
        return 524288.0 + 1024 * (vm % 64)
    if name.startswith("memory"):
        return 2147483648.0
    if name.endswith("iowait"):
        return 0.125
    if is_gauge(name):
        return 512.0
    if "iops" in name:
        return 8.0 + 4 * (vm % 8)
    return 4096.0 * (1 + (vm * 7 + len(name)) % 1000)


def is_gauge(name: str) -> bool:
    return name.startswith("memory") or name.endswith(GAUGES)


def rate(name: str, vm: int, row: int) -> float:
    """Return what a row has of a source."""
    value = base(name, vm)
    return value if is_gauge(name) else value * FACTORS[(row + vm) % PERIOD]


class Synthetic:
    """What the hosts of such a pool measure."""

    def __init__(self, vms: list[list[str]], sources: int, now: float) -> None:
        self.release = Release(26, 17, 0)
        self.names = SOURCES[:sources]
        self.began = int(now) // 5 * 5 - 3600
        self._vms = vms
        self._numbers = {uuid: n for n, uuid in enumerate(chain.from_iterable(vms))}
        self.guests = {
            uuid: Guest(uuid, uuid, host) for host, there in enumerate(vms) for uuid in there
        }
        self._answered = 0
        self._text: Callable[[tuple[str, ...], int | None], str] = lru_cache(None)(self._row)
        self._legend: Callable[[tuple[str, ...]], str] = lru_cache(None)(self._entries)

    def _residents(self, host: int, query: Query) -> tuple[str, ...]:
        """Return the VMs in an order that changes from one answer to the next."""
        there = [uuid for uuid in self._vms[host] if self.guests[uuid].host == host]
        if query.vms:
            there = [uuid for uuid in there if uuid in query.vms]
        self._answered += 1
        return tuple(reversed(there) if self._answered % 2 else there)

    def _columns(self, vms: tuple[str, ...]) -> list[tuple[str, str]]:
        return [(uuid, name) for uuid in vms for name in self.names]

    def _row(self, vms: tuple[str, ...], row: int | None) -> str:
        """Return the values of a row; None: of a coarse one, which has the mean."""
        return "".join(f"<v>{value}</v>" for value in self._values(vms, row))

    def _values(self, vms: tuple[str, ...], row: int | None) -> list[str]:
        return [
            self.release.number(
                base(name, self._numbers[uuid])
                if row is None
                else rate(name, self._numbers[uuid], row)
            )
            for uuid, name in self._columns(vms)
        ]

    def _entries(self, vms: tuple[str, ...]) -> str:
        return "".join(
            f"<entry>AVERAGE:vm:{uuid}:{name}</entry>" for uuid, name in self._columns(vms)
        )

    def updates(self, host: int, now: float, query: Query, clock: int = 0) -> str:
        if query.cf not in (None, "AVERAGE"):
            raise LibraryError("Rrd.No_RRA_Available")
        last = self._reading(now)
        step = query.archive(last)
        newest = int(last // step * step)
        start = max(
            math.ceil(query.begin(last) / step) * step, self.began + step if step == 5 else 0
        )
        times = range(newest, start - 1, -step)
        vms = self._residents(host, query)
        rows = [(t, None if step > 5 else t // 5 % PERIOD) for t in times]
        answer = Updates(
            start,
            step,
            newest,
            [f"AVERAGE:vm:{uuid}:{name}" for uuid, name in self._columns(vms)],
            [(t, self._values(vms, row) if query.json else ()) for t, row in rows],
        ).shifted(clock)
        if query.json:
            return answer.json(self.release)
        meta = "".join(f"<{name}>{value}</{name}>" for name, value in answer.meta.items())
        body = "".join(f"<row><t>{t + clock}</t>{self._text(vms, row)}</row>" for t, row in rows)
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<xport><meta>{meta}<legend>'
            f"{self._legend(vms)}</legend></meta><data>{body}</data></xport>"
        )

    @staticmethod
    def _reading(now: float) -> float:
        return math.floor((now - PHASE) / 5) * 5 + PHASE

    def rrd(self, uuid: str, now: float) -> Rrd | None:
        if self.guests[uuid].host is None:
            return None
        time = self._reading(now)
        sources = []
        for name in self.names:
            value = self.truth(uuid, name, time) or 0.0
            kind = "GAUGE" if is_gauge(name) else "DERIVE"
            if "iops" in name or "iowait" in name:
                kind = "ABSOLUTE"
                value -= self.truth(uuid, name, time - 5) or 0.0
            whole = kind == "DERIVE" and name.startswith("v")
            last = str(int(value)) if whole else self.release.number(value)
            sources.append(RawSource(name, kind, last, time))
        return Rrd(time, sources)

    def truth(self, uuid: str, name: str, time: float) -> float | None:
        """Return what a source really was at a time."""
        vm = self._numbers[uuid]
        if is_gauge(name):
            return base(name, vm)
        # Row n is the five seconds that end at 5 n.
        row = math.floor(time / 5)
        rows = row - self.began // 5
        turns, rest = divmod(rows, PERIOD)
        grown = turns * PERIOD * MEAN + sum(FACTORS[(row - n + vm) % PERIOD] for n in range(rest))
        within = (time - 5 * row) / 5 * FACTORS[(row + 1 + vm) % PERIOD]
        return 5 * base(name, vm) * (grown + within)

    def newest(self, uuid: str, name: str, now: float) -> float:
        if self.guests[uuid].host is None or name not in self.names:
            return math.nan
        return rate(name, self._numbers[uuid], int(self._reading(now) // 5))


def records(hosts: int, vms: int) -> dict[str, dict[str, Record]]:
    """Return a pool's records: each VM has 4 vCPUs, 2 NICs and 2 disks."""
    models = recording("xapi-26.17_steady").records
    tables: dict[str, dict[str, Record]] = {name: {} for name in CLASSES}

    def add(name: str, model: Record, **fields: object) -> str:
        # The same references in every process, so that their order is, too.
        seed = f"{name} {sum(map(len, tables.values()))}"
        uuid = str(uuids.uuid5(uuids.NAMESPACE_OID, seed))
        record = {**model, "uuid": uuid, **fields}
        tables[name][f"OpaqueRef:{uuid}"] = record
        return f"OpaqueRef:{uuid}"

    def first(name: str) -> Record:
        return next(iter(models[name].values()))

    for host in range(hosts):
        metrics = add("host_metrics", first("host_metrics"))
        name = f"xcp{host + 1}"
        there = add("host", first("host"), metrics=metrics, name_label=name, hostname=name)
        for number in range(vms):
            fields = {
                "metrics": add("VM_metrics", first("VM_metrics")),
                "guest_metrics": add("VM_guest_metrics", first("VM_guest_metrics")),
                "resident_on": there,
                "domid": number + 1,
                "name_label": f"vm-{host + 1}-{number + 1}",
            }
            vm = add("VM", first("VM"), **fields)
            vifs = [
                add("VIF", first("VIF"), VM=vm, device=str(n), MAC=mac(host * vms + number, n))
                for n in range(2)
            ]
            disks = []
            for n, device in enumerate(("xvda", "xvdb")):
                image = add("VDI", first("VDI"), name_label=f"disk {device}")
                disk = {"VM": vm, "VDI": image, "device": device, "userdevice": str(n)}
                disks.append(add("VBD", first("VBD"), **disk))
                tables["VDI"][image]["VBDs"] = disks[-1:]
            tables["VM"][vm].update(VIFs=vifs, VBDs=disks)
    add("pool", first("pool"), master=next(iter(tables["host"])))
    return tables


def mac(vm: int, device: int) -> str:
    digits = f"{vm:06x}"
    return f"aa:bb:{digits[:2]}:{digits[2:4]}:{digits[4:]}:{device:02x}"


def synthetic(
    hosts: int = 64,
    vms: int = 16,
    sources: int = 30,
    delay: float = 0.5,
    now: Callable[[], float] = time.time,
) -> Pool:
    """Return a pool, to be used in a `with` statement; its time is the real one by default."""
    if not 0 < sources <= len(SOURCES):
        message = f"there are 1 to {len(SOURCES)} sources"
        raise ValueError(message)
    tables = records(hosts, vms)
    there: dict[str, list[str]] = {ref: [] for ref in tables["host"]}
    for vm in tables["VM"].values():
        there[vm["resident_on"]].append(vm["uuid"])
    metrics = Synthetic(list(there.values()), sources, now())
    pool = Pool(now=now, parts=(metrics, Database(tables)))
    for host in pool.hosts:
        host.delay = delay
    return pool
