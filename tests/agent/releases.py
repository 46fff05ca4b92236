"""The Ceilometer releases that the tests run, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# tools/setup makes them; the newest release is in the environment of the tests.
RELEASES = {"27.0.0": Path(sys.executable)} | {
    release: HERE.parents[1] / f"build/ceilometer-{release}/bin/python"
    for release in ("19.0.0", "22.0.0", "24.0.0")
}


def python_of(release: str) -> str:
    """Return the Python of a release, or skip the test."""
    if not RELEASES[release].exists():
        pytest.skip(f"there is no environment of Ceilometer {release} in build")
    return str(RELEASES[release])


def run(*command: Any) -> str:
    """Run a command that must succeed, and return what it printed last."""
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.splitlines()[-1]
