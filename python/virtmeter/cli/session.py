"""A user's own session of libvirt, which is often taken for the host."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from virtmeter.cli.default_uri import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtmeter import Instance

LOG = logging.getLogger(__name__)

SYSTEM_SOCKETS = (
    Path("/run/libvirt/virtqemud-sock-ro"),
    Path("/run/libvirt/libvirt-sock-ro"),
)
"""Of the modular daemon, which libvirt prefers, and of the monolithic one."""


def is_session(uri: str) -> bool:
    """Return whether a URI is that of this user's session; root has none, but the system's."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # libvirt has said what it thinks of it
        return False
    return (
        os.geteuid() != 0 and parts.scheme.partition("+")[0] == "qemu" and parts.path == "/session"
    )


def sockets() -> tuple[Path, Path]:
    """Return where the session's daemon listens, as libvirt's library has it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path raises without a home
    directory = os.environ.get("XDG_RUNTIME_DIR") or cache
    return (Path(directory, "libvirt/virtqemud-sock"), Path(directory, "libvirt/libvirt-sock"))


def beside_system(uri: str, listed: Sequence[Instance]) -> str:
    """Return what to say of a session without VMs on a host that has others; empty: nothing."""
    if listed or not is_session(uri) or not any(map(os.path.exists, SYSTEM_SOCKETS)):
        return ""
    return (
        f"your own libvirt session has no VMs; those of the host are at {SYSTEM} (--uri {SYSTEM})"
    )


def tell(uri: str, listed: Sequence[Instance]) -> None:
    """Log that, once."""
    if sentence := beside_system(uri, listed):
        _log(sentence)


@cache
def _log(sentence: str) -> None:
    LOG.warning("%s", sentence)
