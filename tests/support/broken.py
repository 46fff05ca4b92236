"""A virtmeter whose compiled core cannot be loaded, as one that was made for another machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import virtmeter


def make(directory: Path) -> None:
    """Copy the package into a directory, for the front of a module search path."""
    package = directory / "virtmeter"
    shutil.copytree(Path(virtmeter.__file__).parent, package, ignore=shutil.ignore_patterns("*.so"))
    (package / "_native.abi3.so").write_text("made for another machine")
