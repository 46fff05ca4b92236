"""Parity on generated domains, served by the scripted daemon over libvirt's own protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.parity.scenarios import domains
from tests.support import xdr
from tests.support.libvirtd import Daemon
from tests.support.oracle import METHODS, Pair, values
from tests.support.procedures import (
    VIR_ERR_ACCESS_DENIED,
    VIR_ERR_OPERATION_FAILED,
    VIR_FROM_QEMU,
    Disk,
    Domain,
    Error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all examples: the clients stay connected."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", params=[False, True], ids=["", "report_stopped"])
def pair(shared: Daemon, request: pytest.FixtureRequest) -> Pair:
    return Pair(shared.uri, report_stopped=request.param)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(domain=domains())
def test_generated_domains(shared: Daemon, pair: Pair, domain: Domain) -> None:
    # Each example is a new VM: nothing may be left of an earlier one with the same UUID or NIC.
    shared.domains = {}
    pair.ours.close()
    assert pair.ours.list_instances() == []
    pair.stock.cache.clear()
    shared.domains = {domain.uuid: domain}
    pair.assert_equal(domain.uuid)


@pytest.mark.parametrize(
    "stats",
    [
        {},
        {"vcpu.current": xdr.UInt(2), "vcpu.maximum": xdr.UInt(4)},
        {"cpu.time": 7},
        {"vcpu.current": xdr.UInt(1), "vcpu.maximum": xdr.UInt(1), "vcpu.0.time": 5, "cpu.time": 9},
        {"vcpu.0.time": 1, "vcpu.0.wait": 2, "vcpu.maximum": xdr.UInt(1)},
        {
            "vcpu.3.time": 1,
            "vcpu.3.wait": 2,
            "vcpu.maximum": xdr.UInt(4),
            "vcpu.current": xdr.UInt(1),
        },
        {"vcpu.0.time": 2**64 - 1, "vcpu.0.wait": 2**64 - 1, "vcpu.maximum": xdr.UInt(1)},
        {"perf.cpu_cycles": 2**64 - 1, "perf.cache_misses": 2**63},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "memory",
    [
        {},
        {5: 4096, 4: 1024, 8: 2048},
        {5: 4096, 4: 1024},
        {4: 1, 8: 2},
        {6: 7},
        {0: 1},
        {0: 1, 1: 3},
    ],
    ids=str,
)
def test_cpu_and_memory_rules(
    daemon: Daemon, stats: dict[str, xdr.TypedValue], memory: dict[int, int]
) -> None:
    daemon.add(Domain(UUID, "x", stats=stats, memory=memory))
    Pair(daemon.uri).assert_equal(UUID, "inspect_instance")


def nic(device: str) -> str:
    """Return the XML of a domain with this one NIC."""
    return (
        f"<domain><devices><interface><target dev='{device}'/><mac address='52:54:00:00:00:01'/>"
        "</interface></devices></domain>"
    )


def test_deltas_of_one_vm(daemon: Daemon) -> None:
    domain = Domain(UUID, "x", xml=nic("tap0"))
    daemon.add(domain)
    pair = Pair(daemon.uri)
    for received, sent in [(1000, 10), (1500, 10), (1500, 25), (70, 30), (90, 5), (2**63 - 1, 5)]:
        domain.interfaces = {"tap0": (received, 1, 0, 0, sent, 1, 0, 0)}
        pair.assert_equal(UUID, "inspect_vnics")
    # A refused NIC is left out once, and its next delta covers the gap.
    domain.interfaces = {"tap0": (100, 1, 0, 0, 100, 1, 0, 0)}
    pair.assert_equal(UUID, "inspect_vnics")
    domain.interfaces = {}
    assert pair.assert_equal(UUID, "inspect_vnics") == {"inspect_vnics": []}
    domain.interfaces = {"tap0": (130, 1, 0, 0, 140, 1, 0, 0)}
    outcomes = pair.assert_equal(UUID, "inspect_vnics")
    assert values(outcomes["inspect_vnics"], "rx_bytes_delta") == [30]
    assert values(outcomes["inspect_vnics"], "tx_bytes_delta") == [40]


@pytest.mark.parametrize("code", [VIR_ERR_OPERATION_FAILED, VIR_ERR_ACCESS_DENIED])
def test_deltas_outlive_a_lookup_that_fails(daemon: Daemon, code: int) -> None:
    daemon.add(domain := Domain(UUID, "x", xml=nic("tap1")))
    domain.interfaces = {"tap1": (1, 0, 0, 0, 5, 0, 0, 0)}
    pair = Pair(daemon.uri)
    pair.assert_equal(UUID, "inspect_vnics")
    daemon.on("DOMAIN_LOOKUP_BY_UUID", *[Error(code, VIR_FROM_QEMU)] * 2)
    pair.ours.close()  # or it would not look the domain up again
    found = pair.assert_equal(UUID, "inspect_vnics")
    assert found == {"inspect_vnics": "InstanceNotFoundException"}
    domain.interfaces = {"tap1": (501, 0, 0, 0, 5, 0, 0, 0)}
    found = pair.assert_equal(UUID, "inspect_vnics")
    assert values(found["inspect_vnics"], "rx_bytes_delta") == [500]


def test_a_refused_disk_is_left_out(daemon: Daemon) -> None:
    xml = "".join(f"<disk><source/><target dev='{name}'/></disk>" for name in ("vda", "vdb", "vdc"))
    times: dict[str, xdr.TypedValue] = {"rd_total_times": 1, "wr_total_times": 2}
    daemon.add(
        Domain(
            UUID,
            "x",
            xml=f"<domain><devices>{xml}</devices></domain>",
            disks={"vda": Disk((1, 2, 3, 4, -1), times), "vdc": Disk((5, 6, 7, 8, 0), times)},
        )
    )
    outcomes = Pair(daemon.uri).assert_equal(UUID, "inspect_disks")
    assert values(outcomes["inspect_disks"], "device") == ["vda", "vdc"]


ODD_XML = {
    "references": "<interface><target dev='tap&#49;'/><mac address='&#x35;2'/></interface>",
    "line breaks": "<interface><target dev='tap1'/><mac address='a\r\n\t'/></interface>",
    "comments and instructions": (
        "<!-- <interface/> --><?pi <interface/>?><interface><!-- --><target dev='tap1'/><?x?>"
        "<mac address='m'/></interface>"
    ),
    "character data": "<interface><![CDATA[<mac/>]]><target dev='tap1'/><mac/></interface>",
    "other namespaces": (
        "<x:interface xmlns:x='urn:x'><target dev='tap1'/><mac/></x:interface>"
        "<interface xmlns='urn:y'><target dev='tap1'/><mac/></interface>"
        "<interface xmlns:x='urn:x'><target x:dev='tap9' dev='tap1'/><mac x:address=''/>"
        "</interface>"
    ),
    "first of several": (
        "<interface><target dev='tap1'/><target dev='tap2'/><mac address='a'/><mac address='b'/>"
        "<source/><source bridge='br0'/><virtualport/><virtualport><parameters interfaceid='i'/>"
        "</virtualport><filterref/><filterref filter='f'><parameter name='N' value='v'/>"
        "</filterref></interface>"
    ),
    "names that change with their case": (
        "<interface><target dev='tap1'/><mac/><filterref filter='f'>"
        "<parameter name='IP' value='1'/><parameter name='Ip' value='2'/><parameter name='ΑΣ'/>"
        "<parameter name='İ' value=''/><parameter name='BRIDGE' value='theirs'/></filterref>"
        "</interface>"
    ),
    "a NIC twice": "<interface><target dev='tap1'/><mac/></interface>" * 2,
    "deeper down": "<x><interface><target dev='tap1'/><mac/></interface></x>",
    "two targets of a disk": "<disk><source/><target dev='vda'/><target dev='vdb'/></disk>",
    "a disk in its mirror": "<disk><mirror><source/></mirror><target dev='vda'/></disk>",
    "no namespace": "<disk xmlns=''><source/><target dev='vda'/></disk>",
    "text around": "text<disk>text<source/>text<target dev='vda'/>text</disk>text",
}


@pytest.mark.parametrize("devices", ODD_XML.values(), ids=ODD_XML)
def test_odd_xml(daemon: Daemon, devices: str) -> None:
    disk = Disk((1, 2, 3, 4, 5), {"rd_total_times": 6, "wr_total_times": 7}, (8, 9, 10))
    daemon.add(
        Domain(
            UUID,
            "x",
            xml=f"<?xml version='1.0'?><domain><devices>{devices}</devices></domain>\n",
            interfaces=dict.fromkeys(("tap1", "tap2", "tap9"), (1, 2, 3, 4, 5, 6, 7, 8)),
            disks=dict.fromkeys(("vda", "vdb"), disk),
        )
    )
    Pair(daemon.uri).assert_equal(UUID, *METHODS[1:])
