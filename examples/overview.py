"""Print what every virtual machine of a host uses: ``python examples/overview.py [URI]``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import virtmeter
from virtmeter import LibvirtInspector, PowerState

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024


def amount(value: float | None, unit: str = "") -> str:
    """Return a number as people read it; a dash where the hypervisor gives none."""
    return "-" if value is None else f"{value:,.0f} {unit}".rstrip()


def seconds(nanoseconds: int | None) -> str:
    """Return a time counter as people read it."""
    return "-" if nanoseconds is None else f"{nanoseconds / 1e9:,.1f} s"


def lines(inspector: LibvirtInspector, instance: virtmeter.Instance) -> Iterator[str]:
    """Yield the lines about one instance."""
    stats = inspector.inspect_instance(instance)
    if stats.cpu_number is None:
        yield "  CPU     not counted by this hypervisor"
    else:
        yield f"  CPU     {stats.cpu_number} vCPUs, used {seconds(stats.cpu_time)}"
    yield (
        f"  memory  {amount(stats.memory_usage)} of {amount(stats.memory_available, 'MiB')} used "
        f"in the guest, {amount(stats.memory_resident, 'MiB')} resident on the host"
    )
    if stats.power_state == PowerState.SHUTOFF:
        return
    for nic in inspector.inspect_vnics(instance):
        yield f"  NIC     {nic.name} ({nic.mac})"
        yield f"    received  {amount(nic.rx_bytes, 'B'):>24} {amount(nic.rx_packets):>20} packets"
        yield f"    sent      {amount(nic.tx_bytes, 'B'):>24} {amount(nic.tx_packets):>20} packets"
    counters = {disk.device: disk for disk in inspector.inspect_disks(instance)}
    for disk in inspector.inspect_disk_info(instance):
        yield (
            f"  disk    {disk.device}: {amount(disk.capacity / MIB, 'MiB')}, "
            f"{amount(disk.allocation / MIB, 'MiB')} allocated"
        )
        used = counters.get(disk.device)
        if used is None:
            yield "    no counters: this hypervisor does not give all of them"
            continue
        reads, writes = amount(used.read_requests), amount(used.write_requests)
        yield f"    read      {amount(used.read_bytes, 'B'):>24} {reads:>20} requests"
        yield f"    written   {amount(used.write_bytes, 'B'):>24} {writes:>20} requests"


def main() -> int:
    """Print one block of lines for each instance."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("uri", nargs="?", default="test:///default", help="libvirt's URI")
    uri = arguments.parse_args().uri
    with LibvirtInspector(uri, report_stopped=True) as inspector:
        try:
            instances = inspector.list_instances()
        except (virtmeter.InspectorException, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"virtmeter {virtmeter.__version__} at {uri}: {len(instances)} instance(s)")
        for instance in instances:
            print(f"\n{instance.name}  {PowerState(instance.state).name}  {instance.id}")
            try:
                for line in lines(inspector, instance):
                    print(line)
            except virtmeter.InspectorException as error:
                print(f"  {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
