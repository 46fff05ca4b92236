"""The sizes of disks that virtmeter reckons are those that libvirt says when it is asked."""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import libvirt
import pytest

import virtmeter
from tests.support import sample
from tests.support.oracle import outcome, stock_inspector
from tests.support.procedures import Disk
from tests.support.qemu import wait_for
from tests.support.sized import MIB, SizedGuest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd
    from tests.support.sized import Sizes

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def guest(rig: Libvirtd) -> Iterator[SizedGuest]:
    with SizedGuest(rig) as guest:
        yield guest


@pytest.fixture
def inspector(rig: Libvirtd) -> Iterator[virtmeter.LibvirtInspector]:
    """One that is used all through a test, and reads nothing ahead."""
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector:
        yield inspector


def read(inspector: virtmeter.LibvirtInspector, uuid: str) -> list[Sizes]:
    infos = inspector.inspect_disk_info(uuid)
    return [(info.device, info.capacity, info.allocation, info.physical) for info in infos]


def counted(inspector: virtmeter.LibvirtInspector) -> tuple[int, int, int]:
    health = inspector.health()
    assert health.sizes_asked == health.calls["block_info"]
    return health.sizes_reckoned, health.sizes_asked, health.sizes_differed


def assert_reckoned(guest: SizedGuest, inspector: virtmeter.LibvirtInspector) -> None:
    """Compare with libvirt what is reckoned of all disks, by this inspector and by a new one."""
    guest.sync()
    told = guest.told()
    # Of what has changed, the first reading asks.
    assert read(inspector, guest.uuid) == told
    assert read(inspector, guest.uuid) == told
    with virtmeter.LibvirtInspector(guest.rig.uri, max_age=0) as anew:
        assert read(anew, guest.uuid) == told
        assert counted(anew) == (0, len(told), 0)
        assert read(anew, guest.uuid) == told
        assert counted(anew) == (len(told), len(told), 0)
    assert guest.told() == told
    assert inspector.health().sizes_differed == 0
    stock = stock_inspector(guest.rig.uri)
    assert outcome(inspector, "inspect_disk_info", guest.uuid) == outcome(
        stock, "inspect_disk_info", guest.uuid
    )


def test_every_kind_of_disk(guest: SizedGuest, inspector: virtmeter.LibvirtInspector) -> None:
    noise = os.urandom(4 * MIB)
    guest.raw("vda", 16 * MIB)
    guest.raw("vdb", 16 * MIB)
    guest.raw("vdc", 16 * MIB, noise)
    guest.raw("vdd", 4 * MIB, noise)
    guest.raw("vde", 4 * MIB, noise)
    guest.qcow2("vdf", 16 * MIB)
    guest.make_raw("base.raw", 16 * MIB)
    guest.qcow2("vdg", 16 * MIB, "-b", "base.raw", "-F", "raw")
    guest.qcow2("vdh", 4 * MIB, "-o", "preallocation=full")
    guest.nbd("vdi", 16 * MIB)
    # Neither whole sectors nor whole pages.
    guest.raw("hda", 6145, b"CD001" * 1229, device="cdrom")
    guest.start()
    assert_reckoned(guest, inspector)
    written = ("vdb", "vdc", "vde", "vdf", "vdg", "vdh", "vdi")
    for target in written:
        guest.io(target, "write 512k 64k")
    assert_reckoned(guest, inspector)
    # Up to the very end: then it was written up to where the image occupies.
    for target in written:
        guest.io(target, f"write {4 * MIB - 4096} 4096")
    for target in ("vdb", "vdc", "vdf", "vdg", "vdi"):
        guest.io(target, f"write {16 * MIB - 4096} 4096")
    assert_reckoned(guest, inspector)
    # An image that was written to may occupy nothing.
    for target in ("vdb", "vde", "vdf"):
        guest.io(target, "write -z -u 0 4M")
    assert_reckoned(guest, inspector)
    reckoned, asked, _ = counted(inspector)
    assert reckoned > asked


def test_what_images_occupy(rig: Libvirtd, guest: SizedGuest) -> None:
    """It is what ``du`` says, whatever libvirt says of the sizes."""
    noise = os.urandom(4 * MIB)
    images = {
        "vda": guest.raw("vda", 1024 * MIB),
        "vdb": guest.raw("vdb", 16 * MIB),
        "vdc": guest.raw("vdc", 16 * MIB, noise),
        "vdd": guest.raw("vdd", 4 * MIB, noise),
        "vde": guest.qcow2("vde", 1024 * MIB),
        "vdf": guest.qcow2("vdf", 4 * MIB, "-o", "preallocation=full"),
    }
    guest.nbd("vdi", 16 * MIB)

    def assert_occupied(inspector: virtmeter.LibvirtInspector) -> None:
        guest.sync()
        told = {info.device: info.occupied for info in inspector.inspect_disk_info(guest.uuid)}
        occupied = {name: path.stat().st_blocks * 512 for name, path in images.items()}
        assert told.pop("vdi", None) is None
        assert told == occupied

    guest.start()
    for reckon in (True, False):
        with virtmeter.LibvirtInspector(
            rig.uri, max_age=0, reckon_sizes=reckon, report_stopped=True
        ) as inspector:
            assert_occupied(inspector)
            for target in ("vda", "vde"):
                guest.io(target, "write 900M 64k")
            assert_occupied(inspector)
            [sparse, *_] = inspector.inspect_disk_info(guest.uuid)
            assert sparse.allocation > 900 * MIB
            assert sparse.occupied is not None
            assert sparse.occupied < MIB
            for target in ("vda", "vdd"):
                guest.io(target, "write -z -u 0 4M")
            assert_occupied(inspector)
    with (
        guest.shut_off(),
        virtmeter.LibvirtInspector(rig.uri, max_age=0, report_stopped=True) as inspector,
    ):
        assert_occupied(inspector)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    attached = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True
    )
    if attached.returncode != 0:
        pytest.skip(f"there is no loop device to be had ({attached.stderr.strip()}).")
    device = attached.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_block_devices(
    rig: Libvirtd, inspector: virtmeter.LibvirtInspector, tmp_path: Path
) -> None:
    images = [tmp_path / name for name in ("a", "b", "c")]
    for image in images:
        with image.open("wb") as file:
            file.truncate(8 * MIB)
    with (
        loop_device(images[0]) as untouched,
        loop_device(images[1]) as written,
        loop_device(images[2]) as qcow2,
        SizedGuest(rig) as guest,
    ):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "4M"], check=True)
        guest.block("vda", untouched)
        guest.block("vdb", written)
        guest.block("vdc", qcow2, "qcow2")
        guest.start()
        assert_reckoned(guest, inspector)
        for target in ("vdb", "vdc"):
            guest.io(target, "write 512k 64k")
        assert_reckoned(guest, inspector)
        guest.io("vdb", f"write {8 * MIB - 4096} 4096")
        assert_reckoned(guest, inspector)


def test_disks_that_are_resized(guest: SizedGuest, inspector: virtmeter.LibvirtInspector) -> None:
    guest.raw("vda", 4 * MIB)
    guest.raw("vdb", 4 * MIB, os.urandom(4 * MIB))
    guest.qcow2("vdc", 4 * MIB)
    guest.start()
    assert_reckoned(guest, inspector)
    for target in ("vda", "vdb", "vdc"):
        guest.resize(target, 8 * MIB)
    assert_reckoned(guest, inspector)


def test_disks_of_which_a_snapshot_is_taken(
    guest: SizedGuest, inspector: virtmeter.LibvirtInspector
) -> None:
    guest.raw("vda", 4 * MIB)
    guest.qcow2("vdb", 4 * MIB)
    guest.start()
    for target in ("vda", "vdb"):
        guest.io(target, "write 512k 64k")
    assert_reckoned(guest, inspector)
    guest.snapshot()
    assert_reckoned(guest, inspector)
    for target in ("vda", "vdb"):
        guest.io(target, "write 0 1M")
    assert_reckoned(guest, inspector)
    # And back again.
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
    for target in ("vda", "vdb"):
        guest.domain.blockCommit(target, None, None, 0, flags)
        wait_for(functools.partial(is_mirrored, guest, target), f"{target} is mirrored")
        # While the mirror is ready, libvirt tells of the overlay.
        assert_reckoned(guest, inspector)
        guest.domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    assert_reckoned(guest, inspector)


def is_mirrored(guest: SizedGuest, target: str) -> bool:
    job = guest.domain.blockJobInfo(target, 0)
    return bool(job and job["cur"] == job["end"] and "ready='yes'" in guest.domain.XMLDesc(0))


def test_a_snapshot_after_the_xml_was_read(rig: Libvirtd, guest: SizedGuest) -> None:
    """What the XML said of the disk is not true of its new source."""
    guest.raw("vda", 4 * MIB)
    guest.start()
    guest.io("vda", "write 512k 64k")
    guest.sync()
    with virtmeter.LibvirtInspector(rig.uri, max_age=60) as inspector:
        for _ in range(3):
            assert read(inspector, guest.uuid) == guest.told()
        assert inspector.health().sizes_reckoned == 2
        guest.snapshot()
        guest.io("vda", "write 512k 128k")
        guest.sync()
        assert read(inspector, guest.uuid) == guest.told()


def test_an_image_that_grows(guest: SizedGuest, inspector: virtmeter.LibvirtInspector) -> None:
    """Each number is one that libvirt might have said meanwhile, and none is found to differ."""
    image = guest.raw("vda", 64 * MIB)
    # It occupies more than was written; if it were the same, libvirt would tell the length instead.
    with image.open("r+b") as file:
        file.seek(-MIB, os.SEEK_END)
        file.write(os.urandom(MIB))
    guest.qcow2("vdb", 64 * MIB)
    guest.start()
    guest.io("vda", "write 0 64k")
    stop = threading.Event()

    def write() -> None:
        for block in range(1, 1000):
            for target in ("vda", "vdb"):
                guest.io(target, f"write {block * 64}k 64k")
            if stop.is_set():
                break

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            before, ours, after = guest.told(), read(inspector, guest.uuid), guest.told()
            for low, sizes, high in zip(before, ours, after):
                for least, size, most in zip(low[1:], sizes[1:], high[1:]):
                    assert least <= size <= most
    finally:
        stop.set()
        writer.join()
    assert inspector.health().sizes_differed == 0
    assert_reckoned(guest, inspector)


def test_an_image_that_is_replaced(
    guest: SizedGuest, inspector: virtmeter.LibvirtInspector
) -> None:
    """QEMU has the old one open, and libvirt looks at the new one: so do we."""
    paths = [guest.raw("vda", 4 * MIB), guest.raw("vdb", 4 * MIB, os.urandom(MIB))]
    paths.append(guest.qcow2("vdc", 4 * MIB))
    guest.start()
    assert_reckoned(guest, inspector)
    for path in paths:
        other = path.with_suffix(".new")
        # As many blocks, and another length.
        subprocess.run(["cp", "--sparse=always", path, other], check=True)
        os.truncate(other, path.stat().st_size + 4096)
        other.replace(path)
    guest.sync()
    told = guest.told()
    for _ in range(100):
        assert read(inspector, guest.uuid) == told
    for path in paths:
        with path.open("wb") as file:
            file.write(os.urandom(2 * MIB))
    guest.sync()
    told = guest.told()
    for _ in range(100):
        assert read(inspector, guest.uuid) == told


def test_the_guests_of_the_rig(rig: Libvirtd) -> None:
    stock = stock_inspector(rig.uri)
    with virtmeter.LibvirtInspector(rig.uri, max_age=0) as inspector:
        guest = rig.guests["disks"]
        told = outcome(stock, "inspect_disk_info", guest.uuid)
        for _ in range(100):
            assert outcome(inspector, "inspect_disk_info", guest.uuid) == told
        reckoned, asked, differed = counted(inspector)
        assert (reckoned + asked, differed) == (100 * len(told), 0)
        # The first, one in fifty, and one more of those that begin early.
        assert asked <= 4 * len(told)


def test_a_guest_that_is_shut_off(rig: Libvirtd, guest: SizedGuest) -> None:
    """Of one, the bulk reading tells what the files occupy as allocation: nothing is reckoned."""
    guest.raw("vda", 4 * MIB, os.urandom(MIB))
    guest.qcow2("vdb", 4 * MIB)
    guest.start()
    with (
        guest.shut_off(),
        virtmeter.LibvirtInspector(rig.uri, max_age=0, report_stopped=True) as inspector,
    ):
        guest.sync()
        for _ in range(3):
            assert read(inspector, guest.uuid) == guest.told()
        assert counted(inspector) == (0, 6, 0)


def test_sizes_that_are_to_be_asked(rig: Libvirtd) -> None:
    with virtmeter.LibvirtInspector(rig.uri, max_age=0, reckon_sizes=False) as inspector:
        guest = rig.guests["disks"]
        told = read(inspector, guest.uuid)
        for _ in range(3):
            assert read(inspector, guest.uuid) == told
        assert counted(inspector) == (0, 4 * len(told), 0)


class Liar:
    """A daemon whose disk is not the file that we see under the same path, as in a container."""

    def __init__(self, daemon: Daemon, file: Path, form: str) -> None:
        self.file = file
        file.write_bytes(b"x" * 8192)
        self.occupied = file.stat().st_blocks * 512
        domain = sample.domain(uuid=UUID)
        domain.xml = (
            "<domain id='1'><devices><disk type='file' device='disk'>"
            f"<driver type='{form}'/><source file='{file}'/><target dev='vda'/></disk></devices>"
            "</domain>"
        )
        self.disk = domain.disks["vda"] = Disk(path=str(file))
        domain.bulk = True
        daemon.add(domain)
        self.inspector = virtmeter.LibvirtInspector(daemon.uri, max_age=0)

    def tell(self, physical: int, *, occupied: int | None = None) -> None:
        """Have the daemon's file of this length, with as many blocks as ours or so many."""
        occupied = self.occupied if occupied is None else occupied
        self.disk.bulk = (8192, 0, occupied)
        self.disk.info = (8192, occupied, physical)

    def assert_found_out(self, times: int = 100) -> None:
        """Read it many times; each time, it is what the daemon says."""
        for _ in range(times):
            assert read(self.inspector, UUID) == [("vda", *self.disk.info)]


@pytest.fixture(params=["raw", "qcow2"])
def liar(daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Liar]:
    liar = Liar(daemon, tmp_path / "disk", request.param)
    yield liar
    liar.inspector.close()


def test_the_same_file_is_no_lie(liar: Liar) -> None:
    liar.tell(8192)
    liar.assert_found_out()
    reckoned, asked, differed = counted(liar.inspector)
    assert reckoned > 90
    assert (reckoned + asked, differed) == (100, 0)


def test_another_file_of_another_length(liar: Liar) -> None:
    liar.tell(8191)
    liar.assert_found_out()
    assert counted(liar.inspector) == (0, 100, 1)


def test_another_file_that_occupies_something_else(liar: Liar) -> None:
    liar.tell(8192, occupied=liar.occupied + 4096)
    liar.assert_found_out()
    assert counted(liar.inspector) == (0, 100, 0)


def test_another_file_that_was_the_same_until_it_was_written_to(liar: Liar) -> None:
    liar.tell(8192)
    liar.assert_found_out(2)
    assert counted(liar.inspector) == (1, 1, 0)
    liar.tell(8000, occupied=liar.occupied + 4096)
    liar.assert_found_out()
    assert counted(liar.inspector) == (1, 101, 0)


def test_a_file_in_whose_place_comes_another(liar: Liar) -> None:
    liar.tell(8192)
    liar.assert_found_out(2)
    other = liar.file.with_suffix(".new")
    other.write_bytes(b"y" * 8191)
    other.replace(liar.file)
    liar.assert_found_out()
    assert counted(liar.inspector) == (1, 101, 1)


def test_a_file_that_goes_away(liar: Liar) -> None:
    liar.tell(8192)
    liar.assert_found_out(2)
    liar.file.unlink()
    liar.assert_found_out()
    assert counted(liar.inspector) == (1, 101, 0)


def test_another_path(liar: Liar) -> None:
    """The disk has got another source since its XML was read."""
    liar.tell(8192)
    liar.assert_found_out(2)
    liar.disk.path = "/elsewhere"
    liar.tell(8191)
    liar.assert_found_out()
    assert counted(liar.inspector) == (1, 101, 0)
