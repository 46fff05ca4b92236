"""Who tests can become: a rootless container may have no other user than root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOBODY = 65534


def _is_mapped(kind: str) -> bool:
    """Return whether this user namespace has the user, or the group, nobody."""
    path = Path(f"/proc/self/{kind}_map")
    if not path.exists():  # a kernel without user namespaces
        return True
    lines = path.read_text().splitlines()
    ranges = (tuple(map(int, line.split())) for line in lines)
    return any(first <= NOBODY < first + length for first, _, length in ranges)


_IS_ROOT = os.geteuid() == 0
_IS_ALONE = not (_is_mapped("uid") and _is_mapped("gid"))

as_nobody = pytest.mark.skipif(
    not _IS_ROOT or _IS_ALONE,
    reason="only root can become somebody else, where its user namespace has user and group 65534",
)
within_limits = pytest.mark.skipif(
    _IS_ROOT and _IS_ALONE,
    reason="root has no limit on threads, and its user namespace has no user and group 65534",
)
