"""A private, real libvirtd with real QEMU guests, for tests that compare answers of libvirt's.

The daemon and its guests live in mount, network and PID namespaces of their own, over private
directories and with a bridge of their own. Nothing of the host is touched, and nothing can stay
behind: all of it ends with the holder of the namespaces, whose lifeline is a pipe of this process.
Reached from outside are only the daemon's sockets, in the rig's temporary directory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from tests.support import guests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QEMU_PROGRAMS = ("qemu-system-x86_64", "qemu-img", "qemu-nbd")
PROGRAMS = ("libvirtd", *QEMU_PROGRAMS, "busybox", "ip", "mount", "nsenter", "unshare")

# The private ones are mounted over these.
LIBVIRT_PARENTS = ("/etc", "/var/cache", "/var/lib", "/var/log")
DIRECTORIES = ("/run", *(f"{parent}/libvirt" for parent in LIBVIRT_PARENTS))

# linux/ptrace.h and linux/wait.h
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_CONT, PTRACE_DETACH = 0x4206, 0x4207, 7, 17
WALL = 0x40000000
PPOLL = {"x86_64": "271 ", "aarch64": "73 "}.get(platform.machine(), "")

UNSHARE = ("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--")

# PID 1 of the namespaces. It stays a shell, for one that waits for its `cat` also reaps what
# libvirtd leaves to it, and libvirtd takes a zombie for a guest that refuses to die. `cat` ends
# with the writing end of its pipe, however that comes to its end; nobody else may be left then to
# remove the directory. The host's cgroups (in /sys) and D-Bus (in /run) get out of sight, or
# libvirtd would use them. Without IPv6 and with the guest's address known for good (as long as
# the bridge keeps its own), nobody sends unasked, so the counters of idle NICs stand still.
HOLDER = f"""\
set -e
test $$ = 1
mount -t proc proc /proc
[ -z "$2" ] || echo "$2" >/proc/sys/kernel/hostname
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
for directory in {" ".join(DIRECTORIES)}; do
    mkdir -p $directory  # libvirtd would do the same
    mount --bind "$1/private$directory" $directory
done
for file in all default; do
    echo 1 >/proc/sys/net/ipv6/conf/$file/disable_ipv6 || true
done
ip link set lo up
ip link add {guests.OVS_BRIDGE} type bridge
ip link add {guests.BRIDGE} address {guests.HOST_MAC} type bridge
ip addr add {guests.HOST_ADDRESS}/24 dev {guests.BRIDGE}
ip link set {guests.BRIDGE} up
ip neigh add {guests.GUEST_ADDRESS} lladdr {guests.GUEST_MAC} nud permanent \\
    dev {guests.BRIDGE}
ip neigh add {guests.WORKER_ADDRESS} lladdr {guests.WORKER_MAC} nud permanent \\
    dev {guests.BRIDGE}
echo ready
cat >/dev/null
kill -9 -1
rm -rf "$1"
"""

# All workers from the start: where a call has to wait while all that there are hang, as on a busy
# machine, libvirtd 9.0 starts no further one (it compares two unsigned numbers by difference).
LIBVIRTD_CONF = """\
unix_sock_dir = "{directory}"
auth_unix_ro = "none"
auth_unix_rw = "none"
min_workers = 20
"""

# QEMU as root needs neither ownership of files nor a /dev of its own, and a console that goes
# straight to its file needs no virtlogd.
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
hugetlbfs_mount = []
"""

# Stands in for Open vSwitch, which libvirt only tells to add a port and to remove it.
OVS_VSCTL = "#!/bin/sh\nexit 0\n"


def unavailable() -> str | None:
    """Why this machine cannot run the rig, in one sentence; None when it can."""
    if os.geteuid() != 0:
        return "only root can run libvirtd in namespaces."
    if platform.machine() != "x86_64":
        return "the guests need an x86_64 host."
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"these programs are not installed: {', '.join(missing)}."
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun for the guests' NICs."
    if guests.find_kernel() is None:
        return "there is no kernel to boot, neither in /boot nor below build/kernel."
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"the namespaces are refused ({probe.stderr.strip()})."
    return None


def _is_waiting(pid: int) -> bool:
    """Return whether a stopped process was waiting in ppoll, as far as this kernel tells that."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().startswith(PPOLL)
    except OSError:
        return True


def wait_for(
    condition: Callable[[], bool], what: str, *, timeout: float = 30, log: Path | None = None
) -> None:
    """Poll until the condition holds, or fail with the tail of a log."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s. {_tail(log)}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Guest:
    """One domain. It is looked up by its UUID each time, so it outlives restarts of the daemon."""

    rig: Libvirtd
    what: str
    xml: str

    @property
    def name(self) -> str:
        return guests.PREFIX + self.what

    @property
    def uuid(self) -> str:
        return guests.domain_uuid(self.name)

    @property
    def pid(self) -> int:
        """The process id of its QEMU, as seen outside of the namespace."""
        [pid] = (pid for pid, line in self.rig.processes().items() if f"guest={self.name}," in line)
        return pid

    def domain(self, conn: libvirt.virConnect) -> libvirt.virDomain:
        return conn.lookupByUUIDString(self.uuid)

    @contextmanager
    def _domain(self) -> Iterator[libvirt.virDomain]:
        with closing(self.rig.connect()) as conn:
            yield self.domain(conn)

    def define(self) -> None:
        with closing(self.rig.connect()) as conn:
            conn.defineXML(self.xml)

    def start(self) -> None:
        """Start it, paused if it has nothing to boot."""
        self.define()
        flags = 0 if self.what == "booted" else libvirt.VIR_DOMAIN_START_PAUSED
        with self._domain() as domain:
            domain.createWithFlags(flags)

    def destroy(self) -> None:
        with self._domain() as domain:
            domain.destroy()

    def undefine(self) -> None:
        with self._domain() as domain:
            domain.undefine()

    def suspend(self) -> None:
        with self._domain() as domain:
            domain.suspend()

    def resume(self) -> None:
        with self._domain() as domain:
            domain.resume()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def write_to_disks(self) -> None:
        """Write to each of its virtio disks, as the guest itself would; it may be paused."""
        with self._domain() as domain:
            disks = ElementTree.fromstring(domain.XMLDesc(0)).iterfind("devices/disk/alias")
            for alias in disks:
                device = f"/machine/peripheral/{alias.get('name')}/virtio-backend"
                said = libvirt_qemu.qemuMonitorCommand(
                    domain,
                    f'qemu-io -d {device} "write 512k 4k"',
                    libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
                )
                if said.strip():
                    raise RuntimeError(f"{self.name}: {said}")

    def sigstop(self) -> None:
        """Make its QEMU deaf: libvirtd waits in vain for the answers of its monitor."""
        os.kill(self.pid, signal.SIGSTOP)

    def sigcont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def sigstopped(self) -> Iterator[None]:
        self.sigstop()
        try:
            yield
        finally:
            self.sigcont()

    @contextmanager
    def main_thread_stopped(self) -> Iterator[None]:
        """Make its QEMU deaf as storage does that hangs: the vCPUs go on."""
        libc = ctypes.CDLL(None, use_errno=True)
        pid = self.pid

        def ptrace(request: int) -> None:
            if libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None):
                raise OSError(ctypes.get_errno(), "ptrace")

        ptrace(PTRACE_SEIZE)
        try:
            while True:
                ptrace(PTRACE_INTERRUPT)
                os.waitpid(pid, WALL)
                # Anywhere else it may hold the lock that the vCPUs need.
                if _is_waiting(pid):
                    break
                ptrace(PTRACE_CONT)
            yield
        finally:
            ptrace(PTRACE_DETACH)

    @contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """Without the disk of this target, or the NIC of this MAC address, for a while.

        Virtio devices leave only with the consent of a running guest; SCSI disks always do.
        """
        with self._domain() as domain:
            [device] = _devices(domain, name)
            domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            wait_for(lambda: not _devices(domain, name), f"{self.name} lets go of {name}")
        try:
            yield
        finally:
            with self._domain() as domain:
                domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def wait_until_busy(self, timeout: float = 90) -> None:
        """Wait until the booted guest's balloon, disks and NIC all have counted something."""
        disk = ("rd.bytes", "wr.bytes", "fl.reqs")
        keys = {f"block.{index}.{key}" for index in (0, 1) for key in disk}
        keys |= {"balloon.available", "net.0.rx.bytes", "net.0.tx.bytes"}
        with closing(self.rig.connect()) as conn:
            domain = self.domain(conn)

            def busy() -> bool:
                [(_, stats)] = conn.domainListGetStats([domain])
                return all(stats.get(key) for key in keys)

            wait_for(busy, f"{self.name} is busy", timeout=timeout, log=self.rig.console)


@final
class Libvirtd:
    """The daemon, its namespaces and its guests. As a context manager: from start() to stop()."""

    def __init__(self, hostname: str = "") -> None:
        """Start nothing yet. With a name of its own, guests of another one can migrate to it."""
        self.guests: dict[str, Guest] = {}
        self._hostname = hostname
        self._stack = ExitStack()

    def __enter__(self) -> Libvirtd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """Read-only, in whichever way it is opened."""
        return f"qemu+unix:///system?socket={self.directory}/libvirt-sock-ro"

    @property
    def admin_uri(self) -> str:
        return f"qemu+unix:///system?socket={self.directory}/libvirt-sock"

    @property
    def pid(self) -> int:
        """The process id of the daemon, as seen outside of the namespace."""
        return _child(self._daemon)

    @property
    def console(self) -> Path:
        """What the booted guest says."""
        return self.directory / "console.log"

    def connect(self) -> libvirt.virConnect:
        """A new read-write connection, for the caller to close."""
        return libvirt.open(self.admin_uri)

    def start(self) -> None:
        """Start the daemon, without any guest."""
        with ExitStack() as stack:
            directory = tempfile.TemporaryDirectory(prefix="virtmeter-test-", dir="/tmp")
            self.directory = Path(stack.enter_context(directory))
            self._write_configuration()
            self._holder = self._start_holder()
            stack.callback(self._end_holder)
            self._daemon = self._start_daemon()
            self._wait_for_daemon()
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End everything inside of the namespaces and remove the directory."""
        self._stack.close()

    def kill(self) -> None:
        """End the daemon the hard way; the guests go on."""
        self._end_daemon(signal.SIGKILL)

    def restart(self) -> None:
        """Start the daemon anew, after kill() or instead of it; it finds its guests again."""
        if self._daemon.poll() is None:
            self._end_daemon(signal.SIGTERM)
        self._daemon = self._start_daemon()
        self._wait_for_daemon()

    def processes(self) -> dict[int, str]:
        """The command lines of all inside of the namespaces, by process id as seen outside."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # a process may end at any moment
                if (entry / "ns/pid").readlink() == self._namespace:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    @functools.cached_property
    def kvm(self) -> bool:
        """Whether guests that do not boot have KVM."""
        with closing(self.connect()) as conn:
            try:
                conn.getDomainCapabilities(None, "x86_64", None, "kvm")
            except libvirt.libvirtError:
                return False
        return True

    @functools.cached_property
    def hardware_events(self) -> bool:
        """Whether the processor counts cycles and the like; a virtual one may not."""
        return any(Path("/sys/bus/event_source/devices").glob("cpu*"))

    def start_guests(self) -> None:
        """Define all guests of the table and start them, but for the one that is shut off."""
        images = self.directory / "images"
        nbd = self.directory / "nbd.sock"
        guests.make_images(images)
        self.serve_nbd(images / "nbd.raw", nbd)
        with closing(self.connect()) as conn:
            conn.nwfilterDefineXML(guests.FILTER_XML)
        definitions = guests.definitions(
            images,
            console=self.console,
            nbd=nbd,
            kvm=self.kvm,
            hardware_events=self.hardware_events,
        )
        self.guests = {what: Guest(self, what, xml) for what, xml in definitions.items()}
        self.guests["shutoff"].define()
        _in_parallel(Guest.start, [self.guests[what] for what in self.guests if what != "shutoff"])
        booted = self.guests["booted"]
        try:
            booted.wait_until_busy(timeout=30)
        except TimeoutError:
            # Once in a hundred starts, the emulated machine hangs before its kernel's first line.
            booted.destroy()
            booted.start()
            booted.wait_until_busy()

    def serve_nbd(self, image: Path, socket: Path) -> None:
        """Serve a raw image at a socket, until the rig ends."""
        self._run(
            *("qemu-nbd", "--fork", "--persistent", "--shared=0", "--format=raw"),
            *(f"--socket={socket}", str(image)),
        )

    @contextmanager
    def bulk(
        self,
        count: int,
        *,
        running: bool = False,
        define: Callable[..., str] = guests.bulk_definition,
    ) -> Iterator[list[Guest]]:
        """So many small guests, each with two disks and a NIC, for a while.

        They are paused, over raw images that nobody has written to; or, like most guests of a
        host, they are ``running``, over qcow2 images that have been written to. ``define`` makes
        others, in the same way.
        """
        images = Path(tempfile.mkdtemp(prefix="bulk-", dir=self.directory))
        bulk = []
        for index in range(count):
            xml = define(index, images, kvm=self.kvm, bootable=running)
            bulk.append(Guest(self, f"bulk-{index}", xml))
        _in_parallel(Guest.start, bulk)
        try:
            if running:
                _in_parallel(Guest.write_to_disks, bulk)
                _in_parallel(Guest.resume, bulk)
                self._wait_until_halted(bulk)
            yield bulk
        finally:
            _in_parallel(Guest.destroy, bulk)
            _in_parallel(Guest.undefine, bulk)
            shutil.rmtree(images)

    def _wait_until_halted(self, bulk: list[Guest]) -> None:
        """Wait until all have booted, which takes each of them seconds of CPU time."""
        with closing(self.connect()) as conn:
            domains = [guest.domain(conn) for guest in bulk]

            def used() -> int:
                return sum(domain.info()[4] for domain in domains)

            def halted() -> bool:
                before = used()
                time.sleep(1)
                return used() - before < 50_000_000  # nanoseconds

            wait_for(halted, "the guests have booted", timeout=60 + 5 * len(bulk))

    def broadcast(self) -> None:
        """Send one packet to all NICs on the bridge."""
        self._run(
            *("busybox", "arping", "-q", "-A", "-c", "1"),
            *("-I", guests.BRIDGE, guests.HOST_ADDRESS),
        )

    def _write_configuration(self) -> None:
        for path in DIRECTORIES:
            Path(f"{self.directory}/private{path}").mkdir(parents=True)
        configuration = self.directory / "private/etc/libvirt"
        libvirtd_conf = LIBVIRTD_CONF.format(directory=self.directory)
        if self._hostname:
            libvirtd_conf += f'host_uuid = "{guests.domain_uuid(self._hostname)}"\n'
        (configuration / "libvirtd.conf").write_text(libvirtd_conf)
        (configuration / "qemu.conf").write_text(QEMU_CONF)
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "ovs-vsctl").write_text(OVS_VSCTL)
        (programs / "ovs-vsctl").chmod(0o755)

    def _start_holder(self) -> subprocess.Popen[str]:
        log = self.directory / "holder.log"
        with log.open("wb") as stderr:
            holder = subprocess.Popen(
                [*UNSHARE, "sh", "-c", HOLDER, "holder", str(self.directory), self._hostname],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # a Ctrl-C at the terminal is for pytest alone
            )
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            holder.communicate()
            raise RuntimeError(f"the namespaces could not be furnished. {_tail(log)}")
        self._namespace = Path(f"/proc/{_child(holder)}/ns/pid").readlink()
        return holder

    def _end_holder(self) -> None:
        """The kernel ends all processes of a PID namespace with its first."""
        try:
            self._holder.communicate(timeout=60)
        finally:
            self._holder.kill()  # of no effect on one that has ended
        self._daemon.wait(timeout=60)

    def _nsenter(self, *command: str) -> list[str]:
        target = str(_child(self._holder))
        namespaces = ("--mount", "--net", "--pid", "--uts")
        return ["nsenter", "--target", target, *namespaces, "--", *command]

    def _run(self, *command: str) -> None:
        subprocess.run(self._nsenter(*command), check=True)

    def _start_daemon(self) -> subprocess.Popen[bytes]:
        configuration = self.directory / "private/etc/libvirt/libvirtd.conf"
        with (self.directory / "libvirtd.log").open("ab") as log:
            return subprocess.Popen(
                self._nsenter("libvirtd", "--config", str(configuration)),
                env=os.environ | {"PATH": f"{self.directory}/bin:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for_daemon(self) -> None:
        log = self.directory / "libvirtd.log"

        def listens() -> bool:
            if self._daemon.poll() is not None:
                raise RuntimeError(f"libvirtd ended. {_tail(log)}")
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(f"{self.directory}/libvirt-sock-ro") == 0

        wait_for(listens, "libvirtd listens", log=log)
        self.connect().close()

    def _end_daemon(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        self._daemon.wait(timeout=30)


def _in_parallel(function: Callable[[Guest], None], guests: list[Guest]) -> None:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(function, guests))


def _child(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> int:
    """The only child of an unshare or nsenter: the process that is inside."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def _devices(domain: libvirt.virDomain, name: str) -> list[str]:
    """The XML of the disk or NIC that has this target or MAC address, if it is plugged in."""
    devices = ElementTree.fromstring(domain.XMLDesc(0)).find("devices")
    assert devices is not None
    return [
        ElementTree.tostring(device, encoding="unicode")
        for device in devices
        for child in device
        if (child.tag, name) in (("target", child.get("dev")), ("mac", child.get("address")))
    ]


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    return f"Its log ends with:\n{log.read_text(errors='replace')[-3000:]}"
