"""Threads that read, bounded over all that is read."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)


class Workers:
    """So many threads, each for one reading at a time.

    What has failed before has threads of its own, half as many: however much hangs, it holds up
    nothing that answers.
    """

    def __init__(self, most: int) -> None:
        """Start the first one of each.

        :raises RuntimeError: there can be none.
        """
        # They may be waiting for a hypervisor when the process is to end, which waits for none.
        self._sound = ThreadPoolExecutor(most, "virtmeter-export")
        self._doubtful = ThreadPoolExecutor(max(1, most // 2), "virtmeter-doubtful")
        for each in (self._sound, self._doubtful):
            each.submit(int).result()

    def begin(self, reading: Callable[[], object], *, doubtful: bool = False) -> None:
        """Have something read as soon as there is a thread.

        :param doubtful: whether it has failed the last time.
        """
        # Where there can be no more threads, it waits for one of those that there are.
        with suppress(RuntimeError):
            (self._doubtful if doubtful else self._sound).submit(_logged, reading)


def _logged(reading: Callable[[], object]) -> None:
    try:
        reading()
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and no thread is to end in it
        LOG.warning("a reading failed: %s", error)
