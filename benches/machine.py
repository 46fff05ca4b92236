"""On what all of it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import libvirt

import virtmeter


def description() -> str:
    """Return a paragraph about the machine and the versions."""
    return (
        f"Measured on {datetime.date.today():%-d %B %Y} on a machine with {os.cpu_count()} cores "
        f"({_processor()}, {_memory_gib()} GiB, Linux {platform.release()}), which guests, "
        f"libvirtd and agents share: virtmeter {virtmeter.__version__}, the inspector of "
        f"Ceilometer {metadata.version('ceilometer')}, libvirt {_libvirt()}, QEMU {_qemu()}, "
        f"Python {platform.python_version()}."
    )


def _libvirt() -> str:
    number = libvirt.getVersion()
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3)


def _qemu() -> str:
    try:
        answer = subprocess.run(
            ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
        )
    except OSError:
        return "none"
    return answer.stdout.split()[3]
