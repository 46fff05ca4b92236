"""Which URI is opened where none is given, and who has said so: for messages."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
from click.core import ParameterSource

from virtmeter.cli.files import content

SYSTEM = "qemu:///system"
"""Where nobody has said anything. libvirt itself would look what there is, and open a user's own
session, which is empty, and start a daemon for that."""
VARIABLE = "LIBVIRT_DEFAULT_URI"
SETTING = re.compile(r"""^[ \t]*uri_default[ \t]*=[ \t]*(["'])(.*?)\1""", re.M)


def configured() -> tuple[str, Path] | None:
    """Return what libvirt's client configuration says, and where, if it does."""
    try:
        if os.geteuid() == 0:
            directory = Path("/etc")
        else:
            directory = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
        file = directory / "libvirt/libvirt.conf"
        found = SETTING.search(content(file).decode(errors="surrogateescape"))
    # There may be no home; what is wrong with the file, libvirt will say.
    except (OSError, ValueError, RuntimeError):
        return None
    return (found[2], file) if found and found[2] else None


def chosen() -> str:
    """Return the URI that is opened where none is given, nor set in the environment."""
    return (configured() or (SYSTEM,))[0]


def explained(message: str) -> str:
    """Return a message about a connection, with the origin of a URI that was not given."""
    context = click.get_current_context(silent=True)
    source = context and context.get_parameter_source("uri")
    if source == ParameterSource.ENVIRONMENT:
        return f"{message}; the URI comes from {VARIABLE}"
    if source == ParameterSource.DEFAULT and (found := configured()):
        return f"{message}; the URI comes from {found[1]}"
    return message
