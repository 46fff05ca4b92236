"""What the test guests are made of: their domain XML, disk images, kernel and initramfs.

All guests but one have no operating system and never run. The one that boots does so from an
initramfs with a static busybox, the kernel's virtio modules and an /init that keeps its disks and
its NIC busy, so that every counter of libvirt's has something to count.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

PREFIX = "virtmeter-test-"
BRIDGE = "virtmeter-br"
OVS_BRIDGE = "br-int"
HOST_ADDRESS = "192.0.2.1"
HOST_MAC = "52:54:00:00:00:ff"
GUEST_ADDRESS = "192.0.2.2"
GUEST_MAC = "52:54:00:00:00:01"
WORKER_ADDRESS = "192.0.2.3"
WORKER_MAC = "52:54:00:00:00:02"
FILTER = "virtmeter-test-filter"
HARDWARE_EVENTS = ("cpu_cycles", "instructions", "cache_references", "cache_misses")
MIB = 1 << 20

FILTER_XML = f"""\
<filter name='{FILTER}' chain='root'>
  <rule action='accept' direction='inout'><ip srcipaddr='$IP'/></rule>
</filter>
"""

# A boot sector: cli, hlt, and back to that. Its guest runs, and needs no CPU time.
HALTS = b"\xfa\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
# Another: jmp to itself. Its guest needs all the CPU time that it can get.
SPINS = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa"

# In the order of their dependencies: insmod resolves none.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_balloon",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
)

PREPARE = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
"""

# Reads go past the page cache because it is dropped before each round. A disk that was unplugged
# is skipped, for dd would put a regular file in its place; a NIC may be a newly plugged one.
INIT = f"""\
{PREPARE}
echo 'virtmeter test guest is up'
while :; do
    echo 3 >/proc/sys/vm/drop_caches
    for disk in /dev/vda /dev/vdb; do
        [ -b $disk ] || continue
        dd if=$disk of=/dev/null bs=64k count=4 2>/dev/null
        dd if=/dev/zero of=$disk bs=4k count=16 conv=fsync 2>/dev/null
    done
    ifconfig eth0 {GUEST_ADDRESS} netmask 255.255.255.0 up 2>/dev/null
    ping -c 1 -W 1 {HOST_ADDRESS} >/dev/null 2>&1
    sleep 0.5
done
"""

# A guest that does what it is told: to write so many blocks to its disk, past every cache, and to
# send so many packets. It says for how long it has been at that, by its own clock, in seconds.
BLOCK = 64 << 10
PAYLOAD = 1000
PACKET = PAYLOAD + 14 + 20 + 8  # with the headers of Ethernet, IP and ICMP
WORK = f"""\
{PREPARE}
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo
ifconfig eth0 {WORKER_ADDRESS} netmask 255.255.255.0 up
arp -s {HOST_ADDRESS} {HOST_MAC}
echo ready
while read blocks packets; do
    read began _ </proc/uptime
    dd if=/dev/zero of=/dev/vda bs={BLOCK} count=$blocks oflag=direct status=none
    for _ in $(seq $packets); do ping -q -c 1 -s {PAYLOAD} {HOST_ADDRESS} >/dev/null; done
    read ended _ </proc/uptime
    echo "worked from $began to $ended"
done
"""

EXTRACTED_KERNEL = Path(__file__).parents[2] / "build/kernel"


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the directory of its modules."""

    image: Path
    modules: Path


def find_kernel() -> Kernel | None:
    """A kernel package extracted below build/kernel, as tools/setup does, or an installed one.

    A cloud kernel is preferred: it is small and has its serial console built in.
    """
    kernels = (_kernel_below(root) for root in (EXTRACTED_KERNEL, Path("/")))
    return next((kernel for kernel in kernels if kernel), None)


def _kernel_below(root: Path) -> Kernel | None:
    images = sorted((root / "boot").glob("vmlinuz-*"), key=lambda p: ("cloud" in p.name, p.name))
    for image in reversed(images):
        release = image.name.removeprefix("vmlinuz-")
        for libraries in ("lib/modules", "usr/lib/modules"):
            modules = root / libraries / release
            if modules.is_dir():
                return Kernel(image, modules)
    return None


def build_initramfs(kernel: Kernel) -> bytes:
    """A newc archive of busybox, modules and /init."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is not installed")
    directories = ("bin", "dev", "modules", "proc", "sys")
    archive = b"".join(_entry(name, stat.S_IFDIR | 0o755) for name in directories)
    archive += _entry("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    for name, script in (("init", INIT), ("work", WORK)):
        archive += _entry(name, stat.S_IFREG | 0o755, script.encode())
    for index, name in enumerate(MODULES):
        # A module that has no file is built into this kernel.
        for path in kernel.modules.glob(f"kernel/**/{name}.ko*"):
            archive += _entry(f"modules/{index:02}-{name}.ko", stat.S_IFREG | 0o644, _unpack(path))
    return archive + _entry("TRAILER!!!", 0)


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a newc cpio archive; all are root's, dated 1970 and without an inode."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _unpack(module: Path) -> bytes:
    data = module.read_bytes()
    if module.suffix == ".xz":
        return lzma.decompress(data)
    if module.suffix == ".gz":
        return gzip.decompress(data)
    if module.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    return data


def make_images(directory: Path) -> None:
    """Everything that the definitions refer to, in a new directory."""
    directory.mkdir()
    for name in ("booted", "plain", "nbd", "base", "shutoff"):
        _make_sparse(directory / f"{name}.raw", 16 * MIB)
    for name in ("booted", "plain"):
        _make_qcow2(directory / f"{name}.qcow2")
    _make_qcow2(directory / "overlay.qcow2", "-b", "base.raw", "-F", "raw")
    # Neither whole sectors nor whole pages.
    (directory / "medium.iso").write_bytes(b"CD001" * 1229)
    kernel = find_kernel()
    if kernel is None:
        raise FileNotFoundError("there is no kernel to boot")
    (directory / "vmlinuz").symlink_to(kernel.image)
    (directory / "initramfs").write_bytes(build_initramfs(kernel))


def _make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _make_qcow2(path: Path, *options: str) -> None:
    """16 MiB large, as is the image that may be behind it."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "16M"]
    subprocess.run(command, check=True)


def definitions(
    images: Path, *, console: Path, nbd: Path, kvm: bool, hardware_events: bool
) -> dict[str, str]:
    """The table of the guests: their domain XML by what they are for.

    The booted one is always emulated: KVM inside of a virtual machine cannot always boot one.
    """
    disks = (
        _file_disk("vda", images / "plain.raw"),
        _file_disk("vdb", images / "plain.qcow2"),
        _disk(
            "vdc",
            f"<source protocol='nbd'><host transport='unix' socket='{nbd}'/></source>",
            kind="network",
        ),
        _file_disk("sda", images / "overlay.qcow2"),
        _file_disk("hda", images / "medium.iso", device="cdrom"),
        _disk("hdb", device="cdrom"),
        "<controller type='scsi' model='virtio-scsi'/>",
    )
    port = domain_uuid("virtmeter-test-port")
    nics = (
        _nic("52:54:00:00:00:11"),
        _nic(
            "52:54:00:00:00:12",
            f"<filterref filter='{FILTER}'>"
            "<parameter name='IP' value='192.0.2.12'/>"
            "<parameter name='projMask' value='255.255.255.0'/>"
            "<parameter name='DHCPServer' value='192.0.2.1'/>"
            "</filterref>",
        ),
        _nic(
            "52:54:00:00:00:13",
            f"<virtualport type='openvswitch'><parameters interfaceid='{port}'/></virtualport>",
            bridge=OVS_BRIDGE,
        ),
        _nic("52:54:00:00:00:14", kind="ethernet"),
        _nic("52:54:00:00:00:15", kind="user"),
    )
    vcpus = "".join(
        f"<vcpu id='{index}' enabled='{'yes' if index in (0, 2, 5) else 'no'}'"
        f" hotpluggable='{'no' if index == 0 else 'yes'}'/>"
        for index in range(8)
    )
    events = "".join(
        f"<event name='{name}' enabled='yes'/>"
        for name in ("cpu_clock", *(HARDWARE_EVENTS if hardware_events else ()))
    )
    return {
        "booted": domain_xml(
            "booted",
            _file_disk("vda", images / "booted.raw"),
            _file_disk("vdb", images / "booted.qcow2"),
            _nic(GUEST_MAC),
            f"<serial type='file'><source path='{console}'/></serial>",
            kvm=False,
            memory=128,
            vcpus="<vcpu current='2'>4</vcpu>",
            boot=_boot(images),
        ),
        "disks": domain_xml("disks", *disks, kvm=kvm),
        "nics": domain_xml("nics", *nics, kvm=kvm),
        "no-balloon": domain_xml("no-balloon", kvm=kvm, balloon="<memballoon model='none'/>"),
        "many-vcpus": domain_xml(
            "many-vcpus", kvm=kvm, vcpus=f"<vcpu current='3'>8</vcpu><vcpus>{vcpus}</vcpus>"
        ),
        "perf": domain_xml("perf", kvm=kvm, perf=f"<perf>{events}</perf>"),
        "shutoff": domain_xml(
            "shutoff",
            _file_disk("vda", images / "shutoff.raw"),
            _nic("52:54:00:00:00:21"),
            kvm=kvm,
        ),
    }


def bulk_definition(index: int, images: Path, *, kvm: bool, bootable: bool = False) -> str:
    """One of many small guests, whose disk images this makes.

    With ``bootable``, the disks are qcow2 images, and the first one has a boot sector that halts.
    """
    disks = []
    for target in ("vda", "vdb"):
        image = images / f"{index}-{target}.raw"
        _make_sparse(image, MIB)
        if bootable:
            image = _bootable(image)
        disks.append(_file_disk(target, image))
    # Without a ROM to boot from, which would take its time.
    nic = _nic(
        f"52:54:01:{index >> 16 & 255:02x}:{index >> 8 & 255:02x}:{index & 255:02x}",
        "<rom enabled='no'/>",
    )
    return domain_xml(f"bulk-{index}", *disks, nic, kvm=kvm)


def spinning_definition(index: int, images: Path, *, kvm: bool, bootable: bool) -> str:
    """One of many small guests, which needs CPU time once it runs."""
    xml = bulk_definition(index, images, kvm=kvm, bootable=bootable)
    with (images / f"{index}-vda.raw").open("r+b") as file:
        file.write(SPINS)
    return xml


def _bootable(raw: Path) -> Path:
    """A qcow2 image in place of a raw one, with a boot sector that halts for good."""
    with raw.open("r+b") as file:
        file.write(HALTS)
    image = raw.with_suffix(".qcow2")
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)]
    subprocess.run(command, check=True)
    raw.unlink()
    return image


def worker_definition(images: Path, serial: Path) -> str:
    """A guest that runs WORK, and is told at its serial line, a socket of this path."""
    image = images / "worker.raw"
    _make_sparse(image, 16 * MIB)
    return domain_xml(
        "worker",
        _file_disk("vda", image),
        _nic(WORKER_MAC),
        f"<serial type='unix'><source mode='bind' path='{serial}'/></serial>",
        kvm=False,
        memory=128,
        boot=_boot(images, "rdinit=/work"),
    )


def _boot(images: Path, more: str = "") -> str:
    """Our kernel."""
    return (
        f"<kernel>{images}/vmlinuz</kernel><initrd>{images}/initramfs</initrd>"
        f"<cmdline>console=ttyS0 quiet panic=-1 ipv6.disable=1 {more}</cmdline>"
    )


def domain_uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def domain_xml(
    what: str,
    *devices: str,
    kvm: bool,
    memory: int = 16,
    vcpus: str = "<vcpu>1</vcpu>",
    boot: str = "",
    perf: str = "",
    balloon: str = "<memballoon model='virtio'><stats period='2'/></memballoon>",
) -> str:
    return f"""\
<domain type='{"kvm" if kvm else "qemu"}'>
  <name>{PREFIX}{what}</name>
  <uuid>{domain_uuid(PREFIX + what)}</uuid>
  <memory unit='MiB'>{memory}</memory>
  {vcpus}
  <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os>
  <features><acpi/></features>
  {perf}
  <devices>
    <controller type='usb' model='none'/>
    <video><model type='none'/></video>
    {balloon}
    {"".join(devices)}
  </devices>
</domain>
"""


def _file_disk(target: str, path: Path, *, device: str = "disk") -> str:
    form = "qcow2" if path.suffix == ".qcow2" else "raw"
    return _disk(target, f"<source file='{path}'/>", device=device, form=form)


def _disk(
    target: str, source: str = "", *, kind: str = "file", device: str = "disk", form: str = "raw"
) -> str:
    bus = {"v": "virtio", "s": "scsi", "h": "ide"}[target[0]]
    return (
        f"<disk type='{kind}' device='{device}'><driver name='qemu' type='{form}'/>{source}"
        f"<target dev='{target}' bus='{bus}'/></disk>"
    )


def _nic(mac: str, details: str = "", *, kind: str = "bridge", bridge: str = BRIDGE) -> str:
    source = f"<source bridge='{bridge}'/>" if kind == "bridge" else ""
    return (
        f"<interface type='{kind}'><mac address='{mac}'/>{source}<model type='virtio'/>{details}"
        "</interface>"
    )
