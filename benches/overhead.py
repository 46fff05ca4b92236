"""What one call costs by itself, on libvirt's test hypervisor in the same process."""

from __future__ import annotations

import timeit
from statistics import median
from types import SimpleNamespace

import virtmeter
from benches.agent import OURS, STOCK
from benches.report import Part, times
from benches.rounds import alternating
from tests.support.oracle import stock_inspector

URI = "test:///default"
ROUNDS = 15
CALLS = 1000


def part() -> Part:
    """Measure it."""
    part = Part(
        "One call by itself",
        f"`inspect_instance` on `{URI}`, where libvirt answers within the process, here the same "
        "for both: what is left is the inspector's own work. Ours hands each question to a thread "
        "and back, which takes longer where an idle processor has to be woken for it: from 25 µs "
        "on a busy machine to 100 µs on an idle virtual one.",
        ("", "stock", "virtmeter", "ratio"),
    )
    ours = virtmeter.LibvirtInspector(URI)
    [instance] = ours.list_instances()
    asked = SimpleNamespace(id=instance.id)
    inspectors = {STOCK: stock_inspector(URI), OURS: ours}
    found: dict[str, list[float]] = {STOCK: [], OURS: []}
    for kind in alternating(ROUNDS):
        inspect = inspectors[kind].inspect_instance
        found[kind].append(timeit.timeit(lambda: inspect(asked, None), number=CALLS) / CALLS)  # noqa: B023
    stock, our = median(found[STOCK]), median(found[OURS])
    row = (f"{seconds * 1e6:,.1f} µs" for seconds in (stock, our))
    part.rows.append(("`inspect_instance`", *row, times(stock / our)))
    return part
