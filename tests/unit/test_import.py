"""Importing virtmeter: what it needs, what it brings along, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_but_the_standard_library_comes_with_it() -> None:
    script = f"""
import sys
sys.path = {sys.path!r}
import virtmeter
print(*sorted({{name.split(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)))
"""
    completed = run(sys.executable, "-I", "-S", "-c", script)
    assert completed.stderr == ""
    assert completed.stdout.split() == ["__main__", "virtmeter"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the library in a namespace")
def test_a_missing_libvirt_is_told_in_a_sentence() -> None:
    # /dev/null over the library: the dynamic linker cannot load it, nor find another.
    hide = (
        "mount --bind /dev/null \"$(realpath \"$(ldconfig -p | sed -n 's/.*libvirt.so.0.*=> //p' "
        '| head -n 1)")" && exec "$0" -c "import virtmeter"'
    )
    completed = run("unshare", "--mount", "sh", "-c", hide, sys.executable)
    assert completed.returncode == 1
    last = completed.stderr.splitlines()[-1]
    assert last.startswith("ImportError: virtmeter needs the system's libvirt client library")
    assert "libvirt0" in last
