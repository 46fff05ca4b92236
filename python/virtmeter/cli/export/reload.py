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

NOTHING = "nothing to reload: there is no certificate and no file of users"


class Reload:
    """Who gets in and, where there are targets, which."""

    def __init__(self, access: Access, fleet: Fleet | None = None) -> None:
        """Take what was read already."""
        self._access, self._fleet = access, fleet
        self._lock = threading.Lock()
        self.successful = True
        """Whether the last time went well."""
        self.when = time.time()
        """When it last did, in seconds since the epoch."""

    def now(self) -> str:
        """Read all files, and return what to say to that.

        :raises ValueError: there is a mistake in one; nothing has changed.
        """
        files = [*self._access.files, *([self._fleet.file] if self._fleet else ())]
        with self._lock:
            try:
                targets = self._fleet.read() if self._fleet else {}
                self._access.read()
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody is to know
                self.successful = False
                message = f"reload failed, nothing changed: {error}"
                LOG.info("%s", message)
                raise ValueError(message) from None
            if self._fleet:
                self._fleet.take(targets)
            self.successful, self.when = True, time.time()
            message = f"reloaded {', '.join(map(str, files))}" if files else NOTHING
            LOG.info("%s", message)
            return message

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
