"""The live screen: waits for keys, readings and signals, and draws."""

from __future__ import annotations

import errno
import logging
import os
import queue
import selectors
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import ConsoleDimensions
from rich.control import Control
from rich.screen import Screen

from virtmeter.cli import about, ending
from virtmeter.cli.text import discard
from virtmeter.cli.watch import view
from virtmeter.cli.watch.actions import Commands
from virtmeter.cli.watch.keys import Keyboard
from virtmeter.cli.watch.readings import Snapshot, followed
from virtmeter.cli.watch.signals import ENDS, NEWS, Bell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from virtmeter.cli.fleet import Source
    from virtmeter.cli.watch.model import Model

WIDEST, HIGHEST = 1000, 1000
"""Columns and lines. A terminal may say of itself what it likes, and they take memory."""

PAUSE, REST = 0.2, 3
"""Seconds at least between two drawings for readings, of which many may come at about one time; and
how many times as long as a drawing has taken, which is long with many thousands of VMs."""

TICK = 1.0
"""Seconds after which the screen is drawn anew, though nothing came: it tells how old it is."""


def show(console: Console, sources: Sequence[Source], model: Model, *, count: int | None) -> int:
    """Show the model until the user has seen enough; return the exit status."""
    try:
        return _show(console, sources, model, count=count)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        discard(sys.stdout)
        return 128 + signal.SIGHUP  # the terminal is gone, its signal is on its way


def _show(console: Console, sources: Sequence[Source], model: Model, *, count: int | None) -> int:
    came: queue.SimpleQueue[Snapshot] = queue.SimpleQueue()
    keyboard = Keyboard(sys.stdin.fileno()) if sys.stdin.isatty() else None
    commands = Commands(model)
    log = _LastLine()
    with ExitStack() as stack:
        bell = stack.enter_context(Bell())

        def hand_over(snapshot: Snapshot) -> None:
            came.put(snapshot)
            bell.ring()

        stack.enter_context(log.instead_of_stderr())
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(bell, selectors.EVENT_READ)
        if keyboard:
            selector.register(keyboard, selectors.EVENT_READ)
        face = _Face(console, keyboard)
        stack.callback(face.leave)
        face.enter()
        stack.enter_context(followed(sources, model, hand_over))
        due = earliest = 0.0
        while True:
            begun, is_complete = time.monotonic(), model.is_complete(count)
            if begun >= due or is_complete:
                face.draw(model, commands, log.line)
                due = (drawn := time.monotonic()) + TICK
                earliest = drawn + max(PAUSE, REST * (drawn - begun))
            if is_complete:
                return model.status
            for key, _ in selector.select(max(0.0, due - time.monotonic())):
                if key.fileobj is keyboard:
                    due = 0.0
                    pressed = keyboard.read()
                    if pressed is None:
                        selector.unregister(keyboard)
                    elif not all(commands.do(name, face.room()) for name in pressed):
                        return model.status
                    continue
                heard = bell.heard()
                due = min(due, earliest) if heard == {NEWS} else 0.0
                if signal.SIGINT in heard:
                    raise KeyboardInterrupt
                for number in ENDS:
                    if number in heard:
                        return 128 + number
                if signal.SIGTSTP in heard:
                    face.leave()
                    bell.stop_process()
                    face.enter()
                while NEWS in heard and not came.empty():
                    snapshot = came.get()
                    model.update(snapshot)
                    if snapshot.target == sources[0].target.name:  # each has its turn
                        log.next()


class _Face:
    """The terminal while it shows the screen, and not what was on it before."""

    def __init__(self, console: Console, keyboard: Keyboard | None) -> None:
        self._console = console
        self._keyboard = keyboard

    def enter(self) -> None:
        if self._keyboard:
            self._keyboard.seize()
            ending.at_last.append(self._keyboard.release)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def leave(self) -> None:
        """Leave all as it was before, even if the terminal is gone."""
        try:
            if self._console.is_alt_screen:
                self._console.set_alt_screen(False)
                self._console.show_cursor(True)
        except OSError:
            discard(sys.stdout)
        with suppress(OSError):
            if self._keyboard:
                self._keyboard.release()

    def room(self) -> int:
        return view.room(self._console.height)

    def draw(self, model: Model, commands: Commands, note: str) -> None:
        # What rich takes for the size may be a variable that no resize changes.
        width, height = os.get_terminal_size(self._console.file.fileno())
        size = ConsoleDimensions(min(width or 80, WIDEST), min(height or 24, HIGHEST))
        self._console.size = size
        with self._console:  # in one piece, so that nothing flickers
            self._console.control(Control.home())
            shown = view.screen(
                model,
                commands,
                *self._console.size,
                now=time.monotonic(),
                note=note,
            )
            self._console.print(Screen(shown), end="")


class _LastLine(logging.Handler):
    """The last line that was logged since the last reading but one; the screen shows it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines = ["", ""]

    @property
    def line(self) -> str:
        return self._lines[1] or self._lines[0]

    def next(self) -> None:
        self._lines = [self._lines[1], ""]

    def emit(self, record: logging.LogRecord) -> None:
        self._lines[1] = about.line(record)

    @contextmanager
    def instead_of_stderr(self) -> Iterator[None]:
        root = logging.getLogger()
        before, root.handlers = root.handlers, [self]
        try:
            yield
        finally:
            root.handlers = before
