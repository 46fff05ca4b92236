"""While modules are being imported: Ctrl-C, and what is not installed."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130
UNREACHABLE = 3
"""The exit status where no hypervisor can be reached."""


@contextmanager
def interruptible() -> Iterator[None]:
    """End the process at once on Ctrl-C, in this block, unless that is ignored.

    An exception in the middle of an import is a traceback, or lost where Python cannot raise it.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


EXTRA = {"bcrypt", "click", "prometheus_client", "rich", "tomli"}
"""What ``virtmeter[cli]`` brings."""


def lacking(error: ModuleNotFoundError) -> str:
    """Return what to install; of a module that this would not bring, what Python says."""
    module = error.name or ""
    if module.split(".")[0] not in EXTRA:
        return str(error)
    return f"the command line needs {module}: pip install 'virtmeter[cli]'"


def _end(*_: object) -> NoReturn:
    os._exit(INTERRUPTED)
