"""The library while the interpreter ends: it answers, or raises what it always raises."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.procedures import VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Daemon

# Nothing is used before the end: what is only found then is not found any more.
SCRIPT = """
import atexit, builtins, sys, threading, time, uuid, weakref
import virtmeter

inspector = virtmeter.LibvirtInspector(sys.argv[1])
ID = uuid.UUID(sys.argv[2])

def use(
    inspector=inspector, new=virtmeter.LibvirtInspector, ID=ID, repr=repr, list=list, str=str,
    write=sys.stdout.write, flush=sys.stdout.flush, Exception=Exception, type=type,
):
    for ask in (
        lambda: inspector.list_instances(),
        lambda: inspector.inspect_instance(ID),
        lambda: list(inspector.inspect_vnics(ID)),
        lambda: list(inspector.inspect_disks(ID)),
        lambda: inspector.usage_all(),
        lambda: inspector.health(),
        lambda: new(inspector.uri).list_instances(),
        lambda: inspector.close(),
    ):
        try:
            write(type(ask()).__name__)
        except Exception as error:
            write(type(error).__name__)
        write("\\n")
    flush()

class Last:
    def __del__(self, use=use):
        use()

"""
ENDS = {
    "__del__ of a global": "last = Last()",
    "__del__ in a cycle": "last = Last(); last.last = last",
    "__del__ after all modules": "builtins.last = Last()",
    "atexit": "atexit.register(use)",
    "finalize": "class Other: pass\nother = Other(); weakref.finalize(other, use)",
    "a thread": "threading.Thread(target=lambda: (time.sleep(0.2), use())).start()",
}
ANSWERS = ["list", "InstanceStats", "list", "list", "list", "Health", "list", "NoneType"]


def run(script: str, daemon: Daemon) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT + script, daemon.uri, sample.UUID]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("end", ENDS)
def test_it_answers(daemon: Daemon, end: str) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    assert run(ENDS[end], daemon) == ANSWERS


@pytest.mark.parametrize("end", ENDS)
def test_it_raises_what_it_always_raises(daemon: Daemon, end: str) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    refused = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU)
    for procedure in ("CONNECT_GET_ALL_DOMAIN_STATS", "DOMAIN_GET_XML_DESC"):
        daemon.on(procedure, refused, repeat=True)
    told = run(ENDS[end], daemon)
    assert told[1:4] == ["NoDataException"] * 3
    daemon.stop()
    assert run(ENDS[end], daemon)[:2] == ["ConnectionLost"] * 2


def test_threads_that_are_in_a_call_are_left_there(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    daemon.latency["DOMAIN_BLOCK_STATS"] = 0.3
    script = """
def ask():
    while True:
        list(inspector.inspect_disks(ID))

for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)  # they come back meanwhile

builtins.slow = Slow()
while not inspector.health().calls.get("block_stats"):
    time.sleep(0.01)
"""
    assert run(script, daemon) == []
    assert daemon.calls["DOMAIN_BLOCK_STATS"] > 0


def test_a_line_that_is_being_logged_is_waited_for(daemon: Daemon) -> None:
    daemon.stop()
    script = """
import contextlib, logging

class Slow(logging.Handler):
    def handle(self, record):  # without its lock, for which logging itself waits at the end
        begun.set()
        for _ in range(200):
            time.sleep(0.001)
        print("logged", flush=True)

def ask():
    with contextlib.suppress(virtmeter.ConnectionLost):
        inspector.list_instances()

begun = threading.Event()
logging.getLogger("virtmeter").addHandler(Slow())
threading.Thread(target=ask, daemon=True).start()
begun.wait(60)
"""
    assert "logged" in run(script, daemon)


def test_no_python_code_runs_while_records_are_made(daemon: Daemon) -> None:
    """Python would end a thread that is in it, within a call of ours."""
    daemon.add(sample.domain(uuid=sample.UUID))
    ran = []
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        for ask in (
            inspector.list_instances,
            inspector.usage_all,
            inspector.health,
            partial(inspector.inspect_details, sample.UUID),
            partial(inspector.inspect_vnics, sample.UUID),
            partial(inspector.inspect_disks, sample.UUID),
        ):
            assert ask()  # what is logged the first time
            sys.setprofile(lambda frame, event, _: ran.append((event, frame.f_code.co_name)))
            try:
                ask()
            finally:
                sys.setprofile(None)
    assert [name for event, name in ran if event == "call"] == []


PASSWORD = """
import sys, threading, time
import virtmeter

asked = threading.Event()

def password():
    asked.set()
    while True:  # waits for somebody who does not come
        time.sleep(0.001)

URI = "xenserver://u@127.0.0.1:1/?insecure=1"
inspector = virtmeter.Inspector(URI, password=password, timeout=0.2)
try:
    inspector.list_instances()
except virtmeter.ConnectionLost as error:
    print(asked.is_set(), error)
"""


def test_a_password_function_that_does_not_return() -> None:
    command = [sys.executable, "-W", "error", "-c", PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("True no connection to xenserver://u@127.0.0.1:1/: ")
    assert "the function that returns the password has not returned within 200ms" in done.stdout


@pytest.mark.parametrize("first", ["libvirt", "virtmeter"])
def test_a_handler_of_libvirt_python_ends_before_python(first: str, tmp_path: Path) -> None:
    """It is called in our threads, which go on to look for a libvirt that is away."""
    script = f"""
import {first}
import builtins, sys, time
import libvirt, virtmeter
libvirt.registerErrorHandler(lambda *_: time.sleep(0.02), None)

class Last:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

builtins.last = Last()
uri = "qemu+unix:///system?socket=" + sys.argv[1]
inspectors = [virtmeter.LibvirtInspector(uri) for _ in range(8)]
end = time.monotonic() + 0.7
while time.monotonic() < end:
    for inspector in inspectors:
        try:
            inspector.list_instances()
        except virtmeter.ConnectionLost:
            pass
"""
    command = [sys.executable, "-c", script, str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
