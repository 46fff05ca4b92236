"""Signals, and news from other threads, as something that ``select`` waits for."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from virtmeter.cli import ending

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

NEWS = 0
"""What a call of ``ring`` reads as."""
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BOUNDED = (signal.SIGINT, *ENDS)
HEARD = (*BOUNDED, signal.SIGTSTP, signal.SIGWINCH)


class Bell:
    """Keeps signals from interrupting anything: who waits for the bell is told of them."""

    def __enter__(self) -> Self:
        """Hear signals from now on."""
        self._inside, self._outside = socket.socketpair()
        for end in (self._inside, self._outside):
            end.setblocking(False)
        self._before = {
            number: signal.signal(number, _end if number in BOUNDED else _ignore)
            for number in HEARD
        }
        self._wakeup_before = signal.set_wakeup_fd(
            self._outside.fileno(), warn_on_full_buffer=False
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let signals do what they did before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._outside.close()
        self._inside.close()

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._inside.fileno()

    def ring(self) -> None:
        """Wake up who waits, from any thread and also when nobody waits any more."""
        with suppress(OSError):
            self._outside.send(bytes([NEWS]))

    def heard(self) -> set[int]:
        """Return the numbers of the signals that came, and ``NEWS`` if it was rung."""
        return set(self._inside.recv(4096))

    def stop_process(self) -> None:
        """Stop, as Ctrl-Z does, until the shell continues this process."""
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _ignore)


def _end(number: int, _: object) -> None:
    """Let it be heard, but only for so long: a terminal may take nothing any more."""
    ending.bound(128 + number)


def _ignore(*_: object) -> None:
    """Do nothing: that it came is in the socket."""
