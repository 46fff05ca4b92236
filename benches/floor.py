"""Builds floor.c: libvirt.so alone, called by threads that do nothing else."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = Path(__file__).parents[1] / "build/floor"
THREADS = 4


def command(uri: str, *, asked: bool) -> list[str]:
    """Return how it is started; whether sizes are asked, or no call is made for them."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "libvirt"],
            capture_output=True,
            text=True,
            check=True,
        )
        PROGRAM.parent.mkdir(exist_ok=True)
        subprocess.run(
            ["cc", "-O2", "-o", str(PROGRAM), str(SOURCE), *shlex.split(flags.stdout)], check=True
        )
    return [str(PROGRAM), uri, "asked" if asked else "reckoned", str(THREADS)]
