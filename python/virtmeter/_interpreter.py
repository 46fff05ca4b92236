"""In which interpreter of a process the core may be loaded.

A process has one core. Loaded by a second interpreter (``Py_NewInterpreter``, as mod_wsgi and uWSGI
use it), it raises exceptions of the first one's classes, and Python 3.12 and 3.13 crash where that
one ends.
"""

from __future__ import annotations

from importlib import import_module


def check() -> None:
    """Raise ``ImportError`` except in the main interpreter, and where Python does not tell."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # of 3.13, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "it works in the main interpreter of a process only; with mod_wsgi, set "
                "'WSGIApplicationGroup %{GLOBAL}', and with uWSGI 'single-interpreter = true'"
            )
        return
