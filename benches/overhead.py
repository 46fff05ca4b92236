"""What one call costs by itself: of a real guest, and on libvirt's test hypervisor."""

from __future__ import annotations

import time
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import virtmeter
from benches.agent import OURS, STOCK
from benches.report import Part, Target, times
from benches.rounds import alternating
from tests.support import qemu
from tests.support.oracle import stock_inspector

if TYPE_CHECKING:
    from collections.abc import Callable

TEST_URI = "test:///default"
TEST_ROUNDS, TEST_CALLS = 15, 1000
REAL_ROUNDS, REAL_CALLS = 15, 20
BETWEEN = 0.02


def part() -> Part:
    """Measure it."""
    part = Part(
        "One call by itself",
        f"`inspect_instance` about one real guest that runs, with {BETWEEN * 1e3:g} ms between the "
        f"calls; and on `{TEST_URI}`, where libvirt answers within the process, so that what is "
        "left is the inspector's own work. Ours hands each question to a thread and back, which "
        "takes longer where an idle processor has to be woken for it.",
        ("", "stock", "virtmeter", "ratio"),
    )
    if reason := qemu.unavailable():
        part.notes.append(f"The real guest is not measured: {reason}")
    else:
        with qemu.Libvirtd() as rig, rig.bulk(1, running=True) as [guest]:
            stock, ours = _measure(rig.uri, guest.uuid, REAL_ROUNDS, REAL_CALLS, BETWEEN)
        part.rows.append(_row("a real guest", stock, ours))
        part.targets.append(
            Target(
                "`inspect_instance` of one real guest, by itself",
                "not slower than stock",
                f"{stock / ours:.1f} times as fast",
                ours <= stock,
            )
        )
    [instance] = virtmeter.LibvirtInspector(TEST_URI).list_instances()
    stock, ours = _measure(TEST_URI, str(instance.id), TEST_ROUNDS, TEST_CALLS)
    part.rows.append(_row(f"`{TEST_URI}`", stock, ours))
    return part


def _row(what: str, stock: float, ours: float) -> tuple[str, ...]:
    return (what, *(f"{seconds * 1e6:,.0f} µs" for seconds in (stock, ours)), times(stock / ours))


def _measure(
    uri: str, uuid: str, rounds: int, calls: int, between: float = 0.0
) -> tuple[float, float]:
    """Return how long a call takes the stock inspector, and ours, in seconds."""
    asked = SimpleNamespace(id=uuid)
    with virtmeter.LibvirtInspector(uri) as ours:
        inspectors = {STOCK: stock_inspector(uri), OURS: ours}
        found: dict[str, list[float]] = {STOCK: [], OURS: []}
        for kind in alternating(inspectors, rounds):
            inspect = inspectors[kind].inspect_instance
            found[kind] += _latencies(inspect, asked, calls, between)
    return median(found[STOCK]), median(found[OURS])


def _latencies(
    inspect: Callable[[Any, None], Any], asked: Any, calls: int, between: float
) -> list[float]:
    found = []
    for _ in range(calls):
        if between:
            time.sleep(between)
        began = time.perf_counter()
        inspect(asked, None)
        found.append(time.perf_counter() - began)
    return found
