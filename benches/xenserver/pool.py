"""A simulated pool in a process of its own, whose CPU time is none of the agents'."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class SimulatedPool:
    """So many hosts with so many VMs each; `/rrd_updates` is answered after a delay."""

    def __init__(self, hosts: int, vms: int, delay: float) -> None:
        """Start it."""
        command = [sys.executable, "-m", "tests.support.xapi"]
        options = {"--hosts": hosts, "--vms": vms, "--delay": delay}
        command += [str(word) for option in options.items() for word in option]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.told: dict[str, Any] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def calls(self) -> Counter[str]:
        """Return how often what was asked since this was last asked."""
        found: Counter[str] = Counter()
        for _, name, times in self._control("/calls"):
            found[name] += times
        self._control("/forget", {})
        return found

    def hang(self, hosts: int) -> None:
        """Let the last hosts take requests for rows, and never answer."""
        for host in range(len(self.told["urls"]) - hosts, len(self.told["urls"])):
            self._control("/fail", {"host": host, "path": "/rrd_updates", "hang": "head"})

    def heal(self) -> None:
        """Let all hosts answer again."""
        self._control("/heal", {})

    def _control(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with closing(urllib.request.urlopen(self.told["control"] + path, data)) as answer:
            return json.load(answer)
