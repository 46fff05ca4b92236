"""Importing virtmeter: what it needs, what it brings along, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import broken

if TYPE_CHECKING:
    from pathlib import Path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_but_the_standard_library_comes_with_it() -> None:
    script = f"""
import sys
sys.path = {sys.path!r}
import virtmeter
# That list lacks modules of the interpreter's own tests, of which this one is.
known = {{*sys.stdlib_module_names, "_xxsubinterpreters"}}
print(*sorted({{name.split(".")[0] for name in sys.modules}} - known))
"""
    completed = run(sys.executable, "-I", "-S", "-c", script)
    assert completed.stderr == ""
    assert completed.stdout.split() == ["__main__", "virtmeter"]


FIRST_USE = """
import importlib.metadata, virtmeter
assert virtmeter.__version__ == importlib.metadata.version("virtmeter")
assert virtmeter.InstanceStats() and not hasattr(virtmeter, "Inspectors")
for use in ("virtmeter.Inspector", "from virtmeter import LibvirtInspector"):
    try:
        exec(use)
    except ImportError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the library in a namespace")
def test_a_missing_libvirt_is_told_in_a_sentence_at_the_first_use() -> None:
    # /dev/null over the library: the dynamic linker cannot load it, nor find another.
    hide = (
        "mount --bind /dev/null \"$(realpath \"$(ldconfig -p | sed -n 's/.*libvirt.so.0.*=> //p' "
        '| head -n 1)")" && exec "$@"'
    )
    completed = run("unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, "-c", FIRST_USE)
    assert completed.stderr == ""
    first, second = completed.stdout.splitlines()
    assert first == second
    assert first.startswith("virtmeter needs the system's libvirt client library (")
    assert "install or update the package libvirt0" in first, "it may be too old"


def test_a_core_that_cannot_be_loaded_is_told_at_the_first_use(tmp_path: Path) -> None:
    broken.make(tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{FIRST_USE}"
    completed = run(sys.executable, "-c", script)
    assert completed.stderr == ""
    first, second = completed.stdout.splitlines()
    assert first == second
    assert first.startswith("virtmeter's compiled core cannot be loaded")
    assert str(tmp_path) in first, "and not another copy of it"


IN_A_SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
    another = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    another = interpreters.create(isolated=False)
first_use = f"import sys; sys.path[:] = {sys.path!r}" + chr(10) + %r
if sys.argv[1] == "main first":
    import virtmeter
    virtmeter.Inspector
interpreters.run_string(another, first_use)
interpreters.destroy(another)
import virtmeter
try:
    virtmeter.LibvirtInspector("test:///default").inspect_instance("99999999-0000-0000-0000-000000000000")
except virtmeter.InstanceNotFoundException:
    print("main: found nobody")
"""


@pytest.mark.parametrize("order", ["main first", "main last"])
def test_another_interpreter_of_the_process_is_refused(order: str) -> None:
    script = IN_A_SUBINTERPRETER % FIRST_USE
    completed = run(sys.executable, "-c", script, order)
    assert completed.stderr == ""
    assert completed.returncode == 0
    first, second, main = completed.stdout.splitlines()
    assert first == second
    assert "cannot be loaded (it works in the main interpreter of a process only" in first
    assert main == "main: found nobody"
