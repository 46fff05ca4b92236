"""Many XenServer pools, or many libvirt hosts, simulated in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benches.idle_host import IdleDaemon, domain
from tests.support.libvirtd import Never
from tests.support.xapi import synthetic
from tests.support.xapi.sessions import Account

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from tests.support.libvirtd import Answer

HOSTS = 4  # of a pool
HANG, AWAY, REFUSE, REFUSED = "hang", "away", "refuse", "refused"


class Simulators:
    """The process, from the side of who starts it."""

    def __init__(self, kind: str, count: int, vms: int) -> None:
        """Start so many of a kind, each with so many VMs."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind, str(count), str(vms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.uris: list[str] = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, what: str, number: int) -> Any:
        """Have one HANG, be AWAY or REFUSE its password; or return what it says."""
        assert self._process.stdin is not None
        print(json.dumps([what, number]), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class _Pool:
    """A pool of XenServer."""

    def __init__(self, vms: int) -> None:
        self._pool = synthetic(HOSTS, vms // HOSTS, delay=0.0)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.__exit__(None, None, None)

    def where(self) -> str:
        return self._pool.uri()

    def hang(self) -> None:
        """Take connections, and never say a word."""
        for host in self._pool.hosts:
            host.server.silent = True

    def away(self) -> None:
        for host in self._pool.hosts:
            host.away()

    def refuse(self) -> None:
        """Have another password from now on, and no sessions."""
        self._pool.sessions.accounts["monitor"] = Account("another")
        self._pool.sessions.expire()

    def refused(self) -> int:
        """Return how many logins."""
        return self._pool.sessions.refused


class _Host(IdleDaemon):
    """A host of libvirt's."""

    def __init__(self, vms: int) -> None:
        super().__init__(slow=False)
        self._hangs = False
        self.add(*(domain(number) for number in range(1, vms + 1)))

    def where(self) -> str:
        return self.uri

    def arrived(self, call: Any) -> Answer | None:
        return Never() if self._hangs else super().arrived(call)

    def hang(self) -> None:
        self._hangs = True

    def away(self) -> None:
        self.stop()


KINDS: dict[str, Callable[[int], Any]] = {"xenserver": _Pool, "libvirt": _Host}


def main(kind: str, count: str, vms: str) -> None:
    """Be the process: a line in, what that returns out."""
    with ExitStack() as stack:
        made = [stack.enter_context(KINDS[kind](int(vms))) for _ in range(int(count))]
        print(json.dumps([each.where() for each in made]), flush=True)
        for line in sys.stdin:
            what, number = json.loads(line)
            print(json.dumps(getattr(made[number], what)()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
