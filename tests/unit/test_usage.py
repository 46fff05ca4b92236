"""Rates and usage over the scripted daemon: what every value is, and where it comes from."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample, xdr
from tests.support.libvirtd import Never, Then
from tests.support.procedures import (
    VIR_DOMAIN_RUNNING,
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_OPERATION_FAILED,
    VIR_FROM_QEMU,
    Disk,
    Error,
)

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

UUID = sample.UUID
SECOND = 10**9
HOST_CPUS = 8  # of the scripted daemon


@pytest.fixture(params=[False, True], ids=["singly", "in bulk"])
def domain(daemon: Daemon, request: pytest.FixtureRequest) -> Domain:
    domain = sample.domain(uuid=UUID, bulk=request.param)
    domain.max_memory_kib, domain.memory_kib = 1024 * 1024, 512 * 1024
    set_cpu_times(domain, 0, 0)
    daemon.add(domain)
    return domain


@pytest.fixture
def inspector(daemon: Daemon) -> virtmeter.LibvirtInspector:
    """Return one that never reads ahead of what a test sets."""
    return virtmeter.LibvirtInspector(daemon.uri, max_age=0)


def set_cpu_times(domain: Domain, vcpus: int, everything: int) -> None:
    """Set what the vCPUs have run, and what the whole domain has used."""
    domain.stats["vcpu.1.time"] = vcpus
    domain.cpu_time = everything
    if domain.bulk:
        domain.stats["cpu.time"] = everything


def set_nic(domain: Domain, received: int, sent: int, name: str = "tap1") -> None:
    domain.interfaces[name] = (received, 2, 3, 4, sent, 6, 7, 8)


def test_every_value_of_a_usage(
    daemon: Daemon, domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    first = inspector.usage(UUID)
    memory = (1024 * 1024, 100 * 1024, 400 * 1024, 512 * 1024)
    assert first == (UUID, None, 1, *[None] * 9, *memory, *[None] * 7)
    domain.memory[9] = 1_764_000_000
    # So little that it fits into any interval.
    set_cpu_times(domain, 50, 80)
    domain.stats["vcpu.1.wait"] = 1 + 20
    domain.stats["vcpu.1.delay"] = 1 * 2 + 30
    set_nic(domain, 1 + 1024, 5 + 3072)
    domain.disks["vda"].stats = (1 + 7, 2 + 512, 3 + 9, 4 + 2048, -1)
    usage = inspector.usage(UUID)
    assert usage.interval
    assert usage.cpu_utilization == pytest.approx(50 / (usage.interval * SECOND) * 100)
    assert usage[6:12] == (1.0, 3.0, 7, 9, 0.5, 2.0)
    assert usage[12:16] == memory
    assert usage.memory_updated == 1_764_000_000
    assert usage.cpu_wait == pytest.approx(20 / (usage.interval * SECOND) * 100)
    assert usage.cpu_steal == pytest.approx(30 / (usage.interval * SECOND) * 100)
    assert usage.cpu_interval == usage.interval
    if domain.bulk:
        assert usage.network_interval == usage.disk_interval == usage.interval
        share = 80 / (usage.interval * SECOND * HOST_CPUS)
        assert usage.host_cpu_utilization == pytest.approx(share * 100)
    else:  # each device is measured by a call of its own, and so is the whole domain
        assert usage.host_cpu_utilization
        assert usage.network_interval
        assert usage.disk_interval
    assert usage.disk_requests_interval == usage.disk_interval
    assert daemon.calls["NODE_GET_INFO"] <= daemon.connections


def test_a_usage_is_one_bulk_reading(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=UUID, bulk=True))
    set_cpu_times(domain, 1, 1)
    inspector = virtmeter.LibvirtInspector(daemon.uri, workers=1)
    inspector.usage(UUID)
    made = []
    for _ in range(5):  # on a busy machine, one may have to be read twice
        before = daemon.calls.copy()
        inspector.usage(UUID)
        made.append(daemon.calls - before)
    assert {"CONNECT_GET_ALL_DOMAIN_STATS": 1} in made


def test_cpu_is_never_over_100_percent(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    inspector.usage(UUID)
    set_cpu_times(domain, 2**63, 2**63)
    usage = inspector.usage(UUID)
    assert (usage.cpu_utilization, usage.host_cpu_utilization) == (100.0, 100.0)
    set_cpu_times(domain, 1, 1)
    usage = inspector.usage(UUID)
    assert usage.interval
    assert usage.host_cpu_utilization is None, "it went back, nobody knows why"
    # A vCPU's own does so as it is plugged in again: this is what it has run since.
    assert usage.cpu_utilization == pytest.approx(1 / (usage.interval * SECOND) * 100)
    assert inspector.usage(UUID).cpu_utilization == 0.0


def test_one_vcpu_that_tells_no_time(domain: Domain, inspector: virtmeter.LibvirtInspector) -> None:
    domain.vcpus, domain.stats["vcpu.current"] = 2, xdr.UInt(2)
    inspector.usage(UUID)
    set_cpu_times(domain, 10**6, 50)
    usage = inspector.usage(UUID)
    assert usage.cpu_interval
    assert usage.cpu_utilization == pytest.approx(50 / (2 * usage.cpu_interval * SECOND) * 100)


def test_rates_lie_between_what_the_clock_allows(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    methods = inspector.inspect_vnic_rates, inspector.inspect_disk_rates
    started = time.monotonic()
    assert [list(method(UUID)) for method in methods] == [[], []]
    read = time.monotonic()
    set_nic(domain, 1 + 10**9, 5)
    domain.disks["vda"].stats = (1 + 10, 2 + 20, 3, 4 + 10**6, -1)
    again = time.monotonic()
    [nic], [disk] = inspector.inspect_vnic_rates(UUID), inspector.inspect_disk_rates(UUID)
    ended = time.monotonic()
    longest, shortest = ended - started, again - read

    def is_possible(rate: float, added: int) -> bool:
        return added / longest <= rate and rate * shortest <= added

    assert nic[:4] == sample.answers()["inspect_vnics"][0][:4]
    assert is_possible(nic.rx_bytes_rate, 10**9)
    assert nic.tx_bytes_rate == 0.0
    assert disk.device == "vda"
    assert disk.read_requests_rate is not None
    assert is_possible(disk.read_requests_rate, 10)
    assert is_possible(disk.write_bytes_rate, 10**6)
    assert disk.write_requests_rate == 0.0


def test_a_nic_that_went_back_has_no_rate_once(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    for received, rates in [(1000, 0), (2000, 1), (10, 0), (20, 1), (-1, 0), (30, 1), (30, 1)]:
        set_nic(domain, received, 5)
        assert len(list(inspector.inspect_vnic_rates(UUID))) == rates, received


@pytest.mark.parametrize("group", ["interfaces", "disks"])
def test_what_goes_through_a_refused_device_is_told_with_its_next_counters(
    domain: Domain, inspector: virtmeter.LibvirtInspector, group: str
) -> None:
    def told(kib: int, *, refused: bool = False) -> tuple[float | None, float | None]:
        set_nic(domain, 1024 * kib, 5)
        domain.disks["vda"] = Disk(stats=(1, 1024 * kib, 1, 1, -1))
        if refused:
            setattr(domain, group, {})
        usage = inspector.usage(UUID)
        network, disks = usage.network_read_kib, usage.disk_read_kib
        assert (usage.network_interval is None) == (network is None)
        assert (usage.disk_interval is None) == (disks is None)
        domain.interfaces, domain.disks = {}, {}
        return (network, disks) if group == "interfaces" else (disks, network)

    assert told(0) == (None, None)
    assert told(1000) == (1000.0, 1000.0)
    assert told(2000, refused=True) == (None, 1000.0)
    assert told(3000, refused=True) == (None, 1000.0)
    assert told(5000) == (4000.0, 2000.0)
    assert told(6000) == (1000.0, 1000.0)


def test_memory_that_is_refused_takes_nothing_else_with_it(daemon: Daemon) -> None:
    daemon.add(domain := sample.domain(uuid=UUID))
    refused = Error(VIR_ERR_OPERATION_FAILED, VIR_FROM_QEMU, "no balloon here")
    daemon.on("DOMAIN_MEMORY_STATS", refused, repeat=True)
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        inspector.usage(UUID)
        set_nic(domain, 1 + 1024, 5)
        usage = inspector.usage(UUID)
    assert (usage.memory_used, usage.memory_free, usage.memory_total) == (None, None, 1024 * 1024)
    assert (usage.cpu_number, usage.network_read_kib) == (1, 1.0)


def test_what_libvirt_does_not_count_is_unknown_and_not_zero(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    told = []
    for received in (1024, -1, -1, 3 * 1024, 4 * 1024):
        set_nic(domain, received, 5)
        usage = inspector.usage(UUID)
        told.append((usage.network_read_kib, usage.network_write_kib))
    assert told == [(None, None)] * 3 + [(2.0, 0.0), (1.0, 0.0)]


@pytest.mark.parametrize("device", ["interface", "disk"])
def test_what_is_plugged_in_and_not_counted_is_unknown_and_not_zero(
    daemon: Daemon, inspector: virtmeter.LibvirtInspector, device: str
) -> None:
    domain = sample.domain(uuid=UUID, bulk=True)
    daemon.add(domain)
    inspector.usage(UUID)
    assert inspector.usage(UUID)[6:12] == (0.0, 0.0, 0, 0, 0.0, 0.0)
    if device == "interface":
        new = "<interface type='vhostuser'><mac address='52:54:00:00:00:02'/><target dev='new'/>"
        domain.interfaces["new"] = (-1,) * 8
    else:
        new = "<disk type='vhostuser' device='disk'><source type='unix'/><target dev='new'/>"
        domain.disks["new"] = Disk(stats=(-1,) * 5)
    domain.xml = domain.xml.replace("<devices>", f"<devices>{new}</{device}>")
    usage = inspector.usage(UUID)
    of_nics, of_disks = usage[6:8], usage[8:12]
    unknown, known = (of_nics, of_disks) if device == "interface" else (of_disks, of_nics)
    assert set(unknown) == {None}
    assert set(known) == {0}


def test_a_nic_without_a_name_is_counted_from_its_plugging_in_to_its_unplugging(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    """A virtual function has no counters in the bulk reading, which only numbers it."""
    mac, xml, tap = "52:54:00:00:00:02", domain.xml, domain.interfaces["tap1"]
    through = f"<interface type='hostdev'><mac address='{mac}'/></interface></devices>"
    told = []
    for kib in range(9):
        domain.xml = xml.replace("</devices>", through) if kib in range(2, 6) else xml
        domain.interfaces = {"tap1": (tap[0] + 1024 * kib, *tap[1:])}
        if kib in range(2, 6):
            domain.interfaces[mac] = (10240 * kib, 1, -1, -1, 0, 1, -1, -1)
        told.append(inspector.usage(UUID).network_read_kib)
    assert told == [None, 1.0, 1.0, 11.0, 11.0, 11.0, 1.0, 1.0, 1.0]


def test_where_all_nics_are_handed_through_and_not_counted_their_sum_is_unknown_and_not_zero(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    mac, tap = "52:54:00:00:00:02", domain.interfaces.pop("tap1")
    domain.xml = re.sub("<interface.*</interface>", "", domain.xml, flags=re.S)
    assert [inspector.usage(UUID).network_read_kib for _ in range(3)] == [None, 0.0, 0.0]
    through = f"<interface type='hostdev'><mac address='{mac}'/></interface>"
    domain.xml = domain.xml.replace("</devices>", f"{through}</devices>")
    assert [inspector.usage(UUID).network_read_kib for _ in range(2)] == [None, None]
    told = []
    for kib in range(3):
        domain.interfaces[mac] = (1024 * (1 + kib), *tap[1:])
        told.append(inspector.usage(UUID).network_read_kib)
    assert told == [None, 1.0, 1.0]


def test_nics_that_are_handed_through_are_no_part_of_the_sum_without_all_vnics(
    domain: Domain, daemon: Daemon
) -> None:
    mac, tap = "52:54:00:00:00:02", domain.interfaces.pop("tap1")
    through = f"<interface type='hostdev'><mac address='{mac}'/></interface>"
    domain.xml = re.sub("<interface.*</interface>", through, domain.xml, flags=re.S)
    told = []
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0, all_vnics=False) as inspector:
        for kib in range(3):
            domain.interfaces[mac] = (1024 * (1 + kib), *tap[1:])
            told.append(inspector.usage(UUID).network_read_kib)
            assert not [*inspector.inspect_vnics(UUID)]
            assert not [*inspector.inspect_vnic_rates(UUID)]
        assert [nic.mac for nic in inspector.inspect_details(UUID).nics] == [mac]
    assert told == [None, 0.0, 0.0]


def test_what_was_done_while_counters_went_back_is_unknown_and_not_zero(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    told = []
    for kib in (1000, 2000, 500, 501, 503, 7):
        set_nic(domain, 1024 * kib, 1024 * kib)
        domain.disks["vda"] = Disk(stats=(1, 1024 * kib, 1, 1, -1))
        usage = inspector.usage(UUID)
        network, disks = usage.network_read_kib, usage.disk_read_kib
        assert network == usage.network_write_kib == disks
        assert (network is None) == (usage.network_interval is None)
        assert (disks is None) == (usage.disk_interval is None) == (usage.disk_write_kib is None)
        told.append(network)
    assert told == [None, 1000.0, None, 1.0, 2.0, None]


def count(domain: Domain, kib: int) -> None:
    """Let each counter of a domain say so much."""
    set_nic(domain, 1024 * kib, 0)
    domain.disks["vda"] = Disk(stats=(kib, 1024 * kib, 0, 0, -1))
    set_cpu_times(domain, kib, kib)


def start(domain: Domain, kib: int) -> None:
    """Start a domain once more, so that it has another number, and let it count to that."""
    domain.id += 1
    domain.state = VIR_DOMAIN_RUNNING
    count(domain, kib)


def test_all_that_is_counted_at_a_new_start_is_new(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    def usage() -> tuple[float | None, ...]:
        usage = inspector.usage(UUID)
        assert usage.cpu_utilization is None or usage.interval
        cpu = usage.cpu_utilization and usage.cpu_utilization / 100 * (usage.interval or 0) * SECOND
        return (cpu and round(cpu), *usage[6:9], usage.disk_read_kib)

    def rates() -> list[float]:
        nics, disks = inspector.inspect_vnic_rates(UUID), inspector.inspect_disk_rates(UUID)
        return [*(nic.rx_bytes_rate for nic in nics), *(disk.read_bytes_rate for disk in disks)]

    def delta() -> int:
        return next(inspector.inspect_vnics(UUID)).rx_bytes_delta

    count(domain, 150)
    usage(), rates(), delta()
    domain.state = VIR_DOMAIN_SHUTOFF
    with pytest.raises(virtmeter.InstanceShutOffException):
        inspector.usage(UUID)
    start(domain, 400)
    assert usage() == (400, 400.0, 0.0, 400, 400.0)
    assert all(rate > 0 for rate in rates())
    assert delta() == 400 * 1024
    start(domain, 150)
    assert usage() == (150, 150.0, 0.0, 150, 150.0)
    assert all(rate > 0 for rate in rates())
    assert delta() == 150 * 1024
    count(domain, 151)
    assert usage() == (1, 1.0, 0.0, 1, 1.0)


def test_of_a_guest_that_was_gone_nothing_is_known_at_first(
    daemon: Daemon, domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    count(domain, 150)
    inspector.usage(UUID)
    del daemon.domains[UUID]
    with pytest.raises(virtmeter.InstanceNotFoundException):
        inspector.usage(UUID)
    start(domain, 400)
    daemon.add(domain)
    usage = inspector.usage(UUID)
    assert usage[3:12] == (None,) * 9
    assert usage.network_interval is usage.disk_interval is None


@pytest.mark.parametrize("number", [1, -1], ids=["in one start", "without a number"])
def test_devices_of_which_none_was_there_before_have_done_nobody_knows_what(
    domain: Domain, inspector: virtmeter.LibvirtInspector, number: int
) -> None:
    domain.id = number
    count(domain, 1000)
    inspector.usage(UUID)
    domain.xml = domain.xml.replace("'vda'", "'vdb'").replace("'tap1'", "'tap2'")
    domain.interfaces["tap2"] = domain.interfaces.pop("tap1")
    domain.disks["vdb"] = domain.disks.pop("vda")
    usage = inspector.usage(UUID)
    assert usage[6:12] == (None,) * 6
    assert usage.interval
    assert usage.network_interval is usage.disk_interval is None
    assert inspector.usage(UUID)[6:12] == (0.0, 0.0, 0, 0, 0.0, 0.0)


def test_a_refused_disk_has_a_rate_again_as_soon_as_it_is_read(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    disks = domain.disks.copy()
    assert list(inspector.inspect_disk_rates(UUID)) == []
    domain.disks.clear()
    assert list(inspector.inspect_disks(UUID)) == []
    assert list(inspector.inspect_disk_rates(UUID)) == []
    domain.disks.update(disks)
    assert [tuple(disk) for disk in inspector.inspect_disk_rates(UUID)] == [("vda", 0, 0, 0, 0)]


def test_a_disk_that_is_plugged_in_has_a_rate_from_its_second_reading_on(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    assert list(inspector.inspect_disk_rates(UUID)) == []
    more = "<disk><source file='/more'/><target dev='vdb'/></disk></devices>"
    domain.disks["vdb"] = Disk(stats=(2**40,) * 4 + (-1,))
    domain.xml = domain.xml.replace("</devices>", more)
    assert [disk.device for disk in inspector.inspect_disk_rates(UUID)] == ["vda"]
    assert [tuple(disk) for disk in inspector.inspect_disk_rates(UUID)] == [
        ("vda", 0.0, 0.0, 0.0, 0.0),
        ("vdb", 0.0, 0.0, 0.0, 0.0),
    ]


def test_callers_do_not_disturb_each_other(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    for caller in ("billing", "screen"):
        assert inspector.usage(UUID, caller=caller).interval is None
        assert list(inspector.inspect_vnic_rates(UUID, caller=caller)) == []
    for received in range(1025, 10241, 1024):
        set_nic(domain, received, 5)
        assert inspector.usage(UUID, caller="screen").network_read_kib == 1.0
        assert len(list(inspector.inspect_vnic_rates(UUID, caller="screen"))) == 1
    usage = inspector.usage(UUID, caller="billing")
    assert usage.network_read_kib == 9.0
    [rate] = inspector.inspect_vnic_rates(UUID, caller="billing")
    assert rate.rx_bytes_rate > 0
    assert list(inspector.inspect_disk_rates(UUID, caller="billing")) == []
    [nic] = inspector.inspect_vnics(UUID)
    assert nic.rx_bytes_delta == 0, "nor the deltas, which have their first reading now"


def test_a_callers_name_is_bounded(
    daemon: Daemon, domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    del domain
    calls = daemon.calls.copy()
    for ask in (
        partial(inspector.usage, UUID),
        partial(inspector.inspect_vnic_rates, UUID),
        partial(inspector.inspect_disk_rates, UUID),
        inspector.usage_all,
    ):
        with pytest.raises(ValueError, match="name may have at most 256 characters, not 257"):
            ask(caller="é" * 257)
    assert daemon.calls == calls
    assert inspector.usage(UUID, caller="é" * 256).interval is None
    assert inspector.usage(UUID, caller="é" * 256).interval


def test_of_many_callers_the_last_are_remembered(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    del domain
    inspector.usage(UUID, caller="first")
    for number in range(63):
        inspector.usage(UUID, caller=str(number))
    assert inspector.usage(UUID, caller="first").interval
    inspector.usage(UUID, caller="one more")
    assert inspector.usage(UUID, caller="first").interval
    assert inspector.usage(UUID, caller="0").interval is None


def test_a_vm_that_was_gone_begins_anew(
    daemon: Daemon, domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    inspector.usage(UUID)
    del daemon.domains[UUID]
    assert inspector.usage_all() == []
    daemon.add(domain)
    assert inspector.usage(UUID).interval is None
    inspector.list_instances()
    assert inspector.usage(UUID).interval


def test_threads_that_share_a_caller_share_what_was_used(
    daemon: Daemon, inspector: virtmeter.LibvirtInspector
) -> None:
    daemon.add(sample.domain(uuid=UUID))

    def grow(daemon: Daemon) -> None:
        received, *others = daemon.domains[UUID].interfaces["tap1"]
        daemon.domains[UUID].interfaces["tap1"] = (received + 1024, *others)  # type: ignore[assignment]

    daemon.on("DOMAIN_INTERFACE_STATS", Then(grow), repeat=True)
    # What the first call reads is nobody's usage, and of several at once any may be the first.
    assert inspector.usage(UUID).network_read_kib is None
    with ThreadPoolExecutor(4) as pool:
        usages = list(pool.map(lambda _: inspector.usage(UUID), range(40)))
    usages.append(inspector.usage(UUID))
    assert sum(usage.network_read_kib or 0 for usage in usages) == 41


def test_one_pass_over_the_host(daemon: Daemon, inspector: virtmeter.LibvirtInspector) -> None:
    daemon.add(*(sample.domain(number) for number in range(1, 6)))
    stopped, broken = list(daemon.domains.values())[1:3]
    stopped.state, stopped.id = VIR_DOMAIN_SHUTOFF, -1
    broken.xml = "<domain"
    names = ["sample-1", "sample-4", "sample-5"]
    assert [usage.name for usage in inspector.usage_all()] == names
    usages = inspector.usage_all()
    assert [usage.name for usage in usages] == names
    assert all(usage.interval and usage.network_read_kib == 0 for usage in usages)
    assert inspector.usage(usages[0]).interval, "one by one, the intervals are the same"


def test_a_pass_reads_nothing_for_the_next_one(daemon: Daemon) -> None:
    daemon.add(*(sample.domain(number, bulk=True) for number in range(1, 31)))
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    made = set()
    for _ in range(5):  # on a busy machine, some may have to be read twice
        before = daemon.calls.copy()
        usages = inspector.usage_all()
        assert len(usages) == 30
        after = daemon.calls.copy()
        made.add((after - before)["CONNECT_GET_ALL_DOMAIN_STATS"])
        time.sleep(0.1)
        assert daemon.calls == after
        if usages[0].interval:
            assert all((usage.interval or 0) >= 0.1 for usage in usages)
    assert 31 in made, "a list, and one for each"


def test_a_libvirt_that_does_not_even_answer_around_a_guest(daemon: Daemon) -> None:
    daemon.add(sample.domain(1, bulk=True), sample.domain(2, bulk=True))
    hung = next(iter(daemon.domains))
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Never(), uuid=hung, repeat=True)
    inspector = virtmeter.LibvirtInspector(daemon.uri, timeout=0.3)
    for _ in range(2):
        assert [usage.name for usage in inspector.usage_all()] == ["sample-2"]
    with pytest.raises(virtmeter.InspectionTimeout):
        inspector.usage(hung)


def test_exceptions_are_those_of_all_methods(
    daemon: Daemon, domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    methods = inspector.usage, inspector.inspect_vnic_rates, inspector.inspect_disk_rates
    for method in methods:
        with pytest.raises(virtmeter.InstanceNotFoundException):
            method("99999999-2222-3333-4444-555555555555")
        with pytest.raises(ValueError, match="not an instance's UUID"):
            method("vm")
    domain.state, domain.id = VIR_DOMAIN_SHUTOFF, -1
    for method in methods:
        with pytest.raises(virtmeter.InstanceShutOffException):
            method(UUID)
    daemon.stop()
    with pytest.raises(virtmeter.ConnectionLost):
        inspector.usage(UUID)
    with pytest.raises(virtmeter.ConnectionLost):
        inspector.usage_all()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_anew(domain: Domain, inspector: virtmeter.LibvirtInspector) -> None:
    del domain
    inspector.usage(UUID)
    inspector.close()
    child = os.fork()
    if not child:
        try:
            os._exit(inspector.usage(UUID).interval is not None)
        finally:  # it must not go on with the tests
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert inspector.usage(UUID).interval


def test_libvirts_own_test_hypervisor() -> None:
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        [first], [usage] = inspector.usage_all(), inspector.usage_all()
        assert (first.interval, usage.cpu_number) == (None, 2)
        assert usage.interval
        assert (usage.memory_total, usage.memory_target) == (8 * 1024**2, 2 * 1024**2)


@pytest.mark.parametrize("method", ["usage_all", "list_servers"])
def test_an_error_is_logged_once_though_a_number_in_its_words_is_new_each_time(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    daemon.add(sample.domain(uuid=UUID))
    refused = [
        *(Error(1, VIR_FROM_QEMU, f"no answer to request {n} (req-{n}a)") for n in range(9)),
        *(Error(1, VIR_FROM_QEMU, f"no answer to question {n}") for n in range(9)),
        *(Error(2, VIR_FROM_QEMU, f"no answer to question {n}") for n in range(9)),
    ]
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0, read_ahead=0) as inspector:
        for error in refused:
            daemon.off()
            daemon.on("DOMAIN_GET_XML_DESC", error, repeat=True)
            getattr(inspector, method)()
    said = [line.partition("] ")[2] for line in caplog.messages]
    assert said == ["no answer to request 0 (req-0a)", *["no answer to question 0"] * 2]
