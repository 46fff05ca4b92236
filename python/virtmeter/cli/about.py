"""Which target a line in the log is about, where one command reads many."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

_TARGET: ContextVar[str] = ContextVar("_TARGET", default="")


@contextmanager
def target(name: str) -> Iterator[None]:
    """Have what is logged while a block runs be about this target; one of ``--uri`` has no name."""
    token = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(token)


def line(record: logging.LogRecord) -> str:
    """Return what this thread logs, after the name of the target that it is about."""
    name = _TARGET.get()
    return f"{name}: {record.getMessage()}" if name else record.getMessage()
