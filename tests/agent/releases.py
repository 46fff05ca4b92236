"""The Ceilometer releases that the tests run, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.agent.forkserver import ForkServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HERE = Path(__file__).parent
# tools/setup makes them; the newest release is in the environment of the tests.
RELEASES = {"27.0.0": Path(sys.executable)} | {
    release: HERE.parents[1] / f"build/ceilometer-{release}/bin/python"
    for release in ("19.0.0", "22.0.0", "24.0.0")
}

# Those that have been started; conftest.py ends them.
servers: dict[str, ForkServer] = {}


def python_of(release: str) -> str:
    """Return the Python of a release, or skip the test."""
    if not RELEASES[release].exists():
        pytest.skip(f"there is no environment of Ceilometer {release} in build")
    return str(RELEASES[release])


def ask(
    release: str,
    script: str,
    question: Sequence[object],
    *,
    meanwhile: Callable[[], object] = lambda: None,
    steps: Iterable[Callable[[], object]] = (),
) -> str:
    """Do as ``run`` with a script of this directory, in a fork of a process of this release.

    The environment is that of the first one of a release.
    """
    if release not in servers:
        servers[release] = ForkServer(python_of(release))
    command = (str(HERE / script), json.dumps(question))
    with (
        tempfile.TemporaryFile("w+") as errors,
        servers[release].script(*command, stderr=errors) as (stdin, stdout),
    ):
        return talk(stdin, stdout, meanwhile, steps)


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
            last = talk(process.stdin, process.stdout, meanwhile, steps)
        errors.seek(0)
        assert process.returncode == 0, errors.read()
    return last


def talk(
    stdin: IO[str],
    stdout: IO[str],
    meanwhile: Callable[[], object],
    steps: Iterable[Callable[[], object]],
) -> str:
    """Do what ``run`` says, and return the last line: none of one that has failed."""
    printed = stdout.readline()
    meanwhile()
    for step in steps:
        with suppress(BrokenPipeError):  # what has failed says why
            stdin.write("\n")
            stdin.flush()
        stdout.readline()
        step()
    with suppress(BrokenPipeError):
        stdin.close()
    printed += stdout.read()
    return (printed.splitlines() or [""])[-1]
