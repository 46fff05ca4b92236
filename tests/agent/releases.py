"""The Ceilometer releases that the tests run, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


def run(
    *command: Any,
    meanwhile: Callable[[], object] = lambda: None,
    steps: Iterable[Callable[[], object]] = (),
) -> str:
    """Run a command that must succeed, and return what it printed last.

    When it has printed a line, ``meanwhile`` is called, and then its input ends. With ``steps``, it
    first has a line of input for each of them, prints one, and the step is taken.
    """
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            printed = process.stdout.readline()
            meanwhile()
            for step in steps:
                with suppress(BrokenPipeError):  # what has failed says why
                    process.stdin.write("\n")
                    process.stdin.flush()
                process.stdout.readline()
                step()
            process.stdin.close()
            printed += process.stdout.read()
        errors.seek(0)
        assert process.returncode == 0, errors.read()
    return printed.splitlines()[-1]
