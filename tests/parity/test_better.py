"""Where virtmeter differs from the oracle on purpose: one test for each row of docs/parity.md.

Each test runs the oracle too, so that a row goes when the oracle changes its ways.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ceilometer
import libvirt
import pytest
import tenacity
from ceilometer.compute.virt import inspector as virt_inspector

import virtmeter
from tests.support import sample, xdr
from tests.support.libvirtd import Daemon, Never, Reply, Then
from tests.support.oracle import (
    ADDED,
    METHODS,
    Pair,
    as_dict,
    outcome,
    shared_fields,
    stock_inspector,
)
from tests.support.procedures import (
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_AUTH_FAILED,
    VIR_ERR_NO_SUPPORT,
    VIR_ERR_OPERATION_FAILED,
    VIR_ERR_SYSTEM_ERROR,
    VIR_FROM_QEMU,
    VIR_FROM_RPC,
    Disk,
    Domain,
    Error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

UUID, OTHER = sample.UUID, "99999999-2222-3333-4444-555555555555"
LISTS = METHODS[1:]
REFUSED = Error(VIR_ERR_OPERATION_FAILED, VIR_FROM_QEMU, "not now")


@pytest.fixture
def pair(daemon: Daemon) -> Pair:
    daemon.add(sample.domain(uuid=UUID))
    return Pair(daemon.uri)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stock inspector try again at once: its pauses of 3 and 6 s change no outcome."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)


def stock(pair: Pair, method: str, uuid: str = UUID) -> list[Any]:
    """Ask the oracle, and let its exceptions through."""
    return list(getattr(pair.stock, method)(SimpleNamespace(id=uuid), None))


def test_instance_stats_is_a_tuple(pair: Pair) -> None:
    ours = pair.ours.inspect_instance(UUID)
    theirs = pair.stock.inspect_instance(SimpleNamespace(id=UUID))
    assert as_dict(ours) == as_dict(theirs)
    names = shared_fields(ours)
    assert ours[: len(names)] == tuple(vars(theirs)[name] for name in names)
    with pytest.raises(TypeError, match="not iterable"):
        tuple(theirs)


def test_what_the_stock_inspector_does_not_have(pair: Pair, daemon: Daemon) -> None:
    def read() -> list[tuple[Any, ...]]:
        records = pair.ours.inspect_instance(UUID), *pair.ours.inspect_disks(UUID)
        return [record[len(shared_fields(record)) :] for record in records]

    theirs = pair.stock.inspect_instance(SimpleNamespace(id=UUID)), *stock(pair, "inspect_disks")
    for record, names in zip(theirs, ADDED.values()):
        assert not [name for name in names if hasattr(record, name)]
    [size] = pair.ours.inspect_disk_info(UUID)
    assert size[len(shared_fields(size)) :] == (None,), "its file is not on this host"
    assert read() == [(1, 2, 21, 1, 10.0, 4, 1, None, None, 1000, 1), (7, 1, 1)]
    domain = daemon.domains[UUID]
    domain.memory[9] = 1_764_000_000
    assert read()[0][-3] == 1_764_000_000
    domain.memory, domain.disks["vda"].flags = {}, {}
    # One vCPU has its wait and its delay, and the other nothing.
    domain.stats["vcpu.current"] = xdr.UInt(2)
    assert read() == [(*(None,) * 10, 1), (None, None, 1)]


def test_rates_that_the_stock_inspector_never_fills(pair: Pair, daemon: Daemon) -> None:
    for method in ("inspect_vnic_rates", "inspect_disk_rates"):
        with pytest.raises(ceilometer.NotImplementedError):
            getattr(pair.stock, method)(SimpleNamespace(id=UUID), None)
        assert list(getattr(pair.ours, method)(UUID)) == [], "there is no interval yet"
    daemon.domains[UUID].interfaces["tap1"] = (1001, 2, 3, 4, 5, 6, 7, 8)
    [nic] = pair.ours.inspect_vnic_rates(UUID)
    assert nic.rx_bytes_rate > 0
    assert nic.tx_bytes_rate == 0
    [disk] = pair.ours.inspect_disk_rates(UUID)
    assert set(disk[1:]) == {0.0}


@pytest.mark.parametrize("method", LISTS)
def test_failures_come_from_the_call_itself(pair: Pair, daemon: Daemon, method: str) -> None:
    daemon.domains.clear()
    lazy = getattr(pair.stock, method)(SimpleNamespace(id=UUID), None)
    with pytest.raises(virt_inspector.InstanceNotFoundException):
        next(lazy)
    with pytest.raises(virtmeter.InstanceNotFoundException):
        getattr(pair.ours, method)(UUID)


@pytest.mark.parametrize("method", METHODS)
def test_an_id_that_is_no_uuid_is_a_value_error(pair: Pair, method: str) -> None:
    for wrong in ("instance-0000002a", f"{{{UUID}}}", f"urn:uuid:{UUID}"):
        assert outcome(pair.stock, method, wrong) == "InstanceNotFoundException"
        with pytest.raises(ValueError, match="not an instance's UUID"):
            getattr(pair.ours, method)(wrong)


def plug_through(domain: Domain, kind: str, mac: str) -> None:
    nic = f"<interface type='{kind}'><mac address='{mac}'/><model type='virtio'/></interface>"
    domain.xml = domain.xml.replace("</devices>", f"{nic}</devices>")


def test_a_nic_that_is_handed_through_is_told_by_its_mac(daemon: Daemon) -> None:
    mac = "52:54:00:00:00:99"
    domain = sample.domain(uuid=UUID, bulk=True)
    plug_through(domain, "vdpa", mac)
    daemon.add(domain)
    assert len(Pair(daemon.uri).assert_equal(UUID, "inspect_vnics")["inspect_vnics"]) == 1
    daemon.calls.clear()
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as ours:
        for _ in range(2):
            tap, through = ours.inspect_vnics(UUID)
            assert (tap.name, through.name, through.mac) == ("tap1", mac, mac)
            assert through[4:] == (*[-1] * 8, 0, 0, None), "it may have counted before the start"
            assert ours.usage(UUID).network_read_kib in (None, 0.0)
        assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 0
        assert [nic.mac for nic in ours.inspect_details(UUID).nics][-1] == mac
    with virtmeter.LibvirtInspector(daemon.uri, all_vnics=False) as ours:
        [alone] = ours.inspect_vnics(UUID)
        assert alone.name == "tap1"


def test_what_goes_through_a_virtual_function_is_counted_by_its_mac(daemon: Daemon) -> None:
    mac = "52:54:00:00:00:99"
    domain = sample.domain(uuid=UUID, bulk=True)
    plug_through(domain, "hostdev", mac)
    daemon.add(domain)
    used: list[float | None] = []

    def told(received: int | None, sent: int = 0) -> tuple[int, ...]:
        domain.interfaces.pop(mac, None)
        if received is not None:  # as libvirt has them of a virtual function, in its order
            domain.interfaces[mac] = (received, 3, -1, -1, sent, 4, -1, -1)
        used.append(ours.usage(UUID).network_read_kib)
        *_, nic = ours.inspect_vnics(UUID)
        assert nic.name == nic.mac == mac
        assert (nic.rx_errors, nic.tx_drop, nic.start) == (-1, -1, None)
        return nic.rx_bytes, nic.tx_bytes, nic.rx_packets, nic.rx_bytes_delta

    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as ours:
        assert told(None) == (-1, -1, -1, 0), "libvirt refuses, and says why"
        [line] = ours.health().refused[UUID]
        assert f'"{mac}" of instance {UUID} has no counters: ' in line
        assert told(1024, 2048) == (1024, 2048, 3, 0), "it may have counted before the start"
        assert UUID not in ours.health().refused
        assert told(None) == (-1, -1, -1, 0)
        assert told(1024 + 5120, 2048) == (6144, 2048, 3, 5120)
        domain.interfaces[mac] = (0, 0, -1, -1, 0, 0, -1, -1)
        *_, nic = ours.inspect_vnics(UUID)
        assert nic.rx_bytes == nic.tx_packets == -1, "what a driver has that does not count"
    # Before it has counted, it is no part of the total, which later waits for it.
    assert used == [None, 0.0, None, 5.0]


def test_of_nics_with_one_mac_only_the_one_that_libvirt_answers_for_is_counted(
    daemon: Daemon,
) -> None:
    domain = sample.domain(uuid=UUID, bulk=True)
    [tap_mac] = re.findall("<mac address='([^']*)'", domain.xml)
    vf_mac = "52:54:00:00:00:99"
    for mac in (tap_mac, vf_mac, vf_mac):  # in one team with the tap, and two that are alike
        plug_through(domain, "hostdev", mac)
    daemon.add(domain)
    [tap] = domain.interfaces.values()

    def receives(more: int) -> None:
        for mac, nic in ("tap1", tap), (tap_mac, tap), (vf_mac, (4096, 3, -1, -1, 1, 1, -1, -1)):
            domain.interfaces[mac] = (nic[0] + more, *nic[1:])

    receives(0)
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as ours:
        used = [ours.usage(UUID).network_read_kib]
        list(ours.inspect_vnic_rates(UUID))
        told = [nic.rx_bytes for nic in ours.inspect_vnics(UUID)]
        assert told == [tap[0], -1, 4096, -1]
        receives(1024)
        used.append(ours.usage(UUID).network_read_kib)
        rates = [nic.name for nic in ours.inspect_vnic_rates(UUID)]
        assert rates == ["tap1", vf_mac]
        deltas = [nic.rx_bytes_delta for nic in ours.inspect_vnics(UUID)]
        assert deltas == [1024, 0, 1024, 0]
    assert used == [None, 2.0]


def test_libvirt_before_6_9_is_not_asked_for_a_virtual_function(daemon: Daemon) -> None:
    mac = "52:54:00:00:00:99"
    domain = sample.domain(uuid=UUID, bulk=True)
    plug_through(domain, "hostdev", mac)
    domain.interfaces[mac] = (1,) * 8
    daemon.add(domain)
    daemon.on("CONNECT_GET_LIB_VERSION", Reply(xdr.pack("Q", 6_008_000)), repeat=True)
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as ours:
        for _ in range(2):
            *_, through = ours.inspect_vnics(UUID)
            assert through[4:12] == (-1,) * 8
    assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 0
    assert daemon.calls["CONNECT_GET_LIB_VERSION"] == 1


def test_memory_in_use_is_never_below_zero(daemon: Daemon) -> None:
    domain = sample.domain(uuid=UUID)
    available, usable = 5, 8
    domain.memory = {**domain.memory, available: 1 << 20, usable: 3 << 20}
    daemon.add(domain)
    pair = Pair(daemon.uri)
    both = pair.assert_equal(UUID, "inspect_instance")["inspect_instance"]
    assert isinstance(both, list)
    assert both[0]["memory_usage"] == ("float", -2048.0)
    with virtmeter.LibvirtInspector(daemon.uri) as ours:
        stats = ours.inspect_instance(UUID)
    assert stats.memory_usage is None
    assert stats.memory_available == 1024


def test_cpu_time_while_vcpus_are_unplugged(daemon: Daemon) -> None:
    def plug(vcpus: int, each: int) -> None:
        times = {f"vcpu.{number}.time": each for number in range(vcpus)}
        waits = {f"vcpu.{number}.wait": 0 for number in range(vcpus)}
        count = {"vcpu.current": xdr.UInt(vcpus), "vcpu.maximum": xdr.UInt(8)}
        domain.stats = {**count, **times, **waits, "cpu.time": 900}

    domain = sample.domain(uuid=UUID, bulk=True)
    daemon.add(domain)
    pair = Pair(daemon.uri)
    told = []
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as library:
        for vcpus, each in [(8, 100), (4, 101)]:
            plug(vcpus, each)
            pair.ours.close()
            both = pair.assert_equal(UUID, "inspect_instance")["inspect_instance"]
            assert isinstance(both, list)
            told.append((both[0]["cpu_time"], library.inspect_instance(UUID).cpu_time))
    assert told == [(("int", 800), 800), (("int", 404), 804)]


def test_libvirtd_down_at_the_start(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=UUID))
    daemon.stop()
    ours = virtmeter.LibvirtInspector(daemon.uri)
    with pytest.raises(libvirt.libvirtError):
        stock_inspector(daemon.uri)
    daemon.start()
    assert ours.inspect_instance(UUID)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("method", METHODS)
def test_libvirtd_down_later(pair: Pair, daemon: Daemon, method: str) -> None:
    daemon.stop()
    with pytest.raises((tenacity.RetryError, libvirt.libvirtError)):
        stock(pair, method)
    assert outcome(pair.ours, method, UUID) == "ConnectionLost"


@pytest.mark.parametrize("method", LISTS)
def test_a_connection_that_breaks_is_replaced(pair: Pair, daemon: Daemon, method: str) -> None:
    broken = Error(VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC, "broken pipe")
    daemon.on("DOMAIN_GET_XML_DESC", broken)
    with pytest.raises(libvirt.libvirtError):
        stock(pair, method)
    daemon.on("DOMAIN_GET_XML_DESC", broken)
    assert sample.read(pair.ours, method, UUID) == sample.answers()[method]


def test_an_open_that_is_refused_is_no_missing_instance(pair: Pair, daemon: Daemon) -> None:
    refused = Error(VIR_ERR_AUTH_FAILED, VIR_FROM_RPC, "authentication failed")
    del pair.stock._libvirt_connection
    daemon.on("CONNECT_OPEN", refused)
    assert outcome(pair.stock, "inspect_instance", UUID) == "InstanceNotFoundException"
    daemon.on("CONNECT_OPEN", refused)
    assert outcome(pair.ours, "inspect_instance", UUID) == "ConnectionLost"


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("what", ["state", "XML"])
def test_a_refusal_after_the_lookup_is_no_data(
    pair: Pair, daemon: Daemon, method: str, what: str
) -> None:
    daemon.on({"state": "DOMAIN_GET_INFO", "XML": "DOMAIN_GET_XML_DESC"}[what], REFUSED)
    with pytest.raises(libvirt.libvirtError, match="not now"):
        stock(pair, method)
    # The bulk reading tells the state.
    procedures = {"state": "CONNECT_GET_ALL_DOMAIN_STATS", "XML": "DOMAIN_GET_XML_DESC"}
    daemon.on(procedures[what], REFUSED)
    assert outcome(pair.ours, method, UUID) == "NoDataException"


def test_an_instance_that_vanishes_before_its_statistics(pair: Pair, daemon: Daemon) -> None:
    vanish = Then(lambda daemon: daemon.domains.clear())
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", vanish)
    with pytest.raises(IndexError):
        stock(pair, "inspect_instance")
    daemon.add(sample.domain(uuid=UUID))
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", vanish)
    assert outcome(pair.ours, "inspect_instance", UUID) == "InstanceNotFoundException"


DEVICES = [("inspect_vnics", "DOMAIN_INTERFACE_STATS"), ("inspect_disks", "DOMAIN_BLOCK_STATS")]


@pytest.mark.parametrize(("method", "procedure"), DEVICES)
def test_a_connection_that_breaks_at_a_device(
    pair: Pair, daemon: Daemon, method: str, procedure: str
) -> None:
    broken = Error(VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC, "broken pipe")
    daemon.on(procedure, broken)
    assert stock(pair, method) == []
    daemon.on(procedure, broken)
    assert sample.read(pair.ours, method, UUID) == sample.answers()[method]


@pytest.mark.parametrize(("method", "procedure"), DEVICES)
def test_an_instance_that_vanishes_before_its_devices(
    pair: Pair, daemon: Daemon, method: str, procedure: str
) -> None:
    vanish = Then(lambda daemon: daemon.domains.clear())
    daemon.on(procedure, vanish)
    assert stock(pair, method) == []
    daemon.add(sample.domain(uuid=UUID))
    daemon.on(procedure, vanish)
    assert outcome(pair.ours, method, UUID) == "InstanceNotFoundException"


def test_an_instance_that_vanishes_before_its_disks_info(pair: Pair, daemon: Daemon) -> None:
    vanish = Then(lambda daemon: daemon.domains.clear())
    daemon.on("DOMAIN_GET_BLOCK_INFO", vanish)
    with pytest.raises(libvirt.libvirtError):
        stock(pair, "inspect_disk_info")
    daemon.add(sample.domain(uuid=UUID))
    daemon.on("DOMAIN_GET_BLOCK_INFO", vanish)
    assert outcome(pair.ours, "inspect_disk_info", UUID) == "InstanceNotFoundException"


def shut_off(daemon: Daemon) -> None:
    daemon.domains[UUID].state, daemon.domains[UUID].id = VIR_DOMAIN_SHUTOFF, -1


@pytest.mark.parametrize(("method", "procedure"), DEVICES)
def test_an_instance_that_is_shut_off_before_its_devices_are_read(
    pair: Pair, daemon: Daemon, method: str, procedure: str
) -> None:
    daemon.on(procedure, Then(shut_off))
    assert stock(pair, method) == []
    daemon.add(sample.domain(uuid=UUID))
    daemon.on(procedure, Then(shut_off))
    assert outcome(pair.ours, method, UUID) == "InstanceShutOffException"


def test_a_uri_that_libvirt_refuses() -> None:
    with pytest.raises(libvirt.libvirtError):
        stock_inspector("foo:///system")
    ours = virtmeter.LibvirtInspector("foo:///system")
    with pytest.raises(ValueError, match="cannot open the URI"):
        ours.inspect_instance(UUID)


def test_parameters_that_are_no_integers(pair: Pair, daemon: Daemon) -> None:
    daemon.domains[UUID].stats["perf.cpu_cycles"] = xdr.Double(0.5)
    assert pair.stock.inspect_instance(SimpleNamespace(id=UUID)).cpu_cycles == 0.5
    assert pair.ours.inspect_instance(UUID).cpu_cycles is None


def test_the_info_of_a_refused_disk_is_left_out(pair: Pair, daemon: Daemon) -> None:
    domain = daemon.domains[UUID]
    domain.xml = domain.xml.replace(
        "<interface", "<disk><source/><target dev='vdb'/></disk><interface", 1
    )
    domain.disks["vdb"] = Disk(info=(1, 2, 3))
    daemon.on("DOMAIN_GET_BLOCK_INFO", REFUSED, device="vda")
    with pytest.raises(libvirt.libvirtError, match="not now"):
        stock(pair, "inspect_disk_info")
    daemon.on("DOMAIN_GET_BLOCK_INFO", REFUSED, device="vda")
    assert list(pair.ours.inspect_disk_info(UUID)) == [("vdb", 3, 2, 3, None)]


def test_a_disk_without_times(pair: Pair, daemon: Daemon) -> None:
    daemon.domains[UUID].disks["vda"].flags = {"rd_bytes": xdr.LLong(1)}
    with pytest.raises(KeyError, match="total_times"):
        stock(pair, "inspect_disks")
    [disk] = pair.ours.inspect_disks(UUID)
    assert (disk.rd_total_times, disk.wr_total_times) == (None, None)


def test_a_driver_without_bulk_statistics(pair: Pair, daemon: Daemon) -> None:
    """LXC's, for one: the library asks for what single calls tell."""
    daemon.domains[UUID].cpu_time = 7
    refused = Error(VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_DOMAIN)
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", refused, repeat=True)
    assert outcome(pair.stock, "inspect_instance", UUID) == "NoDataException"
    assert outcome(pair.ours, "inspect_instance", UUID) == "NoDataException", "in the agent"
    with virtmeter.LibvirtInspector(daemon.uri) as library:
        before = daemon.calls["DOMAIN_GET_INFO"]
        stats = library.inspect_instance(UUID)
        assert (stats.power_state, stats.cpu_number, stats.cpu_time) == (1, 1, 7)
        assert daemon.calls["DOMAIN_GET_INFO"] == before + 1
        assert stats.memory_actual == 512
        assert (stats.vcpu_time, stats.vcpu_wait, stats.instructions) == (None, None, None)
        daemon.on("DOMAIN_MEMORY_STATS", refused, repeat=True)
        stats = library.inspect_instance(UUID)
        assert (stats.cpu_time, stats.memory_actual) == (7, None)
        daemon.domains[UUID].state = VIR_DOMAIN_SHUTOFF
        assert outcome(library, "inspect_instance", UUID) == "InstanceShutOffException"


def test_deltas_belong_to_the_instance(pair: Pair, daemon: Daemon) -> None:
    other = sample.domain(uuid=OTHER)
    other.interfaces = {"tap1": (1_000_000, 0, 0, 0, 1_000_000, 0, 0, 0)}
    daemon.add(other)
    stock(pair, "inspect_vnics")
    [theirs] = stock(pair, "inspect_vnics", OTHER)
    assert theirs.rx_bytes_delta == 999_999, "counted against another VM's NIC of that name"
    list(pair.ours.inspect_vnics(UUID))
    [ours] = pair.ours.inspect_vnics(OTHER)
    assert ours.rx_bytes_delta == 0


def test_deltas_are_forgotten_with_the_instance(pair: Pair, daemon: Daemon) -> None:
    for ask in (lambda: stock(pair, "inspect_vnics"), lambda: list(pair.ours.inspect_vnics(UUID))):
        assert ask()[0].rx_bytes_delta == 0
    domain = daemon.domains.pop(UUID)
    assert outcome(pair.stock, "inspect_vnics", UUID) == "InstanceNotFoundException"
    assert outcome(pair.ours, "inspect_vnics", UUID) == "InstanceNotFoundException"
    # Another VM comes, with that UUID and that device: nothing of it was counted before.
    domain.interfaces = {"tap1": (500, 0, 0, 0, 500, 0, 0, 0)}
    daemon.add(domain)
    assert stock(pair, "inspect_vnics")[0].rx_bytes_delta == 499
    assert next(pair.ours.inspect_vnics(UUID)).rx_bytes_delta == 0


def test_deltas_over_a_new_start(pair: Pair, daemon: Daemon) -> None:
    library = virtmeter.LibvirtInspector(daemon.uri, max_age=0)

    def deltas() -> list[int]:
        theirs, ours = stock(pair, "inspect_vnics"), list(pair.ours.inspect_vnics(UUID))
        return [nic.rx_bytes_delta for [nic] in (theirs, ours, list(library.inspect_vnics(UUID)))]

    domain = daemon.domains[UUID]
    domain.interfaces["tap1"] = (150, 0, 0, 0, 150, 0, 0, 0)
    assert deltas() == [0, 0, 0]
    domain.id += 1
    domain.interfaces["tap1"] = (400, 0, 0, 0, 400, 0, 0, 0)
    pair.ours.close()
    assert deltas() == [250, 250, 400]


def test_deltas_over_a_counter_that_is_not_counted(pair: Pair, daemon: Daemon) -> None:
    def deltas(ask: Callable[[], Any]) -> list[int]:
        said = []
        for received in (1000, -1, 1005):
            daemon.domains[UUID].interfaces["tap1"] = (received, 2, 3, 4, 5, 6, 7, 8)
            said.append(ask()[0].rx_bytes_delta)
        return said

    assert deltas(lambda: stock(pair, "inspect_vnics")) == [0, -1, 1006]
    ours = virtmeter.LibvirtInspector(daemon.uri, max_age=0)
    assert deltas(lambda: list(ours.inspect_vnics(UUID))) == [0, 0, 5]


def test_deltas_are_forgotten_with_the_device(pair: Pair, daemon: Daemon) -> None:
    domain = daemon.domains[UUID]
    domain.bulk = True  # the names of the NICs there tell that they have changed
    plugged, counters = domain.xml, domain.interfaces
    stock(pair, "inspect_vnics")
    list(pair.ours.inspect_vnics(UUID))
    domain.xml, domain.interfaces = "<domain/>", {}
    assert pair.assert_equal(UUID, "inspect_vnics") == {"inspect_vnics": []}
    domain.xml, domain.interfaces = plugged, {"tap1": (500, 0, 0, 0, 500, 0, 0, 0)}
    assert counters["tap1"][0] == 1
    assert stock(pair, "inspect_vnics")[0].rx_bytes_delta == 499
    assert next(pair.ours.inspect_vnics(UUID)).rx_bytes_delta == 0


def test_a_filter_parameter_without_a_name(pair: Pair, daemon: Daemon) -> None:
    domain = daemon.domains[UUID]
    domain.xml = domain.xml.replace(
        "<parameter name='IP'", "<parameter value='x'/><parameter name='IP'"
    )
    with pytest.raises(AttributeError):
        stock(pair, "inspect_vnics")
    assert sample.read(pair.ours, "inspect_vnics", UUID) == sample.answers()["inspect_vnics"]


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("xml", ["", "<domain>", "not XML", "<domain>" * 300 + "</domain>" * 300])
def test_xml_that_cannot_be_read_is_no_data(
    pair: Pair, daemon: Daemon, method: str, xml: str
) -> None:
    daemon.domains[UUID].xml = xml
    with pytest.raises(SyntaxError):
        stock(pair, method)
    with pytest.raises(virtmeter.NoDataException, match="invalid domain XML"):
        getattr(pair.ours, method)(UUID)


@pytest.mark.parametrize("method", LISTS)
def test_xml_that_is_not_utf8_is_no_data(pair: Pair, daemon: Daemon, method: str) -> None:
    domain = daemon.domains[UUID]
    domain.xml = domain.xml.replace("vda", "\udcff").replace("tap1", "\udcff")
    with pytest.raises(UnicodeDecodeError):
        stock(pair, method)
    with pytest.raises(virtmeter.NoDataException, match="utf-8"):
        getattr(pair.ours, method)(UUID)


@pytest.mark.parametrize("method", LISTS)
def test_xml_that_names_its_encoding(pair: Pair, daemon: Daemon, method: str) -> None:
    domain = daemon.domains[UUID]
    domain.xml = f"<?xml version='1.0' encoding='UTF-8'?>{domain.xml.strip()}"
    with pytest.raises(ValueError, match="encoding declaration"):
        stock(pair, method)
    assert sample.read(pair.ours, method, UUID) == sample.answers()[method]


@pytest.mark.parametrize("method", LISTS)
def test_xml_with_a_document_type_is_no_data(pair: Pair, daemon: Daemon, method: str) -> None:
    domain = daemon.domains[UUID]
    domain.xml = f"<!DOCTYPE domain [<!ENTITY a 'aaaa'>]>{domain.xml}"
    for theirs, answer in zip(stock(pair, method), sample.answers()[method]):
        assert tuple(theirs) == answer[: len(theirs)]
    with pytest.raises(virtmeter.NoDataException, match="DTD"):
        getattr(pair.ours, method)(UUID)


def test_large_unsigned_parameters(pair: Pair, daemon: Daemon) -> None:
    daemon.domains[UUID].stats = {"vcpu.current": xdr.UInt(2**31)}
    # libvirt-python hands unsigned numbers of 32 bits out as signed ones.
    assert pair.stock.inspect_instance(SimpleNamespace(id=UUID)).cpu_number == -(2**31)
    assert pair.ours.inspect_instance(UUID).cpu_number == 2**31


def test_a_guest_that_does_not_answer(pair: Pair, daemon: Daemon) -> None:
    daemon.domains[UUID].bulk = True
    ours = virtmeter.LibvirtInspector(daemon.uri, timeout=0.5)
    daemon.on("DOMAIN_GET_BLOCK_INFO", Never(), repeat=True)
    for method in ("inspect_disk_info", "inspect_disks"):
        assert outcome(ours, method, UUID) == "InspectionTimeout"
    stats = ours.inspect_instance(UUID)
    assert (stats.power_state, stats.memory_actual) == (1, None)
    assert sample.read(ours, "inspect_vnics", UUID) == sample.answers()["inspect_vnics"]
    # The stock inspector waits until libvirtd is no more.
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(stock, pair, "inspect_disk_info")
        assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_GET_BLOCK_INFO"] == 2)
        assert not stuck.done()
        daemon.stop()
        assert isinstance(stuck.exception(), libvirt.libvirtError)
