"""Asks the stock inspector in a process of its own, which is ended when it does not answer."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from virtmeter.cli.check.answers import Answer

if TYPE_CHECKING:
    from typing_extensions import Self

    from virtmeter import Instance

COMMAND = (sys.executable, "-m", "virtmeter.cli.check.stock")
TO_START = 60.0
"""Seconds that importing Ceilometer may take."""
TO_CONNECT = 10.0
"""Seconds that its inspector may take to connect, which it tries more than once."""


class Silent(Exception):  # noqa: N818 - an event
    """No answer came in time."""


class Stock:
    """The stock inspector. It is started when it is asked, and again after it was ended."""

    def __init__(self, uri: str, timeout: float) -> None:
        """Start nothing yet."""
        self._uri = uri
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Find out whether it can be asked at all.

        :raises click.ClickException: it cannot.
        """
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._end()

    def ask(self, method: str, instance: Instance) -> Answer:
        """Ask one question."""
        try:
            if self._process is None:
                self._start()
            self._say([method, instance.id])
            said = self._hear(self._timeout)
        except Silent:
            self._end()
            return Answer(silent=True)
        return Answer(tuple(said.get("records", ())), said.get("raised"), said["seconds"])

    def _start(self) -> None:
        # A Ctrl-C is for us alone, who end it then. Its log is nobody's. It does not run where we
        # are: Python would take modules from there.
        try:
            self._process = subprocess.Popen(
                COMMAND,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        except OSError as error:  # such as too many processes
            raise click.ClickException(f"the stock inspector does not start: {error}") from None
        try:
            if missing := self._hear(TO_START).get("failed"):
                raise click.ClickException(
                    f"the stock inspector cannot be loaded ({missing}): check needs Ceilometer and "
                    "libvirt-python next to virtmeter, as in the compute agent's environment"
                )
            self._say(self._uri)
            if failed := self._hear(TO_CONNECT).get("failed"):
                raise click.ClickException(f"the stock inspector cannot connect: {failed}")
        except Silent:
            raise click.ClickException("the stock inspector does not start") from None

    def _say(self, what: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Silent from None

    def _hear(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        # One line answers one question, so that nothing is left in the buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if not line.endswith("\n"):  # it has ended, in the middle of an answer maybe
            raise Silent
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
