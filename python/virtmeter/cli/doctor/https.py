"""What goes for whatever is reached by HTTPS: who can read its password, and who it is."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from virtmeter.cli.certificates import certificate_shown, expiry, fingerprint, is_set, options
from virtmeter.cli.doctor.finding import OK, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtmeter import Health

SOON = 30
"""Days: a certificate that expires within them has to be renewed."""


def password(uri: str) -> Iterator[Finding]:
    """Say where the password comes from, and who else can read it there."""
    name = options(uri).get("password_file")
    if name is None:
        if os.environ.get("VIRTMETER_PASSWORD"):
            yield Finding(OK, "the password comes from the environment's VIRTMETER_PASSWORD")
        return
    try:
        mode = stat.S_IMODE(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return  # the login says what is wrong with it
    if mode & 0o004:
        what = f"everybody can read the password file {name} (mode {mode:03o})"
        yield Finding(WARNING, what, f"'chmod o= {name}' keeps others out")
    else:
        yield Finding(OK, f"the password comes from {name}")


def insecure(uri: str, timeout: float, same_pin: str) -> Iterator[Finding]:
    """Say what goes with ``insecure=1``, if that is set, and what to write in its place.

    :param same_pin: how whoever reads it finds out that the fingerprint is the right one.
    """
    if not is_set(uri, "insecure"):
        return
    shown = certificate_shown(uri, timeout)
    yield Finding(
        WARNING,
        "insecure=1: anybody between here and the server can read the password, and answer in its "
        "place",
        f"put sha256={fingerprint(shown)} in its place, {same_pin}"
        if shown
        else "put sha256= in its place",
    )


def certificate(uri: str, timeout: float) -> Iterator[Finding]:
    """Say by what the server was found to be the right one, and for how long that is so."""
    if is_set(uri, "insecure"):
        return
    shown = certificate_shown(uri, timeout)
    if is_set(uri, "sha256"):
        yield Finding(OK, "its certificate is the one that is pinned by sha256=")
    else:
        what = "its certificate is signed by a CA that is trusted here"
        yield Finding(OK, f"{what}; its SHA-256 is {fingerprint(shown)}" if shown else what)
    if shown and (end := expiry(shown)):
        yield expires(end, datetime.now(timezone.utc), pinned=is_set(uri, "sha256"))


def expires(end: datetime, now: datetime, *, pinned: bool) -> Finding:
    """Say when a certificate expires; a pinned one serves on after that."""
    days = (end - now).days
    what = f"its certificate expires on {end:%Y-%m-%d}"
    if pinned:
        return Finding(OK, f"{what}, which does not matter here; with a new one, sha256= changes")
    if days < SOON:
        return Finding(WARNING, f"{what}, in {days} day(s)", "renew it: it is refused after that")
    return Finding(OK, what)


def requests(health: Health) -> Finding:
    """Say how much was asked."""
    calls = (f"{count} {call}" for call, count in health.calls.items() if count)
    return Finding(OK, f"requests for all of this: {', '.join(calls)}")
