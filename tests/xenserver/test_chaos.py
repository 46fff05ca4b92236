"""A thousand cycles of a pool in which everything goes wrong at random."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.remote import eventually, resident_kib, size
from tests.support.xapi import PASSWORD, Pool
from tests.xenserver.test_faults import ALL, is_well
from virtmeter import InspectorException

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.xenserver.conftest import Opens

CYCLES = 1000

#: What goes wrong in a cycle, each within moments.
FAULTS: list[dict[str, Any]] = [
    {"path": "/rrd_updates", "status": 500},
    {"path": "/rrd_updates", "status": 404},
    {"path": "/rrd_updates", "status": 401},
    {"path": "/rrd_updates", "status": 403},
    {"path": "/rrd_updates", "body": b""},
    {"path": "/rrd_updates", "body": b"<xport><meta><step>5</step>"},
    {"path": "/rrd_updates", "raw": b"\0\0\0"},
    {"path": "/rrd_updates", "cut": 0},
    {"path": "/rrd_updates", "cut": 5000},
    {"path": "/rrd_updates", "reset": True},
    {"path": "/rrd_updates", "length": 1},
    {"path": "/rrd_updates", "length": -1},
    {"path": "/vm_rrd", "status": 302},
    {"path": "/vm_rrd", "cut": 300},
    {"path": "/vm_rrd", "body": b"<rrd><ds><name>cpu0</name><last_ds>1e99</last_ds></ds><rra>"},
    {"method": "event.from", "error": ("EVENTS_LOST", "x")},
    {"method": "event.from", "error": ("INTERNAL_ERROR", "x")},
    {"method": "event.from", "error": ("SESSION_INVALID", "x")},
    {"method": "event.from", "body": b'{"jsonrpc":"2.0","id":1,"result":{}}'},
    {"method": "event.from", "cut": 100},
    {"method": "session.login_with_password", "error": ("HOST_STILL_BOOTING",)},
    {"method": "host.get_server_certificate", "error": ("HANDLE_INVALID", "host", "x")},
]


@pytest.mark.parametrize("data", ["xapi-1.249_8.2_drift", "xapi-26.17_steady"])
def test_a_thousand_cycles_with_faults(opens: Opens, data: str) -> None:
    chance, before = random.Random(data), threading.active_count()
    with Pool(data, hosts=2) as pool:
        inspector = opens(pool, password=lambda: PASSWORD, max_age=0.015)
        eventually(lambda: is_well(inspector))
        letters = {pool.vm(letter, host).uuid: letter for letter in "ABFGH" for host in (0, 1)}
        told: dict[str, float] = defaultdict(float)
        since_start: dict[tuple[str, str], int] = {}
        failed = whole = 0
        recorded: Any = pool.metrics
        truths = recorded.recording.truths

        def break_something() -> None:
            host = chance.choice(pool.hosts)
            host.fail(times=chance.randint(1, 2), **chance.choice(FAULTS))

        def heal() -> None:
            for host in pool.hosts:
                host.heal()

        doings: list[Callable[[], object]] = [
            *[break_something] * 6,
            pool.sessions.expire,
            pool.database.lose_events,
            pool.hosts[1].change_certificate,
            lambda: setattr(chance.choice(pool.hosts), "rrdd", False),
            *[heal] * 4,
        ]
        begin = pool.now
        after_some: tuple[tuple[int, int], int] | None = None
        for cycle in range(CYCLES):
            # What has failed is tried again after half a second, or later.
            time.sleep(0.02)
            pool.now = min(pool.now + chance.choice((0, 0, 0.5, 1, 1.4)), pool.end)
            if chance.random() < 0.1:
                chance.choice(doings)()
            try:
                for usage in inspector.usage_all():
                    share = usage.cpu_utilization
                    assert share is None or 0 <= share <= 100.5
                    if usage.id in letters:
                        told[usage.id] += (usage.network_read_kib or 0) * 1024
                        assert (usage.network_read_kib or 0) >= 0
                uuid = chance.choice(list(letters))
                for nic in inspector.inspect_vnics(uuid):
                    assert nic.rx_bytes_delta >= 0
                    least = since_start.get((uuid, nic.name), -1)
                    assert nic.rx_bytes >= least, "a counter fell"
                    since_start[uuid, nic.name] = nic.rx_bytes
                    device = nic.name.rpartition(".")[2]
                    truth = pool.truth(uuid, f"vif_{device}_rx") or 0
                    assert nic.rx_bytes <= truth * 1.00001 + 4096
                whole += 1
            except InspectorException:
                failed += 1
            if cycle == CYCLES // 4:
                after_some = size(), resident_kib()
        assert failed > 10, "nothing went wrong"
        assert whole > 100, "hardly anything went well"
        assert after_some is not None
        for host in pool.hosts:
            host.heal()
        eventually(lambda: is_well(inspector))
        pool.now = min(pool.now + 10, pool.end)
        assert len(inspector.usage_all()) >= ALL - 2  # D has been shut down by then, perhaps
        for uuid, letter in letters.items():
            source = recorded.guests[uuid].source
            names = [name for (owner, name) in truths if owner == source and name.endswith("_rx")]
            most = sum(
                (truths[source, name].at(pool.now) or truths[source, name].values[-1])
                - (truths[source, name].at(begin - 10) or truths[source, name].values[0])
                for name in names
            )
            assert told[uuid] <= most * 1.001 + 4096, f"{letter}: something was counted twice"
            assert told[uuid] > 0 or not names
        (threads, descriptors), resident = after_some
        now_threads, now_descriptors = size()
        assert now_threads <= threads + 8
        assert now_descriptors <= descriptors + 16
        assert resident_kib() < resident + 64 * 1024
        assert inspector.health().threads <= 32
    # Of the pool, those that were told to hang.
    assert threading.active_count() < before + 40
