"""Devices that libvirt refuses to tell of: said once, and not asked for each time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.procedures import (
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_OPERATION_TIMEOUT,
    VIR_FROM_QEMU,
    Error,
)

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

UUID = sample.UUID
CALLS = {
    "inspect_vnics": "DOMAIN_INTERFACE_STATS",
    "inspect_disks": "DOMAIN_BLOCK_STATS_FLAGS",
    "inspect_disk_info": "DOMAIN_GET_BLOCK_INFO",
}


@pytest.fixture(params=[False, True], ids=["singly", "in bulk"])
def domain(daemon: Daemon, request: pytest.FixtureRequest) -> Domain:
    """One whose devices are refused."""
    domain = sample.domain(uuid=UUID, bulk=request.param)
    domain.interfaces, domain.disks = {}, {}
    daemon.add(domain)
    return domain


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of devices, and forget it."""
    lines = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    caplog.clear()
    return [line for line in lines if "is left out" in line]


@pytest.mark.parametrize("method", CALLS)
def test_it_is_said_once_and_asked_thrice(
    daemon: Daemon, domain: Domain, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        for _ in range(20):
            assert list(getattr(inspector, method)(UUID)) == []
        assert daemon.calls[CALLS[method]] == 3
        [line] = said(caplog)
        assert f"of instance {UUID} is left out: [libvirt error " in line
        assert inspector.health().refused == {UUID: [line]}
        domain.id = 13  # started anew
        domain.xml = domain.xml.replace("id='1'", "id='13'")
        for _ in range(20):
            assert list(getattr(inspector, method)(UUID)) == []
        assert daemon.calls[CALLS[method]] == 6
        assert said(caplog) == [line]


def test_all_connections_and_methods_share_it(
    daemon: Daemon, domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    """In the agent's cycles: readings ahead, by several workers."""
    others = [sample.domain(number, bulk=domain.bulk) for number in range(2, 12)]
    daemon.add(*others)
    with virtmeter.LibvirtInspector(daemon.uri, workers=4) as inspector:
        for _ in range(10):
            for method in ("inspect_instance", *CALLS):
                for each in (domain, *others):
                    getattr(inspector, method)(each.uuid)
            usage = inspector.usage(UUID)
        assert (usage.network_read_kib, usage.disk_read_kib) == (None, None)
        lines = said(caplog)
        assert len(lines) == len({*lines}) == 3, "the NIC, the disk and its size"
        assert len(inspector.health().refused[UUID]) == 3


def test_what_is_refused_once_is_there_again_in_the_next_reading(
    daemon: Daemon, domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        for received in (1, 2):
            domain.interfaces = {}
            assert list(inspector.inspect_vnics(UUID)) == []
            domain.interfaces = {"tap1": (received, 2, 3, 4, 5, 6, 7, 8)}
            [nic] = inspector.inspect_vnics(UUID)
            assert nic.rx_bytes == received
            assert inspector.health().refused == {}
        assert len(said(caplog)) == 2


def test_another_device_of_that_name_is_asked_for(daemon: Daemon, domain: Domain) -> None:
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        for _ in range(5):
            assert list(inspector.inspect_vnics(UUID)) == []
        domain.xml = domain.xml.replace("52:54:00:00:00:01", "52:54:00:00:00:02")
        assert list(inspector.inspect_vnics(UUID)) == []
        assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 4
        domain.xml = domain.xml.replace("tap1", "tap2")
        inspector.inspect_vnics(UUID)
        [line] = inspector.health().refused[UUID]
        assert line.startswith('"tap2" ')


@pytest.mark.parametrize("report_stopped", [False, True])
def test_those_of_a_vm_that_was_shut_off_are_forgotten_with_the_next_list(
    daemon: Daemon, domain: Domain, report_stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with virtmeter.LibvirtInspector(
        daemon.uri, max_age=0, report_stopped=report_stopped
    ) as inspector:
        for method in CALLS:
            getattr(inspector, method)(UUID)
        assert len(inspector.health().refused[UUID]) == 3
        domain.id, domain.state = -1, VIR_DOMAIN_SHUTOFF
        inspector.list_instances()
        assert len(inspector.health().refused.get(UUID, [])) == report_stopped, "its disk's size"
        said(caplog)
        if report_stopped:
            for _ in range(5):
                assert list(inspector.inspect_disk_info(UUID)) == []
                inspector.list_instances()
            [line] = said(caplog)
            assert inspector.health().refused == {UUID: [line]}
            assert daemon.calls["DOMAIN_GET_BLOCK_INFO"] == 1 + 3


def test_two_of_one_name_are_each_said_once_and_asked_thrice(
    daemon: Daemon, domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    second = "<interface><mac address='52:54:00:00:00:02'/><target dev='tap1'/></interface>"
    domain.xml = domain.xml.replace("</devices>", f"{second}</devices>")
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        for _ in range(10):
            assert list(inspector.inspect_vnics(UUID)) == []
        assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 2 * 3
        lines = said(caplog)
        assert len(lines) == 2
        assert inspector.health().refused == {UUID: lines}


def test_a_wait_in_vain_is_no_refusal(
    daemon: Daemon, domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    busy = Error(VIR_ERR_OPERATION_TIMEOUT, VIR_FROM_QEMU, "cannot acquire state change lock")
    daemon.on("DOMAIN_INTERFACE_STATS", *[busy] * 5)
    domain.interfaces = {}
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0) as inspector:
        for _ in range(5):
            assert list(inspector.inspect_vnics(UUID)) == []
        assert daemon.calls["DOMAIN_INTERFACE_STATS"] == 5
        assert len(said(caplog)) == 5
        assert inspector.health().refused == {}
