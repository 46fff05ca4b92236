"""Rigs that the tests share, and the list of what did not run."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.support import qemu
from tests.support.libvirtd import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whatever is set around us: a socket's path has room for 107 bytes, and URIs and shells have their
# own ideas of what is in a path; what listens on this host is asked directly; programs speak
# English in UTF-8, for which LC_ALL is not enough; scripts find the tests and warn of
# nothing, and commands know their options.
os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
os.environ["no_proxy"] = "*"
os.environ["LC_ALL"] = "C.UTF-8"
for name in (
    *("LANGUAGE", "LIBVIRT_AUTH_FILE", "LIBVIRT_DEFAULT_URI", "NO_COLOR", "FORCE_COLOR"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"),
    *("PYTHONDEVMODE", "PYTHONIOENCODING", "PYTHONSAFEPATH", "PYTHONWARNDEFAULTENCODING"),
    *("PYTHONWARNINGS", "POSIXLY_CORRECT"),
):
    os.environ.pop(name, None)
# How long an example takes says how busy the machine is.
settings.register_profile("virtmeter", deadline=None)
settings.load_profile("virtmeter")
os.umask(0o022)  # other users read files and sockets of ours
# In the background of a shell, Ctrl-C is ignored, and would be by all that the tests start. With
# nohup, so is the end of the terminal, which we go on to ignore.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A scripted libvirt daemon without domains."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def rig() -> Iterator[qemu.Libvirtd]:
    """A real libvirtd with all its guests, started once."""
    if reason := qemu.unavailable():
        pytest.skip(reason)
    with qemu.Libvirtd() as libvirtd:
        libvirtd.start_guests()
        yield libvirtd


class OneRig(LoadFileScheduling):  # type: ignore[misc]
    """Gives each worker a file at a time, and one of them all that needs the real libvirtd."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        text = (self.config.rootpath / file).read_text()
        users = re.findall(r"def (\w+)\([^)]*\brig: Libvirtd", text)
        # Where a fixture needs it, so may all tests of the file.
        fixtures = [name for name in users if not name.startswith("test_")]
        return "rig" if fixtures or test.partition("[")[0] in users else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRig:
    """With `pytest -n`, each file is for one worker: fixtures of modules are made once."""
    return OneRig(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a test that did not run is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what this machine cannot run, with the reasons."""
    if skipped := terminalreporter.stats.get("skipped"):
        terminalreporter.section("not run on this machine")
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[2]}")
        if os.environ.get("CI"):
            terminalreporter.line("CI must run them all: this is a failure.")
