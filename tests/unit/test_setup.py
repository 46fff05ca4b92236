"""What tools/setup says of a folder in which nothing can be built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "goal", "said"),
    [
        ("a%b", "demo", "linker"),
        ('a"b', "test", "linker"),
        ("a\nb", "demo", "line break"),
        ("a$b", "test", "setuptools"),
        ("a{b}", "test", "setuptools"),
        ("a$b", "demo", "nowhere is missing"),
        ("a $ 'b", "test", "nowhere is missing"),
    ],
)
def test_a_path_that_other_tools_cannot_have_is_told_at_once(
    tmp_path: Path, name: str, goal: str, said: str
) -> None:
    folder = tmp_path / name
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/setup", folder / "tools")
    shutil.copy(ROOT / "Cargo.toml", folder)
    # It goes no further than to this Python, which is not there.
    done = subprocess.run(
        [folder / "tools/setup", goal],
        env={**os.environ, "PYTHON": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
