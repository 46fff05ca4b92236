"""Which kind of hypervisor a URI is of, and what messages call it."""

from __future__ import annotations

XENSERVER, VSPHERE = "xenserver", "vsphere"
NAMES = {XENSERVER: "XenServer", VSPHERE: "vSphere"}
"""Of the kinds that are not libvirt, by the schemes of their URIs."""
LIBVIRT = "libvirt"
NEW_EVERY = {XENSERVER: 5, VSPHERE: 20}
"""How often these have new values, in seconds."""
NEW_AFTER = {XENSERVER: 6.0, VSPHERE: 25.0}
"""Seconds after which a reading of these has something new for sure."""


def kind(uri: str) -> str:
    """Return what reads a URI: ``xenserver``, ``vsphere``, or else ``libvirt``."""
    scheme = uri.partition(":")[0].lower()
    return scheme if scheme in NAMES else LIBVIRT


def is_libvirt(uri: str) -> bool:
    """Return whether libvirt reads it."""
    return kind(uri) == LIBVIRT


def name(uri: str) -> str:
    """Return what messages call that."""
    return NAMES.get(kind(uri), LIBVIRT)


def new_after(uri: str) -> float:
    """Return the seconds after which a reading has something new for sure."""
    return NEW_AFTER.get(kind(uri), 0.0)
