"""What a type checker knows of virtmeter in a user's program."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import virtmeter
with virtmeter.Inspector("test:///default") as inspector:
    inspector.list_instances()[0].nme
with virtmeter.LibvirtInspector() as libvirt:
    libvirt.usage_al()
"""


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_misspelt_names_are_found_for_every_python(version: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--python-version", version, "program.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in told.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in errors] == ["4", "6"], told.stdout + told.stderr
