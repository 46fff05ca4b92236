"""Which URI libvirt opens where none is given, and who has said so: for messages."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
from click.core import ParameterSource

from virtmeter.cli.files import content
from virtmeter.cli.text import shown_uri

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


def explained(message: str, uri: str) -> str:
    """Return a message about libvirt's connection, with the origin of a URI that was not given.

    :param uri: what it was opened with: empty where the variable is not set either.
    """
    if uri:
        context = click.get_current_context()
        of_variable = context.get_parameter_source("uri") == ParameterSource.ENVIRONMENT
        return f"{message}; the URI comes from {VARIABLE}" if of_variable else message
    if not (found := configured()):
        return message
    return f'{message}; the URI is "{shown_uri(found[0])}", which comes from {found[1]}'
