"""Files that are named on the command line, to be read or to be written."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

LONGEST = 16 << 20
"""Bytes of a file that people write."""


class Readable(click.Path):
    """A regular file that can be read: a pipe or a device may never come to its end."""

    def __init__(self) -> None:
        """Take no directory, and give a ``Path``."""
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Return the path."""
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        if not path.is_file():
            self.fail(f"File '{path}' is not a regular file.", param, ctx)
        return path


class Writable(click.Path):
    """A file that can be made, or written anew."""

    def __init__(self) -> None:
        """Take no directory, and give a ``Path``."""
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Return the path."""
        if not value:
            self.fail("the file name is empty.", param, ctx)
        if str(value).endswith("/"):  # a Path would not know any more
            self.fail(f"'{value}' is the name of a directory.", param, ctx)
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        return path


def content(path: Path) -> bytes:
    """Return what a file has, which is written by hand and so not long.

    :raises OSError: it cannot be read.
    :raises ValueError: it is too long to be what is looked for.
    """
    with path.open("rb") as file:
        found = file.read(LONGEST + 1)
    if len(found) > LONGEST:
        raise ValueError(f"{path} is longer than {LONGEST >> 20} MiB")
    return found


def is_stdout(path: Path) -> bool:
    """Return whether it is our standard output, as -, /dev/stdout and /proc/self/fd/1 are.

    That may be a file that others have begun, or a pipe whose reader has seen enough.
    """
    if str(path) == "-":
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:  # there is no such file, or it may not be looked at
        return False


def write(path: Path, content: bytes) -> None:
    """Write a file in one step, so that nobody reads half of it; through a link, as ``cp`` would.

    A file that is there gives its mode, and its owner as far as that is possible. Into what is no
    file it is written as it comes.

    :raises OSError: that cannot be; the file is as it was.
    """
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    if there and stat.S_ISFIFO(there.st_mode):
        try:
            _write_into(path, content)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise OSError(error.errno, "nobody reads this pipe") from None
    elif there and not stat.S_ISREG(there.st_mode):
        _write_into(path, content)
    else:
        if there:  # one that may not be written is not replaced, as a program that runs may not
            os.close(os.open(path, os.O_WRONLY))
        _replace(Path(os.path.realpath(path)), there, content)


def _write_into(path: Path, content: bytes) -> None:
    """Write into a pipe or a device, without waiting for a pipe's reader to come."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), "wb") as file:
        os.set_blocking(file.fileno(), True)
        file.write(content)


def _replace(path: Path, there: os.stat_result | None, content: bytes) -> None:
    """Write beside it, and put that in its place."""
    try:
        handle, name = tempfile.mkstemp(prefix=".virtmeter-", dir=path.parent)
    except OSError as error:
        why = f"no file can be made in {path.parent} ({error.strerror})"
        raise OSError(error.errno, why) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if there:
                for owner in ((-1, there.st_gid), (there.st_uid, -1)):
                    with suppress(OSError):  # not permitted, or none in this user namespace
                        os.fchown(handle, *owner)
            os.fchmod(handle, stat.S_IMODE(there.st_mode) if there else 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
