"""The command line as users run it: in a process of its own, with a terminal or without."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pexpect

from tests.support.guests import domain_uuid
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "virtmeter.cli")
TIMEOUT = 30


def environment(**more: str) -> dict[str, str]:
    """This environment, without what would change what a terminal shows."""
    ours = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "LIBVIRT_DEFAULT_URI"}
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    return rest | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | more


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, to its end."""
    return shell('exec "$@"', *arguments, **more)


def shell(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command by a shell's script, in which it is "$@"."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=TIMEOUT,
        env=environment(**more),
    )


def interrupted(
    *arguments: str, when: Callable[[], bool], number: signal.Signals = signal.SIGINT
) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, and press Ctrl-C as soon as something is true.

    Or send it another signal.
    """
    command = [*COMMAND, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())
    try:
        wait_for(when, "the command has come so far")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@contextmanager
def terminal(
    *arguments: str, rows: int = 24, columns: int = 120, script: str = "exec {}"
) -> Iterator[pexpect.spawn]:
    """Run a command in a terminal, with what a shell does before and after it."""
    command = script.format(shlex.join([*COMMAND, *arguments]))
    child = pexpect.spawn(
        "sh",
        ["-c", command],
        dimensions=(rows, columns),
        encoding="utf-8",
        timeout=TIMEOUT,
        env=environment(),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def everything(child: pexpect.spawn) -> str:
    """What the command has said from now to its end, which is waited for."""
    child.expect(pexpect.EOF)
    child.wait()
    text = child.before
    assert isinstance(text, str)
    return text


def wait_for_exit(process: subprocess.Popen[str]) -> int:
    return process.wait(TIMEOUT)


def some_host(directory: Path, *names: str) -> str:
    """The URI of libvirt's test hypervisor, with VMs of these names."""
    domains = "".join(
        # Every connection has a host of its own, on which a VM has to be the same.
        f"<domain type='test'><name>{name}</name><uuid>{domain_uuid(name)}</uuid>"
        f"<memory unit='MiB'>{64 * number}</memory>"
        f"<vcpu>{number}</vcpu><os><type>hvm</type></os></domain>"
        for number, name in enumerate(names, 1)
    )
    file = directory / "host.xml"
    file.write_text(f"<node>{domains}</node>")
    return f"test://{file}"
