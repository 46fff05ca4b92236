"""What the tests of hypervisors that are read over HTTPS share."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import virtmeter
from tests.support import cli

if TYPE_CHECKING:
    from collections.abc import Callable


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, "that has not come about"
        time.sleep(0.05)


def at_rest(inspector: virtmeter.Inspector) -> None:
    """Wait until nothing is read any more, also of what nobody waits for."""
    eventually(lambda: not inspector.health().threads)


def failure(ask: Callable[[], object]) -> str:
    """Return all that can be seen of why something fails."""
    try:
        return repr(ask())
    except virtmeter.InspectorException as error:
        return repr(error) + str(error)


def tells(ask: Callable[[], object], why: str) -> str:
    """Return all that can be seen of why something fails, once that is in it."""
    eventually(lambda: why in failure(ask))
    return failure(ask)


def told_of_a_silent_server(scheme: str) -> str:
    """Return all that is said of one that takes connections, and speaks no word of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{scheme}://monitor@127.0.0.1:{silent.getsockname()[1]}/?insecure=1"
        with virtmeter.Inspector(uri, password=lambda: "") as inspector:
            return failure(inspector.usage_all)


def is_told_although_it_is_closed(scheme: str) -> None:
    """Interrupt the calls to such a server, and close, each time before the login gives up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{scheme}://monitor@127.0.0.1:{silent.getsockname()[1]}/?insecure=1"
        with virtmeter.Inspector(uri, password=lambda: "", timeout=1.0) as inspector:
            why = "did not complete the TLS handshake in time"
            eventually(lambda: why in failure(lambda: interrupted_and_closed(inspector, 0.5)))


def each_asks_once(uri: str, password: str, often: int, timeout: float) -> list[str]:
    """Ask as often, each time by an inspector of its own, and return how that has failed."""
    options: dict[str, Any] = {"password": lambda: password, "timeout": timeout}
    return [failure(virtmeter.Inspector(uri, **options).usage_all) for _ in range(often)]


def resident_kib() -> int:
    """Return how much memory this process takes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def size() -> tuple[int, int]:
    """Return how many threads and descriptors this process has."""
    threads, descriptors = (list(Path(f"/proc/self/{what}").iterdir()) for what in ("task", "fd"))
    return len(threads), len(descriptors)


def usages_in_a_child(inspector: virtmeter.Inspector) -> int:
    """Return of how many VMs a forked child is told, which closes the inspector and lets it go."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            told = len(inspector.usage_all())
            inspector.close()
            del inspector
            gc.collect()
            os.write(writing, str(told).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return int(answer)


READS = """
import os, sys, virtmeter

def read():
    password = lambda: os.environ["PASSWORD"]
    inspector = virtmeter.Inspector(sys.argv[1], password=password, max_age=0.0)
    inspector.usage_all()
    return inspector
"""

#: How programs end that do not close what they have opened. What they print is how often their
#: inspector has logged in.
ENDS = {
    "kept": "inspector = read()\nprint(inspector.health().opened)",
    "thread": """
import threading, time
inspector = read()
threading.Thread(target=lambda kept: time.sleep(600), args=(inspector,), daemon=True).start()
print(inspector.health().opened)
""",
    "polls": """
import threading
inspector = read()
def poll():
    while True:
        inspector.usage_all()
for _ in range(4):
    threading.Thread(target=poll, daemon=True).start()
print(inspector.health().opened)
""",
    "dropped": "print(read().health().opened)",
    "child": """
inspector = read()
if os.fork() == 0:
    inspector.usage_all()
    sys.exit()
os.wait()
inspector.usage_all()
print(inspector.health().opened)
""",
}


def ends_without_close(uri: str, password: str, end: str) -> None:
    """Run a program that ends like this; it must say nothing on stderr, and log in only once."""
    done = subprocess.run(
        [sys.executable, "-c", READS + ENDS[end], uri],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PASSWORD": password},
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


IS_STOPPED = """
import logging, os, sys
import virtmeter

logging.basicConfig(level="INFO", stream=sys.stdout)
inspector = virtmeter.Inspector(
    sys.argv[1], password=lambda: os.environ["PASSWORD"], timeout=3
)
print(len(inspector.usage_all()), inspector.health().away, inspector.health().outage)
"""


def told_by_a_stopped_process(
    uri: str,
    password: str,
    asks: Callable[[], object],
    meanwhile: Callable[[], object] = lambda: None,
) -> str:
    """Return what a program says and logs that is stopped for longer than its timeout while it asks
    something, as by Ctrl-Z, or in a container that is paused.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", IS_STOPPED, uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PASSWORD": password},
    ) as process:
        eventually(asks)
        process.send_signal(signal.SIGSTOP)
        meanwhile()
        time.sleep(3.5)
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return output


class Bad:
    """A password function that raises, then returns no text, then the password."""

    SAID = ("raised ValueError", "returned int, not str", "returned text that cannot be encoded")

    def __init__(self, password: str) -> None:
        self.answers: list[Any] = [ValueError("my secret"), 5, "secret\udcff", password]

    def __call__(self) -> Any:
        if isinstance(self.answers[0], Exception):
            raise self.answers[0]
        return self.answers[0]


def run(
    *arguments: str, password: str, secrets: tuple[str, ...], **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with the password in its environment; it must never say it, nor the others."""
    done = cli.run(*arguments, VIRTMETER_PASSWORD=password, **more)
    for secret in (*secrets, password):
        assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def findings(done: subprocess.CompletedProcess[str]) -> tuple[list[dict[str, str]], int]:
    """What the doctor has found, in JSON, and its exit status."""
    assert done.stderr == ""
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return found, done.returncode


class RungError(Exception):
    """What interrupts a caller."""


def interrupted_and_closed(inspector: virtmeter.Inspector, seconds: float) -> int:
    """Return how many VMs there are; if it takes longer, interrupt it, close, and return 0."""

    def ring(*_: object) -> None:
        raise RungError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return len(inspector.usage_all())
    except RungError:
        inspector.close()
        return 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_closed_before_the_password_is_told(
    opens: Callable[..., virtmeter.Inspector], password: str
) -> virtmeter.Inspector:
    """Open an inspector whose only caller has gone, and that was closed, before it could log in.

    It has done so by now if it does that at all.
    """
    told = threading.Event()

    def interrupted(*_: object) -> None:
        raise RungError

    def slow() -> str:
        if not told.is_set():
            signal.raise_signal(signal.SIGUSR1)  # of the main thread, which waits for this
            told.wait(60)
        return password

    inspector = opens(password=slow)
    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        with suppress(RungError):
            inspector.list_instances()
        inspector.close()
    finally:
        told.set()
        signal.signal(signal.SIGUSR1, before)
    eventually(lambda: inspector.health().threads == 0)
    return inspector
