"""How far what is told is from the truth, once a minute for eight minutes.

What is told comes from answers of XenServer's own library, the truth is what its counters really
were: tests/data/xenserver has both.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import virtmeter
from benches.exactness import QUANTITIES, Errors, Used
from benches.usage import OURS
from benches.xenserver.peers import PEERS
from tests.support.xapi import PASSWORD, Pool
from tests.support.xapi.recording import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = (OURS, *PEERS)
MINUTES, MINUTE, ROW = 8, 60, 5
KIB = 1024
# Of less, a percentage means nothing: percent of the vCPUs, and KiB in a second.
LEAST = (1.0, 1.0, 1.0)


def measure(data: str) -> dict[tuple[str, str], Errors]:
    """Return the errors of all kinds and quantities."""
    found = {
        (kind, quantity): Errors(least=least)
        for kind in KINDS
        for quantity, least in zip(QUANTITIES, LEAST)
    }
    with Pool(data) as pool:
        told = {"urls": [host.url for host in pool.hosts], "user": "monitor", "password": PASSWORD}
        pool.now = pool.start + MINUTE
        peers = {name: kind(told, lambda: pool.now) for name, kind in PEERS.items()}
        with virtmeter.Inspector(pool.uri(), password=lambda: PASSWORD, max_age=0.0) as inspector:
            inspector.usage_all()
            (host,) = inspector.list_hosts()
            for _ in range(MINUTES):
                before, pool.now = host.newest, pool.now + MINUTE
                usages = inspector.usage_all()
                (host,) = inspector.list_hosts()
                assert before is not None
                assert host.newest is not None
                readings = {OURS: _ours(usages, host.newest - before)}
                readings |= {name: peer.read() for name, peer in peers.items()}
                for name, true in _truths(pool, before, host.newest):
                    for kind, reading in readings.items():
                        used = reading.get(name, Used())
                        for quantity, told_of, is_so in zip(QUANTITIES, used.each(), true.each()):
                            found[kind, quantity].pairs.append((told_of, is_so))
        for peer in peers.values():
            peer.close()
    return found


def _ours(usages: list[virtmeter.VmUsage], seconds: int) -> dict[str, Used]:
    """Return what was used, in a second of all the time: what was not covered is not told."""
    return {
        usage.name or usage.id: Used(
            (usage.cpu_utilization or 0.0) * (usage.interval or 0.0) / seconds,
            ((usage.network_read_kib or 0.0) + (usage.network_write_kib or 0.0)) / seconds,
            ((usage.disk_read_kib or 0.0) + (usage.disk_write_kib or 0.0)) / seconds,
        )
        for usage in usages
    }


def _truths(pool: Pool, begin: int, end: int) -> Iterator[tuple[str, Used]]:
    """Yield what each VM that ran used between the ends of two rows, by its name."""
    seconds = end - begin
    tables = pool.database.tables
    names = defaultdict(list)
    for uuid, name in recording(pool.name).truths:
        names[uuid].append(name)
    for vm in tables["VM"].values():
        if vm["is_control_domain"] or vm["power_state"] != "Running":
            continue
        uuid = vm["uuid"]
        grown = {name: _growth(pool, uuid, name, begin, end) for name in names[uuid]}
        cpu = sum(
            value for name, value in grown.items() if name[:3] == "cpu" and name[3:].isdigit()
        )
        online = int(tables["VM_metrics"][vm["metrics"]]["VCPUs_number"])
        vcpus = online or int(vm["VCPUs_at_startup"])
        network = sum(value for name, value in grown.items() if name.endswith(("_rx", "_tx")))
        disk = sum(
            value
            for name, value in grown.items()
            if name.startswith("vbd_")
            and name.count("_") == 2
            and name.endswith(("_read", "_write"))
        )
        yield (
            vm["name_label"],
            Used(cpu / vcpus / seconds * 100, network / KIB / seconds, disk / KIB / seconds),
        )


def _growth(pool: Pool, uuid: str, name: str, begin: int, end: int) -> float:
    """Return by how much a counter grew; at a new start it begins at 0."""
    values = [pool.truth(uuid, name, time) for time in range(begin, end + 1, ROW)]
    grown = 0.0
    for before, after in zip(values, values[1:]):
        if after is not None:
            grown += after - before if before is not None and before <= after else after
    return grown
