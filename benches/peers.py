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
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benches import guests, rounds
from benches.agent import ASKED, FLOOR, FLOOR_ASKED, OURS, STOCK, Agent
from benches.floor import THREADS
from benches.processes import cpu_of
from benches.report import Part, milliseconds
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGES = Path(__file__).parents[1] / "build/peers"
ROUNDS = 7
WARM_UP = 5

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


def part(count: int) -> Part:
    """Measure them with so many guests."""
    part = Part(
        "Peers",
        f"One collection from {count} running guests like those above; a guest's share of it. They "
        "are measured one after the other and not in turn; CPU times are means, but for those of "
        "the inspectors and libvirt.so alone.",
        ("", "wall clock", "CPU", "CPU of libvirtd"),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    with qemu.Libvirtd() as rig, guests.running(rig, count) as running:
        kinds = {
            "stock inspector": STOCK,
            "virtmeter": OURS,
            "virtmeter, sizes asked": ASKED,
            f"libvirt.so alone, {THREADS} threads": FLOOR,
            f"libvirt.so alone, {THREADS} threads, sizes asked": FLOOR_ASKED,
        }
        measured: dict[str, Callable[[], Cost | str]] = {
            **{what: partial(_agent, kind, rig, running.uuids) for what, kind in kinds.items()},
            "collectd, plugin virt": lambda: _collectd(rig),
            "prometheus-libvirt-exporter": lambda: _exporter(rig),
        }
        for what, measure in measured.items():
            cost = measure()
            if isinstance(cost, str):
                part.rows.append((what, cost, "", ""))
                continue
            seconds = (value / count for value in (cost.wall, cost.cpu, cost.libvirtd))
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


def _agent(kind: str, rig: qemu.Libvirtd, uuids: list[str]) -> Cost:
    with Agent(kind, rig.uri, uuids) as agent:
        for _ in range(WARM_UP):
            rounds.pause()
            agent.cycle()
        libvirtd = cpu_of([rig.pid])
        cycles = []
        for _ in range(ROUNDS):
            rounds.pause()
            cycles.append(agent.cycle())
        libvirtd = cpu_of([rig.pid]) - libvirtd
    count = len(uuids)
    return Cost(rounds.wall(cycles) * count, rounds.cpu(cycles) * count, libvirtd / ROUNDS)


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
        before, cpu, libvirtd = len(took()), cpu_of([process.pid]), cpu_of([rig.pid])
        qemu.wait_for(lambda: len(took()) >= before + ROUNDS, "collectd reads", timeout=120)
        found = took()[before:]
        cpu, libvirtd = cpu_of([process.pid]) - cpu, cpu_of([rig.pid]) - libvirtd
    return Cost(median(found), cpu / len(found), libvirtd / len(found))


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
        cpu, libvirtd = cpu_of([process.pid]), cpu_of([rig.pid])
        found = []
        for _ in range(ROUNDS):
            rounds.pause()
            began = time.perf_counter()
            if not scrape():
                return "not measured: it does not get through"
            found.append(time.perf_counter() - began)
        cpu, libvirtd = cpu_of([process.pid]) - cpu, cpu_of([rig.pid]) - libvirtd
    return Cost(median(found), cpu / ROUNDS, libvirtd / ROUNDS)


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
