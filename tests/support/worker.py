"""A guest that does a known amount of work when it is told to, and says how long it took.

It is another way to measure what virtmeter measures: by the guest's own account and clock.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.support import guests
from tests.support.qemu import Guest

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.support.qemu import Libvirtd

# It boots in 5 s on a machine that has nothing else to do; now and then it hangs before that.
PATIENCE = 60


class Worker:
    """The guest, for a while."""

    def __init__(self, rig: Libvirtd) -> None:
        """Start nothing yet; the rig has started its guests, whose kernel this one boots."""
        self._serial = rig.directory / "worker.sock"
        xml = guests.worker_definition(rig.directory / "images", self._serial)
        self._guest = Guest(rig, "worker", xml)
        self._said = ""
        self._stack = ExitStack()

    @property
    def uuid(self) -> str:
        """Its instance."""
        return self._guest.uuid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._guest.undefine)
            try:
                self._boot()
            except TimeoutError:
                self._line.close()
                self._guest.destroy()
                self._boot()
            stack.callback(self._guest.destroy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._stack.close()

    def _boot(self) -> None:
        self._guest.start()
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(self._serial))
        self._guest.resume()
        self._wait_for_words("ready")

    def work(self, blocks: int, packets: int) -> float:
        """Have it write so many blocks to vda and send so many packets; the seconds it took."""
        self._line.sendall(b"%d %d\n" % (blocks, packets))
        began, ended = self._wait_for_words(r"worked from ([\d.]+) to ([\d.]+)").groups()
        return float(ended) - float(began)

    def _wait_for_words(self, words: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(rf"{words}\r?\n", self._said)):
            self._line.settimeout(max(0.01, deadline - time.monotonic()))
            self._said += self._line.recv(4096).decode(errors="replace")
        self._said = self._said[found.end() :]
        return found
