"""Whether this user gets at libvirt's socket, and whose socket that is."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from virtmeter.cli import session
from virtmeter.cli.doctor.finding import OK, PROBLEM, RESTART, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

DAEMONS = {
    "virtqemud": "virtqemud, the modular daemon",
    "virtproxyd": "virtproxyd, which forwards to the modular daemons",
    "libvirtd": "libvirtd, the monolithic daemon",
}
START = (
    "start it: 'systemctl start virtqemud-ro.socket' if libvirt is modular, 'systemctl start "
    "libvirtd-ro.socket' if it is not; a container needs the host's /run/libvirt mounted"
)

START_SESSION = (
    "it runs only while your session has VMs, and virtmeter does not start it; for the VMs of the "
    "host, use --uri qemu:///system"
)


def sockets(uri: str, timeout: float) -> Iterator[Finding]:
    """Try the socket that libvirt's library would use, if there is one."""
    candidates = paths(uri)
    if not candidates:
        return
    for path in candidates:
        try:
            path.lstat()
        except PermissionError:
            yield forbidden(path.parent, "directory")
            return
        except (OSError, ValueError):  # a NUL is the latter
            continue
        yield connect(path, timeout)
        return
    absent = " nor ".join(map(str, candidates))
    own = session.is_session(uri)
    yield Finding(
        PROBLEM,
        f"there is no socket {absent}: libvirt's daemon is not running here",
        START_SESSION if own else START,
    )


def paths(uri: str) -> list[Path]:
    """Return where the socket may be; nowhere for what needs no local daemon, or another's."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # libvirt will say what it thinks of it
        return []
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu" or parts.netloc or transport not in ("", "unix"):
        return []
    if given := parse_qs(parts.query).get("socket"):
        return [Path(given[0])]
    if session.is_session(uri):
        return list(session.sockets())
    return list(session.SYSTEM_SOCKETS) if parts.path in ("/system", "/session") else []


def connect(path: Path, timeout: float) -> Finding:
    """Say what comes of a connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(path))
        except PermissionError:
            return forbidden(path, "socket")
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return Finding(PROBLEM, f"nothing listens on libvirt's socket {path}", START)
            # Its queue is full, as nobody takes from it.
            full = isinstance(error, TimeoutError) or error.errno == errno.EAGAIN
            advice = RESTART if full else ""
            return Finding(PROBLEM, f"libvirt's socket {path} cannot be used: {error}", advice)
        return Finding(OK, f"the socket {path} is open to {user()}, and of {daemon(client, path)}")


def forbidden(path: Path, kind: str) -> Finding:
    """Say who may use it, and how to become one of them."""
    what = f"{user()} may not use libvirt's {kind} {path}"
    try:
        status = path.stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return Finding(PROBLEM, what, "run virtmeter as a user who may, such as root")
    if status.st_mode & 0o060 and status.st_gid != 0:
        return Finding(
            PROBLEM,
            what,
            f"join its group: 'usermod -aG {group} {user()}', then log in again",
        )
    return Finding(
        PROBLEM,
        what,
        "run virtmeter as its owner, or set unix_sock_group and unix_sock_ro_perms in the daemon's "
        "configuration (libvirtd.conf or virtqemud.conf) or in its systemd socket unit",
    )


def user() -> str:
    """Return who we are."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def daemon(client: socket.socket, path: Path) -> str:
    """Return which daemon is on the other side; where systemd listens for it, by the path."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = struct.unpack("3i", credentials)[0]
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        name = ""
    by_path = "virtqemud" if path.name.startswith("virtqemud") else "libvirtd"
    return DAEMONS.get(name, DAEMONS[by_path])
