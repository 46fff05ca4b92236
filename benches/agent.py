"""An inspector in a process of its own, as an agent has it, which goes through cycles when told.

The process does nothing else, so all of its CPU time and memory are the inspector's.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import virtmeter
from benches import floor
from tests.support.oracle import METHODS, stock_inspector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

# Sizes reckoned, as is the default, and sizes asked; and the same calls without an inspector.
STOCK, OURS, ASKED = "stock", "virtmeter", "virtmeter, sizes asked"
FLOOR, FLOOR_ASKED = "libvirt.so", "libvirt.so, sizes asked"


@dataclass(frozen=True)
class Cycle:
    """One cycle: all four methods, method by method over all instances, as Ceilometer asks."""

    instances: int
    wall: float  # seconds
    cpu: float  # seconds of all threads, since the end of the cycle before
    resident: int  # bytes, at the end
    calls: int  # round trips, where the inspector counts them
    switches: int  # of context, of all threads, since the end of the cycle before


class Agent:
    """The process, from the side of who tells it."""

    def __init__(self, kind: str, uri: str, instances: Sequence[str]) -> None:
        """Start it; it asks about instances by their UUIDs."""
        self.kind = kind
        if kind in (FLOOR, FLOOR_ASKED):
            command = floor.command(uri, asked=kind == FLOOR_ASKED)
        else:
            command = [sys.executable, "-m", __name__, kind, uri]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.resident: int = self._tell(list(instances))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def cycle(self, first: int | None = None, *, times: int = 1) -> Cycle:
        """Have it ask about all its instances, or the first ones; the last of so many times."""
        return Cycle(**self._tell({"first": first, "times": times}))

    def _tell(self, what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def main(kind: str, uri: str) -> None:
    """Be the process: a line in, a cycle, a line out. floor.c does the same."""
    inspector = _inspector(kind, uri)
    instances = [SimpleNamespace(id=uuid) for uuid in json.loads(sys.stdin.readline())]
    print(resident(), flush=True)
    used, calls = resource.getrusage(resource.RUSAGE_SELF), 0
    for line in sys.stdin:
        told = json.loads(line)
        asked = instances[: told["first"]]
        for _ in range(told["times"]):
            began = time.perf_counter()
            inspect(inspector, asked)
            wall = time.perf_counter() - began
        before, calls_before = used, calls
        used = resource.getrusage(resource.RUSAGE_SELF)
        calls = 0 if kind == STOCK else sum(inspector.health().calls.values())
        found = Cycle(
            len(asked),
            wall,
            used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
            resident(),
            calls - calls_before,
            used.ru_nvcsw + used.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw,
        )
        print(json.dumps(vars(found)), flush=True)


def _inspector(kind: str, uri: str) -> Any:
    if kind == STOCK:
        return stock_inspector(uri)
    return virtmeter.LibvirtInspector(uri, reckon_sizes=kind != ASKED)


def inspect(inspector: Any, instances: list[SimpleNamespace]) -> None:
    """Go through one cycle."""
    for name in METHODS:
        method = getattr(inspector, name)
        for instance in instances:
            answer = method(instance, None)
            if name != "inspect_instance":
                list(answer)


def resident() -> int:
    """Return how much memory this process has, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(*sys.argv[1:])
