"""A process that asks libvirt for versions, which virtmeter itself does not need: JSON comes out.

In a process of its own because a daemon that hangs would never answer it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from virtmeter.cli.default_uri import VARIABLE
from virtmeter.cli.doctor.finding import OK, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_START = 2.0
"""Seconds that Python may take to start."""

READ_ONLY = 1
NO_CREDENTIALS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p)


class Auth(ctypes.Structure):
    """``virConnectAuth``, by which libvirt takes a login from its auth.conf and asks nobody."""

    _fields_ = (
        ("kinds", ctypes.POINTER(ctypes.c_int)),
        ("count", ctypes.c_uint),
        ("callback", NO_CREDENTIALS),
        ("data", ctypes.c_void_p),
    )

    def __init__(self) -> None:
        """As the core's: name, passphrase and realm; what auth.conf lacks of them, nobody has."""
        kinds = (ctypes.c_int * 3)(2, 5, 8)
        super().__init__(kinds, len(kinds), NO_CREDENTIALS(lambda *_: -1), None)


def versions(uri: str, timeout: float) -> Iterator[Finding]:
    """Say which libvirt this is, where that can be found out."""
    seconds = timeout + TO_START
    command = [sys.executable, "-m", __name__, str(seconds)]
    # Not as an argument: all can see those, and a password may be in it.
    environment = {**os.environ, VARIABLE: uri} if uri else None
    try:
        # Not where we are: Python would take modules from there.
        found = subprocess.run(
            command,
            cwd="/",
            env=environment,
            capture_output=True,
            timeout=seconds,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as expired:
        found = expired.stdout or b""
    except OSError:
        return
    for line in found.splitlines():
        with suppress(ValueError):
            what, version = json.loads(line)
            yield Finding(OK, f"{what} {version}")


def main() -> None:
    """Print a line for each version as soon as it is known."""
    # By itself: who has started it may be gone. In a call of libvirt's, Python would hear nothing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    libvirt = ctypes.CDLL("libvirt.so.0")
    libvirt.virConnectOpenAuth.restype = ctypes.c_void_p
    libvirt.virConnectOpenAuth.argtypes = [ctypes.c_char_p, ctypes.POINTER(Auth), ctypes.c_uint]
    libvirt.virConnectGetType.restype = ctypes.c_char_p
    libvirt.virConnectGetType.argtypes = [ctypes.c_void_p]
    for function in (libvirt.virConnectGetLibVersion, libvirt.virConnectGetVersion):
        function.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulong)]
    number = ctypes.c_ulong()
    if libvirt.virGetVersion(ctypes.byref(number), None, None) == 0:
        say("libvirt's client library", number.value)
    connection = libvirt.virConnectOpenAuth(None, Auth(), READ_ONLY)
    if not connection:
        return
    if libvirt.virConnectGetLibVersion(connection, ctypes.byref(number)) == 0:
        say("libvirt's daemon", number.value)
    if libvirt.virConnectGetVersion(connection, ctypes.byref(number)) == 0 and number.value:
        say(f"hypervisor {libvirt.virConnectGetType(connection).decode()}", number.value)


def say(what: str, number: int) -> None:
    """Print one of them: 9000002 is 9.0.2."""
    version = f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
    sys.stdout.write(json.dumps([what, version]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
