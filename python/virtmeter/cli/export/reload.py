"""Reads files anew when somebody asks for it: all of them, or none if there is a mistake in one."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from queue import SimpleQueue

    from virtmeter.cli.export.access import Access
    from virtmeter.cli.export.fleet import Fleet

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.INFO)  # what is said on request

PAUSE = 1.0
"""Seconds from the beginning of one to that of the next, however many ask for it."""

NOTHING = "nothing to reload: there is no certificate and no file of users"


class Reload:
    """Who gets in and, where there are targets, which."""

    def __init__(self, access: Access, fleet: Fleet | None = None) -> None:
        """Take what was read already."""
        self._access, self._fleet = access, fleet
        self._changed = threading.Condition()
        self._is_reading = False
        self._began = float("-inf")
        """When the last one that has ended had begun."""
        self._said = ""
        self.successful = True
        """Whether the last time went well."""
        self.when = time.time()
        """When it last did, in seconds since the epoch."""

    def now(self) -> str:
        """Read all files, and return what is said to that.

        :raises ValueError: there is a mistake in one; nothing has changed.
        """
        asked = time.monotonic()
        with self._changed:
            # What was begun since will do, whoever asked for it: who waited for a turn of its own
            # could wait for ever while another asks again and again.
            self._changed.wait_for(lambda: self._began >= asked or not self._is_reading)
            is_done = self._began >= asked
            if not is_done:
                self._is_reading = True
        if not is_done:
            self._read_after_a_pause()
        with self._changed:
            if not self.successful:
                raise ValueError(self._said)
            return self._said

    def _read_after_a_pause(self) -> None:
        try:
            time.sleep(max(0.0, self._began + PAUSE - time.monotonic()))
            began = time.monotonic()
            said, successful = self._read()
            with self._changed:
                self._began, self._said, self.successful = began, said, successful
                if successful:
                    self.when = time.time()
            LOG.info("%s", said)
        finally:
            with self._changed:
                self._is_reading = False
                self._changed.notify_all()

    def _read(self) -> tuple[str, bool]:
        """Return what is said to it, and whether it went well."""
        files = [*self._access.files, *([self._fleet.file] if self._fleet else ())]
        try:
            targets = self._fleet.read() if self._fleet else {}
            self._access.read()
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody is to know
            return f"reload failed, nothing changed: {error}", False
        if self._fleet:
            self._fleet.take(targets)
        return f"reloaded {', '.join(map(str, files))}" if files else NOTHING, True

    def when_asked(self, asked: SimpleQueue[None]) -> NoReturn:
        """Do so whenever there is something in the queue."""
        while True:
            asked.get()
            while not asked.empty():  # whoever has asked by now gets the same answer
                asked.get()
            try:
                self.now()
            except Exception:  # noqa: BLE001 - which is logged; the next SIGHUP is heard
                continue
