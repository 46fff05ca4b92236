"""`virtmeter watch` over a libvirt host, a XenServer pool and a vCenter, all simulated.

`make watch-demo`, or `python -m tests.support.demo` with options of `virtmeter watch`. All that it
has started ends with it.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import sample, vcsim, xapi, xdr
from tests.support.libvirtd import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("web-1", "web-2", "web-3", "db-1", "mail-1", "batch-7")
STEP = 0.2
"""Seconds between two changes of the counters."""
PERIOD = 60.0
"""Seconds in which what a VM does rises and falls."""
AWAKE = 0.1
"""Seconds after which it looks for signals at the latest."""


class Guest:
    """A VM of the host, and what it does."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.vcpus = 1 + number % 2
        self.memory = 1 << (20 + number % 3)  # KiB
        self.domain = domain = sample.domain(number, bulk=True)
        domain.name, domain.vcpus = name, self.vcpus
        domain.max_memory_kib = domain.memory_kib = self.memory
        for old, new in (
            (">1048576<", f">{self.memory}<"),
            (">524288<", f">{self.memory}<"),
            ("<vcpu current='1'>2<", f"<vcpu>{self.vcpus}<"),
        ):
            domain.xml = domain.xml.replace(old, new)
        vcpus = xdr.UInt(self.vcpus)
        domain.stats = {"vcpu.current": vcpus, "vcpu.maximum": vcpus}
        self.totals = dict.fromkeys(("run", "delay", "rx", "tx", "read", "write", "requests"), 0.0)

    def load(self, now: float) -> float:
        """What it does, as a share of what it could do."""
        return 0.45 + 0.4 * math.sin(2 * math.pi * (now / PERIOD + self.number / len(NAMES)))

    def go_on(self, now: float, seconds: float) -> None:
        """Count what it has done within the last seconds."""
        load = self.load(now)
        for name, rate in (
            ("run", load * 1e9),
            ("delay", load * load * 0.05e9),
            ("rx", load * self.number * 400e3),
            ("tx", load * self.number * 150e3),
            ("read", load * self.number * 900e3),
            ("write", load * self.number * 300e3),
            ("requests", load * self.number * 40),
        ):
            self.totals[name] += rate * seconds
        total = {name: int(value) for name, value in self.totals.items()}
        domain = self.domain
        for vcpu in range(self.vcpus):
            domain.stats[f"vcpu.{vcpu}.time"] = total["run"]
            domain.stats[f"vcpu.{vcpu}.wait"] = total["delay"]
            domain.stats[f"vcpu.{vcpu}.delay"] = total["delay"]
        rx, tx, count = total["rx"], total["tx"], total["requests"]
        domain.interfaces[f"tap{self.number}"] = (rx, rx // 1000, 0, 0, tx, tx // 1000, 0, 0)
        domain.disks["vda"].stats = (count, total["read"], count // 2, total["write"], -1)
        usable = int(self.memory * (0.8 - load / 2))
        # Given, seen by its kernel, usable, resident on the host; and when it told that.
        domain.memory.update({6: self.memory, 5: self.memory, 8: usable, 7: self.memory})
        domain.memory[9] = int(time.time())


@contextmanager
def libvirt_host() -> Iterator[Daemon]:
    """A scripted libvirt daemon, whose VMs do something."""
    ended = threading.Event()
    guests = [Guest(number, name) for number, name in enumerate(NAMES, 1)]
    for guest in guests:  # they have been up for a while
        guest.go_on(0.0, 3600.0)

    def live() -> None:
        last = time.monotonic()
        while not ended.wait(STEP):
            now = time.monotonic()
            for guest in guests:
                guest.go_on(now, now - last)
            last = now

    with Daemon() as daemon:
        daemon.add(*(guest.domain for guest in guests))
        living = threading.Thread(target=live)
        living.start()
        try:
            yield daemon
        finally:
            ended.set()
            living.join()


def say(line: str) -> None:
    sys.stderr.write(f"virtmeter: {line}\n")


@contextmanager
def targets() -> Iterator[Path]:
    """A file of targets: one of each kind, as far as they can be had here."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def with_password(uri: str, name: str, password: str) -> str:
            file = directory / name
            file.touch(mode=0o600)
            file.write_text(password)
            return f"{uri}&password_file={file}"

        pool = stack.enter_context(xapi.synthetic(hosts=2, vms=3, delay=0.0))
        uris = {
            "kvm": stack.enter_context(libvirt_host()).uri,
            "xenserver": with_password(pool.uri(), "pool", xapi.PASSWORD),
        }
        if reason := vcsim.unavailable():
            say(f"the vCenter is left out: {reason}")
        else:
            vcenter = stack.enter_context(vcsim.VCenter(hosts=2, vms=6, now=None))
            uris["vcenter"] = with_password(vcenter.uri, "vcenter", vcsim.PASSWORD)
        file = directory / "targets.toml"
        file.write_text("".join(f'[targets.{name}]\nuri = "{uris[name]}"\n' for name in uris))
        yield file


def main() -> int:
    """Start them all, watch them, and end them; return the exit status of the command."""
    say("simulating a libvirt host, a XenServer pool, a vCenter: rates come after 2, 6 and 25 s")
    with targets() as file:
        command = [sys.executable, "-m", "virtmeter.cli", "watch", "--targets", str(file)]
        # The terminal sends it to watch as well, which ends, and so does this.
        signal.signal(signal.SIGINT, lambda *_: None)
        with subprocess.Popen([*command, *sys.argv[1:]]) as watch:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, _: watch.send_signal(number))
            # Not for ever at once: where another thread takes a signal, Python would oversleep it.
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return watch.wait(AWAKE)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there was anything to watch
        sys.exit(130)
