"""Text from outside, names of VMs above all, as it may be shown on a terminal."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    r"""Return the text with what could steer a terminal, or break a line, as escapes.

    >>> printable("web\x1b[2J")
    'web\\x1b[2J'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``web-10`` after ``web-9``."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]
