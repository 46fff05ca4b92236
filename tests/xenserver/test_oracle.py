"""Readings of a pool against the arithmetic of Ceilometer's last inspector for XenAPI.

That inspector, which no release has any more, asked ``VM.query_data_source`` for one value after
the other: each is the newest row's, the mean of its five seconds. What it made of them is written
down here anew, over PyPI's client of XAPI. Ours are the usage and the rates over just that row.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from shutil import which
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import XenAPI

import virtmeter
from tests.support.xapi import PASSWORD, SETS, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.xapi.changes import VM

pytestmark = pytest.mark.skipif(which("openssl") is None, reason="there is no openssl")

MIB = 2**20
ROW = 5


class Rates(NamedTuple):
    """Bytes in a second."""

    received: float
    sent: float


class Oracle:
    """What that inspector says of a VM."""

    def __init__(self, session: Any, vm: str) -> None:
        self.api = session.xenapi
        self.vm = vm

    def ask(self, source: str) -> float:
        return float(self.api.VM.query_data_source(self.vm, source))

    def cpu_util(self) -> float:
        """Percent, over all vCPUs that the VM may have."""
        most = int(self.api.VM.get_VCPUs_max(self.vm))
        return 100 * sum(self.ask(f"cpu{number}") for number in range(most)) / most

    def memory_usage(self) -> float:
        """MiB: all of it where no agent in the guest tells what is free."""
        free = self.ask("memory_internal_free") * 1024
        return (self.ask("memory") - (0 if math.isnan(free) else free)) / MIB

    def nics(self) -> dict[str, Rates]:
        """By the uuids of the VIFs, plugged in or not."""
        found = {}
        for ref in self.api.VM.get_VIFs(self.vm):
            vif = self.api.VIF.get_record(ref)
            rx, tx = (self.ask(f"vif_{vif['device']}_{way}") for way in ("rx", "tx"))
            found[vif["uuid"]] = Rates(rx, tx)
        return found

    def disks(self) -> dict[str, Rates]:
        """By their names in the guest, plugged in or not, with empty drives."""
        found = {}
        for ref in self.api.VM.get_VBDs(self.vm):
            device = self.api.VBD.get_record(ref)["device"]
            read, written = (self.ask(f"vbd_{device}_{what}") for what in ("read", "write"))
            found[device] = Rates(read, written)
        return found


class Ours(NamedTuple):
    """What virtmeter says of a VM over the newest row."""

    usage: virtmeter.VmUsage
    stats: virtmeter.InstanceStats
    nics: dict[str | None, Rates]
    disks: dict[str, Rates]


@contextmanager
def both(pool: Pool) -> Iterator[tuple[Any, virtmeter.Inspector]]:
    session = XenAPI.Session(pool.url, ignore_ssl=True)
    session.login_with_password("monitor", PASSWORD, "1.0", "virtmeter")
    try:
        with virtmeter.Inspector(pool.uri(), max_age=0.0, password=lambda: PASSWORD) as inspector:
            yield session, inspector
    finally:
        session("close")()


def over_a_row(pool: Pool, inspector: virtmeter.Inspector, vm: VM) -> Ours:
    """Let one row come, and return what was read over it."""

    def read() -> Ours:
        nics = inspector.inspect_vnic_rates(vm.uuid)
        disks = inspector.inspect_disk_rates(vm.uuid)
        return Ours(
            inspector.usage(vm.uuid),
            inspector.inspect_instance(vm.uuid),
            {n.parameters["interfaceid"]: Rates(n.rx_bytes_rate, n.tx_bytes_rate) for n in nics},
            {d.device: Rates(d.read_bytes_rate, d.write_bytes_rate) for d in disks},
        )

    read()
    pool.now += ROW
    ours = read()
    assert ours.usage.cpu_interval == ROW
    return ours


@pytest.fixture(params=[name for name in SETS if not name.endswith("boundary")])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """Hosts whose rows are true; of others, ours are not those of the rows."""
    with Pool(request.param) as pool:
        pool.now += 60
        yield pool


def approximately(rates: Rates) -> Any:
    """Ours are whole bytes, added up."""
    return pytest.approx(rates, rel=1e-4, abs=1)


def test_cpu_memory_nics_and_disks_are_the_same(pool: Pool) -> None:
    with both(pool) as (session, inspector):
        for letter in "AEH":
            vm = pool.vm(letter)
            ours, theirs = over_a_row(pool, inspector, vm), Oracle(session, vm.ref)
            assert ours.usage.cpu_utilization == pytest.approx(
                theirs.cpu_util(), rel=1e-3, abs=0.01
            )
            assert theirs.cpu_util() > 0
            assert ours.stats.memory_usage == pytest.approx(theirs.memory_usage(), rel=1e-4)
            nics, disks = theirs.nics(), theirs.disks()
            assert ours.nics.keys() == nics.keys()
            for uuid, rates in nics.items():
                assert ours.nics[uuid] == approximately(rates)
            for device, rates in ours.disks.items():
                assert rates == approximately(disks[device])
            assert all(map(any, (*nics.values(), *ours.disks.values()))) or letter != "A"


def test_cpu_is_of_the_vcpus_that_are_online(pool: Pool) -> None:
    """Two of four: at full load, it says 50 %."""
    with both(pool) as (session, inspector):
        vm = pool.vm("B")
        ours, theirs = over_a_row(pool, inspector, vm), Oracle(session, vm.ref)
        assert ours.usage.cpu_number == 2
        assert ours.usage.cpu_utilization == pytest.approx(
            2 * theirs.cpu_util(), rel=1e-3, abs=0.01
        )
        assert theirs.cpu_util() > 0


def test_memory_in_use_is_not_known_without_an_agent(pool: Pool) -> None:
    """It says: all of it."""
    with both(pool) as (session, inspector):
        vm = pool.vm("G")
        ours, theirs = over_a_row(pool, inspector, vm), Oracle(session, vm.ref)
        assert ours.stats.memory_usage is None
        assert ours.stats.memory_actual is not None
        assert theirs.memory_usage() == pytest.approx(ours.stats.memory_actual, rel=1e-4)


def test_memory_in_use_is_not_known_once_the_agent_is_gone(pool: Pool) -> None:
    """The source reads 0 from then on: it says, all of it."""
    vm = pool.vm("H")
    with both(pool) as (session, inspector):
        over_a_row(pool, inspector, vm)
        pool.now = pool.end - 4 * ROW
        ours, theirs = over_a_row(pool, inspector, vm), Oracle(session, vm.ref)
        assert theirs.ask("memory_internal_free") == 0
        assert ours.stats.memory_usage is None
        assert theirs.memory_usage() == pytest.approx(ours.stats.memory_actual, rel=1e-4)


def test_what_is_not_plugged_in_is_left_out(pool: Pool) -> None:
    """It has rates of 0, or none at all, for unplugged NICs and disks and for empty drives."""
    with both(pool) as (session, inspector):
        vm = pool.vm("A")
        vm.unplug("VIF", "2")
        vm.unplug("VBD", "xvdb")
        pool.now += 2 * ROW
        ours, theirs = over_a_row(pool, inspector, vm), Oracle(session, vm.ref)
        assert len(ours.nics) == 1
        assert len(theirs.nics()) == 2
        assert "xvdb" not in ours.disks
        assert theirs.disks()["xvdb"] == Rates(0, 0)


def test_an_interval_is_all_the_time_since_the_last_reading(pool: Pool) -> None:
    """It says what the last five seconds were, whenever it asks."""
    vm = pool.vm("A")
    with both(pool) as (session, inspector):
        begun = inspector.usage(vm.uuid)
        assert begun.cpu_utilization is None
        rows = []
        for _ in range(12):
            pool.now += ROW
            rows.append(Oracle(session, vm.ref).cpu_util())
        ours = inspector.usage(vm.uuid)
        assert ours.cpu_interval == 12 * ROW
        mean = sum(rows) / len(rows)
        assert ours.cpu_utilization == pytest.approx(mean, rel=1e-3, abs=0.01)
        assert abs(rows[-1] - mean) > 0.1


def test_requests_are_counted(pool: Pool) -> None:
    """It says 0."""
    vm = pool.vm("A")
    with both(pool) as (_, inspector):
        inspector.usage(vm.uuid)
        pool.now += 60
        usage = inspector.usage(vm.uuid)
        assert usage.disk_read_requests
        assert usage.disk_write_requests
