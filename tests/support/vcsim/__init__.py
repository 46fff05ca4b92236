"""A simulated vCenter, for the tests.

    with VCenter(hosts=2, vms=8) as vcenter:
        vcenter.uri                        # vsphere://monitor@127.0.0.1:PORT/?sha256=PIN
        vcenter.step(60)                   # time passes
        vcenter.migrate("vm-0000", host=1)
        vcenter.missing("vm-0000", "net.received.average", times=[START + 20])
        vcenter.vm("vm-0000").value("cpu.run.summation", "", START + 40)   # the truth
        vcenter.calls(), vcenter.logins(), vcenter.sessions()

Users are root, monitor and nobody (no rights), all with PASSWORD. It is govmomi's simulator, as
Debian packages it, in a process of its own; only the samples are ours, and known: see
server/main.go for what that means. `python -m tests.support.vcsim` runs one in real time.

VMs differ by their number n: 1 + n % 4 vCPUs, (1 + n % 8) * 512 MiB, a second NIC if n % 3 = 1, a
second disk if n is odd; disks are NVMe, SATA or IDE if n % 8 is 5, 6 or 7; even ones are on block
storage, and Nova's; the names of 1 and 3 are such as vCenter encodes.

No real vCenter was at hand. What is made up: uptime stands still while a VM is suspended; a device
that was not there yet has -1; what was removed has no series any more; an aggregate of NICs is the
sum of all that there were at the time; memory goes by the size that a VM has now.
"""

from tests.support.vcsim.build import unavailable
from tests.support.vcsim.truth import COUNTERS, LUN, UPLINK, VM, Instance
from tests.support.vcsim.vcenter import PASSWORD, START, VCenter

__all__ = [
    "COUNTERS",
    "LUN",
    "PASSWORD",
    "START",
    "UPLINK",
    "VM",
    "Instance",
    "VCenter",
    "unavailable",
]
