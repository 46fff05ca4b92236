"""Who reads the usage of all VMs, in a process of its own: its CPU and memory are the reading's.

Where that is not virtmeter, a module's PEERS say who it is.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import virtmeter
from benches.agent import resident

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

OURS = "virtmeter"


@dataclass(frozen=True)
class Cycle:
    """One reading of the usage of VMs."""

    vms: int  # that were told of
    wall: float  # seconds
    cpu: float  # seconds of all threads, since the end of the cycle before
    resident: int  # bytes, at the end


class Agent:
    """The process, from the side of who tells it."""

    def __init__(
        self, kind: str, told: dict[str, Any], *, peers: str = "", **options: float
    ) -> None:
        """Start it; the options are those of an inspector, or of a peer in that module."""
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind, peers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        #: Before anything was read.
        self.resident: int = self._tell({"told": told, "options": options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def cycle(self, *, times: int = 1, pause: float = 0.0, **asked: int) -> Cycle:
        """Have it read, and wait after that; the last of so many times."""
        return Cycle(**self._tell({"times": times, "pause": pause, "asked": asked}))

    def _tell(self, what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def _reader(
    kind: str, peers: str, told: dict[str, Any], options: dict[str, Any]
) -> Callable[..., Any]:
    if kind == OURS:
        inspector = virtmeter.Inspector(told["uri"], password=lambda: told["password"], **options)
        return inspector.usage_all
    read: Callable[..., Any] = import_module(peers).PEERS[kind](told, **options).read
    return read


def main(kind: str, peers: str) -> None:
    """Be the process: a line in, a cycle, a line out."""
    resident_before = resident()
    read = _reader(kind, peers, **json.loads(sys.stdin.readline()))
    print(resident_before, flush=True)
    used = _cpu()
    for line in sys.stdin:
        told = json.loads(line)
        for _ in range(told["times"]):
            began = time.perf_counter()
            found = len(read(**told["asked"]))
            wall = time.perf_counter() - began
            time.sleep(told["pause"])
        before, used = used, _cpu()
        print(json.dumps(vars(Cycle(found, wall, used - before, resident()))), flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
