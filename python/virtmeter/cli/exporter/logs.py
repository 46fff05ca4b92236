"""Keeps the log short: what is wrong with a device would be in it at every scrape."""

from __future__ import annotations

import logging
import time

SILENCE = 3600.0
"""Seconds for which a line about a device is not said again."""


class Seldom(logging.Filter):
    """Lets each line about a device that is left out through once an hour."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be logged."""
        line = record.getMessage()
        if "is left out of this reading" not in line:
            return True
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < SILENCE}
        return self._said.setdefault(line, now) == now
