"""Two collectors that a user might pick instead, over the same real guests.

Both are run from their unpacked packages (see tools/setup): installed, they would be services.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benches import costs, guests, rounds
from benches.agent import ASKED, FLOOR, FLOOR_ASKED, OURS, STOCK
from benches.costs import AGENT, LIBVIRTD, QEMU, WALL
from benches.floor import THREADS
from benches.processes import cpu_of
from benches.report import Part, milliseconds
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = Path(__file__).parents[1] / "build/peers"
ROUNDS = 7
WARM_UP = 5
NAMES = {
    STOCK: "stock inspector",
    OURS: "virtmeter",
    ASKED: "virtmeter, sizes asked",
    FLOOR: f"libvirt.so alone, {THREADS} threads",
    FLOOR_ASKED: f"libvirt.so alone, {THREADS} threads, sizes asked",
}

# It says how long a reading took when that was longer than the interval. The statistics are those
# that Ceilometer's four methods have, as far as it has them.
COLLECTD_CONF = """\
BaseDir "{directory}"
PIDFile "{directory}/pid"
PluginDir "{packages}/usr/lib/collectd"
TypesDB "{packages}/usr/share/collectd/types.db"
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{directory}/log"
  Timestamp false
</Plugin>
<LoadPlugin virt>
  Interval 0.001
</LoadPlugin>
<Plugin virt>
  Connection "{uri}"
  ExtraStats "disk disk_allocation disk_capacity disk_physical domain_state memory perf vcpu"
</Plugin>
"""
TOOK = re.compile(r"read-function of the `virt-0' plugin took ([\d.]+) seconds")


@dataclass(frozen=True)
class Cost:
    """What one collection costs, seconds."""

    wall: float
    cpu: float
    libvirtd: float
    qemu: float


class _Meter:
    """What has been used since it was made."""

    def __init__(self, rig: qemu.Libvirtd, pid: int) -> None:
        self._of = [pid], [rig.pid], costs.emulators(rig)
        self._before = [cpu_of(pids) for pids in self._of]

    def cost(self, wall: list[float]) -> Cost:
        """Return the cost of one of the collections that have taken these times."""
        used = (cpu_of(pids) - before for pids, before in zip(self._of, self._before))
        return Cost(median(wall), *(cpu / len(wall) for cpu in used))


def part(count: int) -> Part:
    """Measure them with so many guests."""
    part = Part(
        "Peers",
        f"One collection from {count} running guests like those above; a guest's share of it. The "
        "inspectors and libvirt.so alone are measured in turn; their numbers are medians. The "
        "others are measured one after the other; their CPU times are means.",
        ("", "wall clock", "CPU", "CPU of libvirtd", "CPU of QEMU"),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    with qemu.Libvirtd() as rig, guests.running(rig, count) as running:
        for kind, cost in costs.measure(rig, running.uuids).items():
            found = cost.medians()
            seconds = (found[what] for what in (WALL, AGENT, LIBVIRTD, QEMU))
            part.rows.append((NAMES[kind], *map(milliseconds, seconds)))
        for what, measure in (
            ("collectd, plugin virt", _collectd),
            ("prometheus-libvirt-exporter", _exporter),
        ):
            used = measure(rig)
            if isinstance(used, str):
                part.rows.append((what, used, "", "", ""))
                continue
            seconds = (value / count for value in (used.wall, used.cpu, used.libvirtd, used.qemu))
            part.rows.append((what, *map(milliseconds, seconds)))
    part.notes += [
        "The two inspectors collect what the README's table has. collectd, with all its extra "
        "statistics that Ceilometer's meters need, collects the state, the memory statistics, the "
        "CPU times of the guest and of its vCPUs, and of each disk and NIC the counters, for disks "
        "with times, flushes and sizes; it does not say which Neutron port a NIC is. The exporter "
        "collects the state, the CPU time, the memory that the guest has, and of disks and NICs "
        "bytes and operations: no memory usage, no times of disks, no sizes, no vCPUs.",
    ]
    return part


def _collectd(rig: qemu.Libvirtd) -> Cost | str:
    program = PACKAGES / "usr/sbin/collectd"
    if not program.exists():
        return "not measured: its package could not be had"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collectd-")))
        conf, log = directory / "conf", directory / "log"
        conf.write_text(COLLECTD_CONF.format(directory=directory, packages=PACKAGES, uri=rig.uri))
        command = [str(program), "-f", "-C", str(conf)]
        process = stack.enter_context(_running(command))

        def took() -> list[float]:
            text = log.read_text() if log.exists() else ""
            return [float(seconds) for seconds in TOOK.findall(text)]

        qemu.wait_for(lambda: len(took()) >= WARM_UP, "collectd reads", timeout=120, log=log)
        before, meter = len(took()), _Meter(rig, process.pid)
        qemu.wait_for(lambda: len(took()) >= before + ROUNDS, "collectd reads", timeout=120)
        return meter.cost(took()[before:])


def _exporter(rig: qemu.Libvirtd) -> Cost | str:
    program = PACKAGES / "usr/bin/prometheus-libvirt-exporter"
    if not program.exists():
        return "not measured: its package could not be had"
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(program), f"--web.listen-address={address}", f"--libvirt.uri={rig.uri}"]

    def scrape() -> bool:
        try:
            with closing(urllib.request.urlopen(f"http://{address}/metrics")) as answer:
                return "libvirt_up 1" in answer.read().decode()
        except OSError:
            return False

    with _running(command) as process:
        qemu.wait_for(scrape, "the exporter answers")
        for _ in range(WARM_UP):
            scrape()
        meter, found = _Meter(rig, process.pid), []
        for _ in range(ROUNDS):
            rounds.pause()
            began = time.perf_counter()
            if not scrape():
                return "not measured: it does not get through"
            found.append(time.perf_counter() - began)
        return meter.cost(found)


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, silently, for a while."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
