"""How many calls a cycle costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.remote import at_rest
from tests.support.xapi import Pool, synthetic
from tests.xenserver.test_faults import ALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.xenserver.conftest import Opens
    from virtmeter import Inspector

AGE = 2.0


def of_usage(inspector: Inspector, _: list[str]) -> None:
    assert len(inspector.usage_all()) == ALL


def of_counters(inspector: Inspector, uuids: list[str]) -> None:
    for uuid in uuids:
        inspector.inspect_instance(uuid)
        list(inspector.inspect_vnics(uuid))
        list(inspector.inspect_disks(uuid))
        list(inspector.inspect_disk_info(uuid))


@pytest.mark.parametrize("cycle", [of_usage, of_counters])
@pytest.mark.parametrize("data", ["xapi-1.249_8.2_drift", "xapi-26.17_steady"])
def test_a_cycle_costs_a_call_a_pool_and_one_a_host(
    opens: Opens, data: str, cycle: Callable[[Inspector, list[str]], None]
) -> None:
    with Pool(data, hosts=2) as pool:
        inspector = opens(pool, max_age=AGE)
        uuids = [pool.vm(letter, host).uuid for letter in "ABDEFGH" for host in (0, 1)]
        # The counters since the start are read first.
        for _ in range(4):
            cycle(inspector, uuids)
            pool.now += 10
            time.sleep(AGE)
        assert pool.count("session.login_with_password") == 1
        assert pool.count("host.get_server_certificate") == 1
        vm_rrds = 0
        for _ in range(3):
            pool.forget()
            cycle(inspector, uuids)
            cycle(inspector, uuids)
            assert pool.count("event.from") == 1
            assert [pool.count("GET /rrd_updates", host) for host in (0, 1)] == [1, 1]
            vm_rrds += pool.count("GET /vm_rrd")
            asked = {name for _, name in pool.calls}
            assert asked <= {"event.from", "GET /rrd_updates", "GET /vm_rrd"}
            pool.now += 10
            time.sleep(AGE)
        # The self-check of newer releases reads two VMs of a host after a minute or more.
        assert vm_rrds <= (4 if data == "xapi-26.17_steady" else 0)


def test_rows_are_checked_by_the_same_vms_though_others_get_busier(opens: Opens) -> None:
    now = time.time()
    with synthetic(hosts=2, vms=6, delay=0.0, now=lambda: now) as pool:
        inspector = opens(pool)
        vm_rrds = []
        for cycle in range(61):
            assert len(inspector.usage_all()) == 12
            assert pool.count("event.from") == 1
            assert [pool.count("GET /rrd_updates", host) for host in (0, 1)] == [1, 1]
            if cycle % 6 == 0:  # nobody waits for what is read once a minute
                at_rest(inspector)
            vm_rrds.append(pool.count("GET /vm_rrd"))
            pool.forget()
            now += 10
        # Two of each host, of which the counters are read once, and compared a minute later.
        assert [count for count in vm_rrds if count] == [4, 4]
        assert all(host.compared and not host.differed for host in inspector.list_hosts())


@pytest.mark.parametrize(("release", "is_checked"), [("24.40.0", False), ("25.3.0", True)])
def test_rows_are_checked_where_they_can_be(opens: Opens, release: str, is_checked: bool) -> None:
    with Pool("xapi-26.17_steady", hosts=2, release=release) as pool:
        inspector = opens(pool)
        while pool.now < pool.end:
            inspector.usage_all()
            if (pool.now - pool.start) % 60 == 0:
                at_rest(inspector)
            pool.now += 10
        assert (pool.count("GET /vm_rrd") > 0) == is_checked
        assert all((host.compared > 0) == is_checked for host in inspector.list_hosts())
