"""CPU times while vCPUs come and go, and where libvirt does not tell all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample, xdr
from tests.support.procedures import BULK, VIR_DOMAIN_RUNNING, VIR_DOMAIN_SHUTOFF

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

UUID = sample.UUID


@pytest.fixture
def domain(daemon: Daemon) -> Domain:
    domain = sample.domain(uuid=UUID, bulk=True)
    daemon.add(domain)
    return domain


@pytest.fixture
def inspector(daemon: Daemon) -> virtmeter.LibvirtInspector:
    return virtmeter.LibvirtInspector(daemon.uri, max_age=0)


def plug(domain: Domain, vcpus: int, each: int, whole: int | None) -> None:
    """Let so many vCPUs have run, waited and been delayed for that long, and what cpu.time says."""
    domain.vcpus, domain.cpu_time = vcpus, whole or 0
    domain.stats = {"vcpu.current": xdr.UInt(vcpus), "vcpu.maximum": xdr.UInt(8)}
    for number in range(vcpus):
        for part, value in (("time", each - 10), ("wait", 10), ("delay", each)):
            domain.stats[f"vcpu.{number}.{part}"] = value
    if whole is not None:
        domain.stats["cpu.time"] = whole


def refuse(domain: Domain, part: str) -> None:
    """Let a vCPU leave that out."""
    del domain.stats[f"vcpu.0.{part}"]


def test_what_unplugged_vcpus_have_used_is_not_taken_back(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    def times() -> tuple[int | None, ...]:
        stats = inspector.inspect_instance(UUID)
        assert stats.vcpu_time == (stats.cpu_time or 0) - (stats.vcpu_wait or 0)
        return stats.cpu_number, stats.cpu_time, stats.vcpu_wait, stats.vcpu_delay

    plug(domain, 8, 100, 900)
    assert times() == (8, 800, 80, 800)
    plug(domain, 4, 101, 904)
    assert times() == (4, 804, 80, 804)
    plug(domain, 8, 102, 910)
    # Four have run on, and four are new.
    assert times() == (8, 804 + 4 + 4 * 102, 80 + 40, 804 + 4 + 4 * 102)


def test_a_source_that_stands_in_goes_on(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    plug(domain, 2, 100, 900)
    assert inspector.inspect_instance(UUID).cpu_time == 200
    plug(domain, 2, 103, 910)
    refuse(domain, "wait")
    stats = inspector.inspect_instance(UUID)
    # cpu.time was not asked for before, so nobody knows what was added to it.
    assert (stats.cpu_time, stats.vcpu_wait, stats.vcpu_delay) == (None, None, 206)
    plug(domain, 2, 104, 912)
    assert inspector.inspect_instance(UUID).cpu_time == 208, "nothing of it is lost"
    for grown in (2, 6):
        plug(domain, 2, 104, 918 + grown)
        refuse(domain, "wait")
        told = inspector.inspect_instance(UUID).cpu_time
    assert told == 200 + (924 - 910), "cpu.time goes on since it was last told, too"
    plug(domain, 2, 105, None)
    assert inspector.inspect_instance(UUID).cpu_time is not None
    refuse(domain, "time")
    assert inspector.inspect_instance(UUID).cpu_time is None


def test_a_wait_that_leaps_is_no_time_that_was_used(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    def times() -> tuple[int | None, ...]:
        stats = inspector.inspect_instance(UUID)
        return stats.vcpu_time, stats.vcpu_wait, stats.cpu_time

    for each in (100, 101):
        plug(domain, 2, each, 900)
        assert times() == (2 * (each - 10), 20, 2 * each)
    plug(domain, 2, 102, 900)
    # The kernel was told to keep statistics.
    domain.stats["vcpu.0.wait"] = domain.stats["vcpu.1.wait"] = 10**15
    assert times() == (2 * 92, 20, 2 * 102)
    refuse(domain, "time")
    assert times()[0] is None


def test_it_begins_anew_with_a_new_start(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    plug(domain, 4, 100, 500)
    assert inspector.inspect_instance(UUID).cpu_time == 400
    domain.id += 1
    plug(domain, 4, 150, 700)
    assert inspector.inspect_instance(UUID).cpu_time == 600
    domain.state = VIR_DOMAIN_SHUTOFF
    with pytest.raises(virtmeter.InstanceShutOffException):
        inspector.inspect_instance(UUID)
    domain.state = VIR_DOMAIN_RUNNING
    plug(domain, 4, 20, 100)
    assert inspector.inspect_instance(UUID).cpu_time == 80, "a daemon that counts from 1 again"


def test_cpu_time_of_the_whole_where_libvirt_knows_no_vcpus(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    plug(domain, 0, 0, 800)
    del domain.stats["vcpu.current"]
    assert inspector.inspect_instance(UUID).cpu_time == 800


def test_nobody_knows_what_nobody_tells(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    domain.stats = {}
    stats = inspector.inspect_instance(UUID)
    assert (stats.cpu_number, stats.cpu_time) == (None, None)


def test_usage_goes_on_while_vcpus_are_unplugged(
    domain: Domain, inspector: virtmeter.LibvirtInspector
) -> None:
    plug(domain, 8, 1000, 9000)
    inspector.usage(UUID)
    plug(domain, 4, 1500, 11000)
    usage = inspector.usage(UUID)
    assert usage.interval
    of_all = 4 * usage.interval * 10**9
    assert usage.cpu_utilization == pytest.approx(4 * 500 / of_all * 100)
    assert usage.cpu_steal == pytest.approx(4 * 500 / of_all * 100)
    assert usage.cpu_wait == 0
    assert usage.cpu_interval == usage.interval


def test_the_agent_asks_for_no_more_than_it_tells(daemon: Daemon, domain: Domain) -> None:
    """The stock formula needs cpu.time only where the vCPUs do not tell."""
    plug(domain, 2, 100, 900)
    with virtmeter.LibvirtInspector(daemon.uri, max_age=0, parity=True) as agent:
        assert agent.inspect_instance(UUID).cpu_time == 200
        bulk = daemon.calls[BULK]
        assert agent.inspect_instance(UUID).cpu_time == 200
        assert daemon.calls[BULK] == bulk + 1
        refuse(domain, "wait")
        assert agent.inspect_instance(UUID).cpu_time == 900
        assert daemon.calls[BULK] == bulk + 3
