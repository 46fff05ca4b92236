"""One domain with a bit of everything, and what both inspectors must say about it."""

from __future__ import annotations

import time
from contextlib import suppress

import virtmeter
from tests.support import xdr
from tests.support.procedures import Disk, Domain

UUID = "11111111-2222-3333-4444-555555555555"

XML = """
<domain type='kvm' id='{number}'>
  <name>sample</name><uuid>{uuid}</uuid>
  <memory unit='KiB'>1048576</memory><currentMemory>524288</currentMemory><vcpu current='1'>2</vcpu>
  <devices>
    <disk type='file' device='disk'>
      <source file='/images/{number}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='br-int'/>
      <virtualport type='openvswitch'><parameters interfaceid='port-{number}'/></virtualport>
      <target dev='tap{number}'/>
      <filterref filter='no-spoof'><parameter name='IP' value='10.0.0.{number}'/></filterref>
    </interface>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""


def domain(number: int = 1, uuid: str | None = None, *, bulk: bool = False) -> Domain:
    """Return a running domain whose every value tells its number."""
    uuid = uuid or f"{number:08x}-2222-3333-4444-555555555555"
    return Domain(
        uuid=uuid,
        name=f"sample-{number}",
        id=number,
        xml=XML.format(uuid=uuid, number=number),
        interfaces={f"tap{number}": (number, 2, 3, 4, 5, 6, 7, 8)},
        disks={
            "vda": Disk(
                stats=(number, 2, 3, 4, -1),
                flags={
                    "rd_total_times": xdr.LLong(5),
                    "wr_total_times": xdr.LLong(6),
                    "flush_operations": xdr.LLong(7),
                    "flush_total_times": xdr.LLong(number),
                },
                info=(1 << 30, number, 1 << 20),
                path=f"/images/{number}",
            )
        },
        memory={
            6: 512 * 1024,
            5: 500 * 1024,
            8: 400 * 1024,
            7: 300 * 1024,
            2: 21,
            3: number,
            10: 10 * 1024,
            11: 4,
            12: 1,
        },
        stats={
            "vcpu.current": xdr.UInt(1),
            "vcpu.maximum": xdr.UInt(2),
            "vcpu.1.time": number * 1000,
            "vcpu.1.wait": 1,
            "vcpu.1.delay": number * 2,
            "perf.cpu_cycles": 77,
        },
        bulk=bulk,
    )


def answers(number: int = 1) -> dict[str, list[tuple[object, ...]]]:
    """Return what each method says about this domain at the first reading."""
    parameters = {"ip": f"10.0.0.{number}", "interfaceid": f"port-{number}", "bridge": "br-int"}
    mac, fref = "52:54:00:00:00:01", "no-spoof"
    return {
        "inspect_instance": [
            (
                *(1, 1, number * 1000 + 1, 512.0, 500.0, 100.0, 300.0),
                *(None, None, 77, None, None, None),
                *(1, number * 2, 21, number, 10.0, 4, 1, None, None, number * 1000, number),
            )
        ],
        "inspect_vnics": [
            (f"tap{number}", mac, fref, parameters, number, 5, 2, 6, 4, 8, 3, 7, 0, 0, number)
        ],
        "inspect_disks": [("vda", 2, number, 4, 3, -1, 6, 5, 7, number, number)],
        "inspect_disk_info": [("vda", 1 << 30, number, 1 << 20, None)],
    }


def read(inspector: object, method: str, instance: str) -> list[tuple[object, ...]]:
    """Return what a method says, as a list whatever the method."""
    answer = getattr(inspector, method)(instance)
    return [answer] if method == "inspect_instance" else list(answer)


def read_again(inspector: object, method: str, instance: str) -> list[tuple[object, ...]]:
    """Return what a method says once libvirt can be reached again."""
    for _ in range(1000):
        with suppress(virtmeter.ConnectionLost):
            return read(inspector, method, instance)
        time.sleep(0.02)
    return read(inspector, method, instance)
