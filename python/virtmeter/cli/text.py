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
    # Of two numbers the one with more digits is the greater; Python reads no number of 5,000.
    return [_digits(part) if part[0] in "0123456789" else (-1, part) for part in parts]


def _digits(number: str) -> tuple[int, str]:
    digits = number.lstrip("0")
    return len(digits), digits
