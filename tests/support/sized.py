"""A guest with disks of every kind, to which its QEMU writes when it is told to.

It is paused: nothing is written but what is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from tests.support import guests
from tests.support.qemu import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from tests.support.qemu import Libvirtd

MIB = guests.MIB
Sizes = tuple[str, int, int, int]
"""Device; capacity, allocation and physical in bytes."""


@dataclass(frozen=True)
class Disk:
    """A disk by its target name."""

    target: str
    source: str  # the attributes and children of that element
    form: str = "raw"
    kind: str = "file"
    device: str = "disk"

    @property
    def xml(self) -> str:
        """What the domain XML says of it."""
        bus = {"v": "virtio", "h": "ide"}[self.target[0]]
        return (
            f"<disk type='{self.kind}' device='{self.device}'>"
            f"<driver name='qemu' type='{self.form}'/><source {self.source}</source>"
            f"<target dev='{self.target}' bus='{bus}'/></disk>"
        )


class SizedGuest:
    """The guest, for a while, and the directory of its images."""

    def __init__(self, rig: Libvirtd) -> None:
        """Start nothing yet."""
        self.rig = rig
        self._disks: list[Disk] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.images = Path(tempfile.mkdtemp(prefix="sized-", dir=self.rig.directory))
        self._stack.callback(shutil.rmtree, self.images)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def uuid(self) -> str:
        """Its instance."""
        return self._guest.uuid

    def raw(self, target: str, size: int, content: bytes = b"", *, device: str = "disk") -> Path:
        """Add a raw image of this size, which begins with this content."""
        image = self.make_raw(f"{target}.raw", size, content)
        self._disks.append(Disk(target, f"file='{image}'>", device=device))
        return image

    def make_raw(self, name: str, size: int, content: bytes = b"") -> Path:
        """Make a raw image that is no disk of its own."""
        image = self.images / name
        with image.open("wb") as file:
            file.write(content)
            file.truncate(size)
        return image

    def qcow2(self, target: str, size: int, *options: str) -> Path:
        """Add a qcow2 image of this size, made with these options."""
        image = self.images / f"{target}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(image), str(size)]
        subprocess.run(command, check=True)
        self._disks.append(Disk(target, f"file='{image}'>", form="qcow2"))
        return image

    def block(self, target: str, device: str, form: str = "raw") -> None:
        """Add a block device of the host's."""
        self._disks.append(Disk(target, f"dev='{device}'>", form, "block"))

    def nbd(self, target: str, size: int) -> None:
        """Add a disk that qemu-nbd serves, which ends with the rig."""
        image = self.make_raw(f"{target}.nbd", size)
        # Not among the images, which go before the server does.
        socket = self.rig.directory / f"{self.images.name}.sock"
        self.rig.serve_nbd(image, socket)
        host = f"<host transport='unix' socket='{socket}'/>"
        self._disks.append(Disk(target, f"protocol='nbd'>{host}", kind="network"))

    def start(self) -> None:
        """Start it with the disks that were added."""
        xml = guests.domain_xml(
            self.images.name, *(disk.xml for disk in self._disks), kvm=self.rig.kvm
        )
        self._guest = Guest(self.rig, self.images.name, xml)
        self._guest.define()
        self._stack.callback(self._guest.undefine)
        self._guest.start()
        self._stack.callback(self._guest.destroy)
        conn = self._stack.enter_context(closing(self.rig.connect()))
        self.domain = self._guest.domain(conn)

    def io(self, target: str, command: str) -> None:
        """Let QEMU do what its guest might do to a virtio disk, as qemu-io has it."""
        devices = ElementTree.fromstring(self.domain.XMLDesc(0)).iterfind("devices/disk")
        [alias] = (
            str(disk.find("alias").get("name"))  # type: ignore[union-attr]
            for disk in devices
            if disk.find("target").get("dev") == target  # type: ignore[union-attr]
        )
        said = libvirt_qemu.qemuMonitorCommand(
            self.domain,
            f'qemu-io -d /machine/peripheral/{alias}/virtio-backend "{command}"',
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
        )
        if said.strip():
            raise RuntimeError(f"{target}: {said}")

    def resize(self, target: str, size: int) -> None:
        """Make a disk larger."""
        self.domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def snapshot(self) -> None:
        """Go on writing to new qcow2 images, over the ones up to now."""
        self.domain.snapshotCreateXML(
            "<domainsnapshot><name>after</name></domainsnapshot>",
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA,
        )

    @contextmanager
    def shut_off(self) -> Iterator[None]:
        """Have it shut off, for a while."""
        self._guest.destroy()
        try:
            yield
        finally:
            self._guest.start()

    def sync(self) -> None:
        """Have written what was written: until then, an image may come to occupy something else."""
        for image in self.images.iterdir():
            with image.open("rb") as file:
                os.fsync(file.fileno())

    def told(self) -> list[Sizes]:
        """Return what libvirt says when it is asked about each disk.

        As with the stock inspector, no capacity is below the physical size.
        """
        found = []
        for disk in self._disks:
            capacity, allocation, physical = self.domain.blockInfo(disk.target)
            found.append((disk.target, max(capacity, physical), allocation, physical))
        return found
