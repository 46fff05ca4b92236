"""What our cycles cost others: a foreign client's calls, on an idle host and beside inspectors."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from statistics import median, quantiles
from typing import TYPE_CHECKING

import libvirt

from benches import guests
from benches.agent import ASKED, OURS, STOCK, Agent
from benches.report import Part, Target, milliseconds, times
from benches.rounds import alternating, pause, warm_up
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

IDLE = "idle"
KINDS = {
    IDLE: "nobody",
    OURS: "virtmeter",
    ASKED: "virtmeter, sizes asked",
    STOCK: "the stock inspector",
}
ROUNDS = 6
SECONDS = 3.0
PAUSES = 0.002, 0.020
GROUPS = (
    libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
)
MOST = 3


def part(count: int) -> Part:
    """Measure it with so many guests."""
    part = Part(
        "A foreign client",
        f"{count} running guests like those above. A client with a connection of its own asks for "
        "the statistics of one guest or another in a bulk call (disks, vCPUs and balloon), and "
        f"pauses for {PAUSES[0] * 1e3:g} to {PAUSES[1] * 1e3:g} ms after each. Beside it, an "
        "inspector goes through cycle after cycle without a pause.",
        ("beside it", "median", "95th percentile", "ratio of medians", "calls"),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"Not measured: {reason}")
        return part
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        rig = stack.enter_context(qemu.Libvirtd())
        uuids = stack.enter_context(guests.running(rig, count)).uuids
        agents = {
            kind: stack.enter_context(Agent(kind, rig.uri, uuids)) for kind in KINDS if kind != IDLE
        }
        warm_up(agents.values())
        client = stack.enter_context(Client(rig.uri, uuids))
        for kind in alternating(KINDS, ROUNDS):
            pause()
            with _cycling(agents.get(kind)):
                found[kind] += client.latencies(SECONDS)
    medians = {kind: median(latencies) for kind, latencies in found.items()}
    for kind, name in KINDS.items():
        p95 = quantiles(found[kind], n=20)[-1]
        ratio = medians[kind] / medians[IDLE]
        calls = f"{len(found[kind]):,}"
        row = (name, milliseconds(medians[kind]), milliseconds(p95), times(ratio), calls)
        part.rows.append(row)
    ratio = medians[OURS] / medians[IDLE]
    part.targets.append(
        Target(
            "a foreign client's bulk call beside running cycles, median",
            f"at most {MOST} times its idle latency",
            f"{ratio:.1f} times",
            ratio <= MOST,
        )
    )
    return part


@contextmanager
def _cycling(agent: Agent | None) -> Iterator[None]:
    """Have an agent go through cycles for a while."""
    if agent is None:
        yield
        return
    enough = threading.Event()

    def cycle() -> None:
        while not enough.is_set():
            agent.cycle()

    thread = threading.Thread(target=cycle)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


class Client:
    """The client, a process of its own, from the side of who tells it."""

    def __init__(self, uri: str, uuids: list[str]) -> None:
        """Start it; it asks about these guests."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, uri, *uuids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def latencies(self, duration: float) -> list[float]:
        """Have it make calls for so long, and return how long each of them took, seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(duration, file=self._process.stdin, flush=True)
        found: list[float] = json.loads(self._process.stdout.readline())
        return found


def main(uri: str, *uuids: str) -> None:
    """Be the client: a line in, calls for so many seconds, a line out."""
    connection = libvirt.openReadOnly(uri)
    domains = [connection.lookupByUUIDString(uuid) for uuid in uuids]
    for line in sys.stdin:
        found = []
        ends = time.monotonic() + float(line)
        while (began := time.monotonic()) < ends:
            connection.domainListGetStats([random.choice(domains)], GROUPS)
            found.append(time.monotonic() - began)
            time.sleep(random.uniform(*PAUSES))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
