"""The keyboard: single keys, by their names, without waiting for a line or for anybody."""

from __future__ import annotations

import codecs
import os
import re
import select
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {
    "\x1b[A": "up", "\x1bOA": "up",
    "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home",
    "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end",
    "\x1b": "escape",
    "\r": "enter", "\n": "enter",
    "\x7f": "backspace", "\x08": "backspace",
}  # fmt: skip
# A sequence of a key that has no name here is one key all the same, and not many letters.
KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)
BEGUN = re.compile(rb"\x1b(\[[0-?]*[ -/]*|O)?\Z")
PATIENCE = 0.05
"""Seconds in which the rest of a key's sequence comes, if it is not the Escape key."""
LONGEST = 4096
"""Bytes that are read at a time, whatever has begun with them."""


class Keyboard:
    """A terminal that hands over each key at once, and shows none of them."""

    def __init__(self, descriptor: int) -> None:
        """Change nothing yet."""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._before: list[int | list[bytes | int]] | None = None

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._descriptor

    def seize(self) -> None:
        """Have keys come one by one; Ctrl-C and Ctrl-Z remain signals.

        :raises OSError: the terminal is gone.
        """
        with _terminal():
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor, termios.TCSANOW)

    def release(self) -> None:
        """Leave the terminal as it was.

        :raises OSError: it is gone.
        """
        before, self._before = self._before, None
        if before:
            with _terminal():
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)

    def read(self) -> list[str] | None:
        """Return the keys that were pressed; None when there is no keyboard any more."""
        data = self._more()
        while (
            len(data) < LONGEST
            and BEGUN.search(data)
            and select.select([self._descriptor], [], [], PATIENCE)[0]
            and (more := self._more())
        ):
            data += more
        return names(self._decoder.decode(data)) if data else None

    def _more(self) -> bytes:
        """Return what was typed since; nothing where the terminal is gone."""
        try:
            return os.read(self._descriptor, 1024)
        except OSError:
            return b""


@contextmanager
def _terminal() -> Iterator[None]:
    """``termios.error`` is no ``OSError``, though it has its arguments."""
    try:
        yield
    except termios.error as error:
        raise OSError(*error.args) from None


def names(typed: str) -> list[str]:
    """Return a name for each key; of one that has none, what it sends."""
    return [NAMES.get(key, key) for key in KEY.findall(typed)]
