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
        self._lock = threading.Lock()
        self._began = float("-inf")
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
        with self._lock:
            if self._began < asked:  # else it was done meanwhile, for somebody else
                time.sleep(max(0.0, self._began + PAUSE - asked))
                self._began = time.monotonic()
                self._said = self._read()
                LOG.info("%s", self._said)
            if not self.successful:
                raise ValueError(self._said)
            return self._said

    def _read(self) -> str:
        files = [*self._access.files, *([self._fleet.file] if self._fleet else ())]
        try:
            targets = self._fleet.read() if self._fleet else {}
            self._access.read()
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody is to know
            self.successful = False
            return f"reload failed, nothing changed: {error}"
        if self._fleet:
            self._fleet.take(targets)
        self.successful, self.when = True, time.time()
        return f"reloaded {', '.join(map(str, files))}" if files else NOTHING

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
