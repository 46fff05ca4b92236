"""Print what every virtual machine of a host uses: ``python examples/overview.py [URI]``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import virtmeter
from virtmeter import LibvirtInspector, PowerState

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024**2


def size(count: float | None) -> str:
    """Return a number of bytes as people read it; a dash where the hypervisor gives none."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def cpu(stats: virtmeter.InstanceStats) -> str:
    """Return what there is to say about the CPU."""
    if stats.cpu_number is None or stats.cpu_time is None:
        return "not counted by this hypervisor"
    return f"{stats.cpu_time / 1e9:,.1f} s used by {stats.cpu_number} vCPU(s)"


def memory(stats: virtmeter.InstanceStats) -> str:
    """Return what there is to say about the memory, which the record has in MiB."""
    resident = "-" if stats.memory_resident is None else size(stats.memory_resident * MIB)
    if stats.memory_usage is None or stats.memory_available is None:
        assigned = "-" if stats.memory_actual is None else size(stats.memory_actual * MIB)
        return f"{assigned} assigned, {resident} resident on the host"
    used, available = size(stats.memory_usage * MIB), size(stats.memory_available * MIB)
    return f"{used} of {available} used in the guest, {resident} resident on the host"


def lines(inspector: LibvirtInspector, instance: virtmeter.Instance) -> Iterator[str]:
    """Yield the lines about one instance."""
    stats = inspector.inspect_instance(instance)
    if stats.power_state == PowerState.SHUTOFF:
        most = size((stats.memory_actual or 0) * MIB)
        yield f"  {stats.cpu_number} vCPU(s) and at most {most} when it is started"
        return
    yield f"  CPU     {cpu(stats)}"
    yield f"  memory  {memory(stats)}"
    for nic in inspector.inspect_vnics(instance):
        yield f"  NIC     {nic.name} ({nic.mac})"
        yield f"    received  {size(nic.rx_bytes):>12} in {nic.rx_packets:,} packets"
        yield f"    sent      {size(nic.tx_bytes):>12} in {nic.tx_packets:,} packets"
    counters = {disk.device: disk for disk in inspector.inspect_disks(instance)}
    for disk in inspector.inspect_disk_info(instance):
        yield f"  disk    {disk.device}: {size(disk.capacity)}, {size(disk.allocation)} allocated"
        used = counters.get(disk.device)
        if used is None:
            yield "    not counted by this hypervisor"
            continue
        yield f"    read      {size(used.read_bytes):>12} in {used.read_requests:,} requests"
        yield f"    written   {size(used.write_bytes):>12} in {used.write_requests:,} requests"


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
        names = {state.value: state.name for state in PowerState}
        print(f"virtmeter {virtmeter.__version__} at {uri}: {len(instances)} instance(s)")
        for instance in instances:
            print(f"\n{instance.name}  {names.get(instance.state, instance.state)}  {instance.id}")
            try:
                for line in lines(inspector, instance):
                    print(line)
            except virtmeter.InspectorException as error:
                print(f"  {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
