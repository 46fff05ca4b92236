"""Text from outside, names of VMs above all, as it may be shown on a terminal."""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import lru_cache
from typing import TextIO

from virtmeter.cli import kinds

MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)
"""A line is lost by these, and not those after it: a file system is full, or a reader is slow."""
WORD = re.compile(r"[^\s\"]+")
PASSWORD = re.compile(r"(//[^:/]*:).*")
"""Of a URI in a word, up to its last @. It may hold anything: too much is left out, if need be."""
SCHEME, COLON = r"[^:]*:?//", "(?::|%3A)"
OWN_PASSWORD = re.compile(
    f"^({SCHEME}[^:/]*?{COLON}|(?!{SCHEME})[^:]*?{COLON}).+@", re.IGNORECASE | re.DOTALL
)
"""Of a text that is a URI."""
PLACE = re.compile(
    r"[a-z]+://(?:[^:/?#@%]|%(?!3a))+@(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?(?=[/?#]|$)",
    re.IGNORECASE,
)
"""Of a URI that is not libvirt's: where that is and as whom, which is all that is shown of it."""


def printable(text: str) -> str:
    r"""Return the text with what could steer a terminal, or break a line, as escapes.

    No URI in it tells its password.

    >>> printable("web\x1b[2J")
    'web\\x1b[2J'
    >>> printable("qemu+tcp://user:secret@host/system")
    'qemu+tcp://user:***@host/system'
    """
    return escaped(WORD.sub(_without_password, text))


def _without_password(word: re.Match[str]) -> str:
    # In one go, however long it is: another host may have sent it.
    uri, at, place = word[0].rpartition("@")
    return PASSWORD.sub(r"\1***", uri) + at + place


def escaped(text: str) -> str:
    """Return the text with what could steer a terminal, or break a line, as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shown_uri(uri: str) -> str:
    r"""Return a text that is one URI, or a wrong one, without its password.

    In one of libvirt's that may hold anything, and so it ends at the last ``@``. Of others nothing
    is shown that might be one.

    >>> shown_uri('qemu+tcp://user:s3 cr"et@host/system')
    'qemu+tcp://user:***@host/system'
    >>> shown_uri("qemu+unix:///system?socket=/a:b@c")
    'qemu+unix:///system?socket=/a:b@c'
    >>> shown_uri("xenserver://monitor@host/?password_file=/etc/pass&sha256=AB")
    'xenserver://monitor@host/'
    >>> shown_uri("xenserver://monitor:secret@host/")
    'xenserver://***'
    >>> shown_uri("vsphere://monitor%40vsphere.local@vcenter/?password_file=/etc/pass&sha256=AB")
    'vsphere://monitor%40vsphere.local@vcenter/'
    """
    if not kinds.is_libvirt(uri):
        place = PLACE.match(uri)
        return printable(f"{place[0]}/" if place else f"{kinds.kind(uri)}://***")
    return printable(OWN_PASSWORD.sub(r"\1***@", uri))


def counted(count: int, thing: str) -> str:
    """Return how many there are.

    >>> counted(1, "target"), counted(2, "target")
    ('1 target', '2 targets')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def say(line: str) -> None:
    """Write a line of ours on standard error, where there is room: nothing depends on it."""
    try:
        sys.stderr.write(f"virtmeter: {printable(line)}\n")
        sys.stderr.flush()
    except OSError as error:
        if error.errno not in MAY_PASS:
            discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Leave nothing to be flushed at exit, which would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@lru_cache(1 << 15)
def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``web-10`` after ``web-9``."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    # Of two numbers the one with more digits is the greater; Python reads no number of 5,000.
    return [_digits(part) if part[0] in "0123456789" else (-1, part) for part in parts]


def _digits(number: str) -> tuple[int, str]:
    digits = number.lstrip("0")
    return len(digits), digits
