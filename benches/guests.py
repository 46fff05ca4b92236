"""Running guests with all kinds of disks: files, raw and qcow2, block devices and NBD."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import guests, qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

# The two disks of each guest, over and over. It boots from the first one, and halts.
DISKS = (
    *(("qcow2", "qcow2"), ("raw", "raw"), ("qcow2", "raw"), ("raw", "qcow2")),
    *(("qcow2", "qcow2"), ("raw", "raw"), ("qcow2", "block"), ("raw", "nbd")),
)


@dataclass(frozen=True)
class Running:
    """The guests, and in words what disks they have."""

    guests: list[qemu.Guest]
    disks: str

    @property
    def uuids(self) -> list[str]:
        """Return how an inspector asks about them."""
        return [guest.uuid for guest in self.guests]


@contextmanager
def running(rig: qemu.Libvirtd, count: int) -> Iterator[Running]:
    """Have so many of them, halted, over images that have been written to, for a while."""
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="shared-", dir=rig.directory)
        directory = Path(stack.enter_context(temporary))
        nbd = stack.enter_context(_nbd_server(directory))
        device = _loop_device(directory)

        def sources(index: int) -> tuple[str, ...]:
            pair = DISKS[index % len(DISKS)]
            return tuple("raw" if what == "block" and not device else what for what in pair)

        def define(index: int, images: Path, *, kvm: bool, bootable: bool) -> str:
            assert bootable
            disks = []
            for target, what in zip(("vda", "vdb"), sources(index)):
                if what == "block":
                    source = f"<source dev='{device}'/><shareable/>"
                elif what == "nbd":
                    host = f"<host transport='unix' socket='{nbd}'/>"
                    source = f"<source protocol='nbd'>{host}</source>"
                else:
                    source = f"<source file='{_image(images / f'{index}-{target}', what)}'/>"
                disks.append(_disk(target, what, source))
            return guests.domain_xml(f"bulk-{index}", *disks, _nic(index), kvm=kvm)

        try:
            bulk = stack.enter_context(rig.bulk(count, running=True, define=define))
        finally:
            if device:
                # It stays for those who have opened it, and goes with the last of them.
                subprocess.run(["losetup", "--detach", device], check=True)
        every = [what for index in range(count) for what in sources(index)]
        words = {
            "qcow2": "qcow2 files",
            "raw": "raw files",
            "block": "block devices (a loop device)",
            "nbd": "NBD",
        }
        told = [f"{every.count(what)} {word}" for what, word in words.items() if what in every]
        if not device:
            told.append("no block device, as this machine has no loop device to give")
        yield Running(bulk, ", ".join(told))


def _disk(target: str, what: str, source: str) -> str:
    kind = {"block": "block", "nbd": "network"}.get(what, "file")
    form = "qcow2" if what == "qcow2" else "raw"
    return (
        f"<disk type='{kind}' device='disk'><driver name='qemu' type='{form}'/>{source}"
        f"<target dev='{target}' bus='virtio'/></disk>"
    )


def _nic(index: int) -> str:
    # Without a ROM to boot from, which would take its time.
    return (
        f"<interface type='bridge'><mac address='52:54:01:00:{index >> 8:02x}:{index & 255:02x}'/>"
        f"<source bridge='{guests.BRIDGE}'/><model type='virtio'/><rom enabled='no'/></interface>"
    )


def _image(path: Path, form: str) -> Path:
    """Make an image with a boot sector that halts."""
    raw = path.with_suffix(".raw")
    _make_raw(raw, guests.HALTS)
    if form == "raw":
        return raw
    image = path.with_suffix(".qcow2")
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)]
    subprocess.run(command, check=True)
    raw.unlink()
    return image


def _make_raw(path: Path, data: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(data)
        file.truncate(guests.MIB)


@contextmanager
def _nbd_server(directory: Path) -> Iterator[Path]:
    """Run a server, which some guests share; it ends with the last of its clients."""
    image, socket = directory / "nbd.raw", directory / "nbd.sock"
    _make_raw(image)
    command = ["qemu-nbd", "--shared=0", "--format=raw", f"--socket={socket}", str(image)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            qemu.wait_for(socket.exists, "qemu-nbd listens")
            yield socket
        finally:
            server.terminate()


def _loop_device(directory: Path) -> str | None:
    """Make a block device, which some guests share; None where this machine does not let us."""
    image = directory / "block.raw"
    _make_raw(image)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True
    )
    return made.stdout.strip() if made.returncode == 0 else None
