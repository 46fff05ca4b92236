"""A function of the user's that returns a password, called in a thread of Python's.

While the interpreter ends, it ends every thread that is in Python code. Only its own threads can be
ended: with one of the core's, the process would abort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def call(function: Callable[[], str], tell: Callable[[object], None]) -> None:
    """Tells what the function returns, or raises."""
    try:
        answer: object = function()
    except BaseException as error:  # noqa: BLE001 - nobody else hears of it
        answer = error
    tell(answer)
