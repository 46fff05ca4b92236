"""The scripted daemon in a process of its own, with the latencies of a big idle host.

Whoever talks to it has one call at a time on each connection, so the thread that reads a
connection's calls may as well sleep through each of them.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from benches.processes import cpu_of
from tests.support import sample, xdr
from tests.support.libvirtd import Daemon
from tests.support.procedures import STATS_GROUPS, Disk, Domain

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.support.libvirtd import Answer

# Calls for which libvirtd asks QEMU, and the groups of statistics for which it does.
ASK_QEMU = {
    "DOMAIN_MEMORY_STATS",
    "DOMAIN_BLOCK_STATS",
    "DOMAIN_BLOCK_STATS_FLAGS",
    "DOMAIN_GET_BLOCK_INFO",
}
GROUPS = sum(1 << STATS_GROUPS.index(group) for group in ("cpu", "balloon", "vcpu", "block"))
PR_SET_TIMERSLACK = 29
QUICK, QEMU, EVERYTHING = 0.0001, 0.001, 0.003

# Raw files that have been written to, whose sizes are in the bulk reading.
DRIVER = "<driver name='qemu' type='raw'/>"
SECOND_DISK = f"""\
<disk type='file' device='disk'>
  {DRIVER}<source file='/images/b'/><target dev='vdb' bus='virtio'/>
</disk>
"""


def uuid(number: int) -> str:
    """Return the UUID of a domain."""
    return f"{number:08x}-2222-3333-4444-555555555555"


def domain(number: int) -> Domain:
    """Return a domain with two disks and a NIC, in whose bulk statistics there is everything."""
    domain = sample.domain(number, uuid(number), bulk=True)
    domain.xml = domain.xml.replace("<source file", f"{DRIVER}<source file")
    domain.xml = domain.xml.replace("<devices>", f"<devices>{SECOND_DISK}")
    one = domain.disks["vda"]
    one.path = f"/images/{number}"
    domain.disks["vdb"] = Disk(one.stats, one.flags, one.info, path="/images/b")
    # As on a host: the sum over the vCPUs is complete.
    domain.stats |= {"vcpu.0.time": 1, "vcpu.0.wait": 1, "vcpu.maximum": xdr.UInt(1)}
    return domain


def latency(call: Any) -> float:
    """Return how long such a host takes for a call, seconds."""
    if call.name in ASK_QEMU:
        return QEMU
    if call.name == "CONNECT_GET_ALL_DOMAIN_STATS":
        _, stats, _ = call.args
        return EVERYTHING if not stats else QEMU if stats & GROUPS else QUICK
    return QUICK


class IdleDaemon(Daemon):
    """It never changes, so each answer is made once: Python is slow enough without that."""

    def __init__(self, slow: bool) -> None:
        super().__init__()
        self.asked_to_wait = 0.0
        self._slow = slow
        self._made: dict[Any, bytes] = {}

    def arrived(self, call: Any) -> Answer | None:
        """Take as long as such a host, if it is to be slow."""
        answer = super().arrived(call)
        if self._slow:
            wait = latency(call)
            self.asked_to_wait += wait
            if (rest := call.due + wait - time.monotonic()) > 0:
                time.sleep(rest)
        return answer

    def serve(self, call: Any) -> bytes:
        """Return what was made before, if it was."""
        args = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in call.args)
        key = call.number, args
        if key not in self._made:
            self._made[key] = super().serve(call)
        return self._made[key]


class Used(NamedTuple):
    """What clients have had of the daemon."""

    calls: int
    waits: float  # the latencies of these calls, summed up, seconds
    cpu: float  # seconds


class IdleHost:
    """The process, from the side of who starts it."""

    def __init__(self, count: int, *, latency: bool = True) -> None:
        """Start it with so many domains."""
        self.uuids = [uuid(number) for number in range(1, count + 1)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(count), "slow" if latency else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.uri = self._read()
        self._before = 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def used(self) -> Used:
        """Return what has happened here since this was asked for the last time."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        calls, waits = json.loads(self._read())
        now = calls, waits, cpu_of([self._process.pid])
        used = Used(*(after - before for after, before in zip(now, self._before)))
        self._before = now
        return used

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip()


def main(count: str, slow: str) -> None:
    """Be the process: a line in, the number of calls and their latencies out."""
    # Threads that have slept come back within microseconds, even where another one computes.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    sys.setswitchinterval(0.0001)
    with IdleDaemon(bool(slow)) as daemon:
        daemon.add(*(domain(number) for number in range(1, int(count) + 1)))
        print(daemon.uri, flush=True)
        for _ in sys.stdin:
            print(json.dumps((daemon.calls.total(), daemon.asked_to_wait)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
