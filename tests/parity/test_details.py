"""What an instance is, on real guests: beside what libvirt-python tells of them."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import libvirt
import pytest

import virtmeter
from tests.cli.exporter import Samples, run
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.qemu import Guest, Libvirtd

# The words of `virsh domstate --reason`.
REASONS = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED): "booted",
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED): "unpaused",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "user",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED): "destroyed",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN): None,
}


@pytest.fixture
def inspector(rig: Libvirtd) -> Iterator[virtmeter.LibvirtInspector]:
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector:
        yield inspector


@contextmanager
def domain(guest: Guest) -> Iterator[libvirt.virDomain]:
    with closing(guest.rig.connect()) as conn:
        yield conn.lookupByUUIDString(guest.uuid)


@pytest.mark.parametrize("what", ["booted", "disks", "nics", "many-vcpus", "no-balloon", "shutoff"])
def test_every_guest_is_what_libvirt_says(
    rig: Libvirtd, inspector: virtmeter.LibvirtInspector, what: str
) -> None:
    guest = rig.guests[what]
    details = inspector.inspect_details(guest.uuid)
    with domain(guest) as known:
        assert (details.state, details.reason) == (known.state()[0], REASONS[tuple(known.state())])
        assert details.memory_maximum == known.maxMemory() / 1024
        live = 0 if what == "shutoff" else libvirt.VIR_DOMAIN_AFFECT_LIVE
        assert details.vcpus_maximum == known.vcpusFlags(live | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
        assert details.vcpus_configured == known.vcpusFlags(live)
        xml = ET.fromstring(known.XMLDesc())
    os_type = xml.find("os/type")
    assert os_type is not None
    assert details.machine == os_type.get("machine")
    disks = [target.get("dev") for target in xml.findall("devices/disk/target")]
    assert [disk.device for disk in details.disks] == disks
    files = [disk.find("source") for disk in xml.findall("devices/disk[@type='file']")]
    told = [disk.source for disk in details.disks]
    assert {source.get("file") for source in files if source is not None} <= {*told}
    macs = [mac.get("address") for mac in xml.findall("devices/interface/mac")]
    assert [nic.mac for nic in details.nics] == macs
    assert len(details.vcpus) == (0 if what == "shutoff" else details.vcpus_configured)
    assert {vcpu.state for vcpu in details.vcpus} <= {0, 1, 2}
    assert all(vcpu.time is not None for vcpu in details.vcpus)
    if what == "many-vcpus":
        assert [vcpu.number for vcpu in details.vcpus] != list(range(3)), "with holes"


def test_why_a_guest_is_paused_or_off(rig: Libvirtd) -> None:
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector, rig.bulk(1) as [guest]:

        def told() -> tuple[int, str | None]:
            details = inspector.inspect_details(guest.uuid)
            return details.state, details.reason

        with domain(guest) as known:
            known.resume()
            assert told() == (virtmeter.PowerState.RUNNING, "unpaused")
            known.suspend()
            assert told() == (virtmeter.PowerState.PAUSED, "user")
            known.destroy()
            assert told() == (virtmeter.PowerState.SHUTOFF, "destroyed")
            known.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def test_a_job_that_is_under_way(rig: Libvirtd, inspector: virtmeter.LibvirtInspector) -> None:
    """A backup in pull mode goes on until it is ended."""
    guest = rig.guests["booted"]
    assert inspector.inspect_job(guest.uuid) is None
    backup = """
    <domainbackup mode='pull'><server transport='unix' socket='{socket}'/><disks>
    <disk name='vda' backup='no'/><disk name='vdb' backup='yes' type='file'>
    <scratch file='{scratch}'/></disk></disks></domainbackup>
    """
    paths = {name: rig.directory / f"backup-{name}" for name in ("socket", "scratch")}
    with domain(guest) as known:
        known.backupBegin(backup.format(**paths), None)
        try:
            job = inspector.inspect_job(guest.uuid)
            assert job is not None
            assert job.operation == "backup"
            assert job.elapsed is not None
            assert 0 <= job.elapsed < 600
            theirs = known.jobStats()
            assert theirs["operation"] == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
            assert job.disk_total == theirs.get("disk_total")
            done = run("--uri", rig.uri, "--once", "--collect", "jobs", "--vm", guest.uuid)
            samples = Samples(done.stdout)
            assert samples("virtmeter_domain_job_elapsed_seconds", operation="backup") is not None
        finally:
            known.abortJob()
    wait_for(lambda: inspector.inspect_job(guest.uuid) is None, "the backup has ended")


def test_io_threads_and_a_dirty_rate(rig: Libvirtd) -> None:
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector, rig.bulk(1) as [guest]:
        assert inspector.inspect_io_threads(guest.uuid) == []
        assert inspector.inspect_dirty_rate(guest.uuid) is None
        with domain(guest) as known:
            known.resume()
            known.addIOThread(7, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            [thread] = inspector.inspect_io_threads(guest.uuid)
            assert thread.number == 7
            assert thread.poll_max is not None
            known.startDirtyRateCalc(1)
            wait_for(lambda: inspector.inspect_dirty_rate(guest.uuid) is not None, "it is measured")
            rate = inspector.inspect_dirty_rate(guest.uuid)
            assert rate is not None
            assert rate.mebibytes_per_second >= 0
            assert rate.period == 1
            known.suspend()
