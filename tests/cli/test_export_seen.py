"""What XenServer's counters say since the exporter has seen them, and what becomes of a restart."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from virtmeter import DiskStats, InstanceStats, InterfaceStats
from virtmeter.cli.export.seen import Seen

VM = "uuid-1"


def stats(cpu_time: int | None, start: int = 1, **fields: Any) -> InstanceStats:
    return InstanceStats(cpu_time=cpu_time, start=start, **fields)


def since(seen: Seen, *records: Any, begun: Any = ()) -> list[Any]:
    return seen.since(VM, records, begun)


def test_what_was_there_before_is_taken_off_and_all_else_stays() -> None:
    seen = Seen()
    [first] = since(seen, stats(5000, memory_usage=7, memory_swap_in=3))
    [second] = since(seen, stats(5300, memory_usage=8, memory_swap_in=4))
    assert (first.cpu_time, first.memory_usage, first.memory_swap_in) == (0, 7, 3)
    assert (second.cpu_time, second.memory_usage, second.memory_swap_in) == (300, 8, 4)
    assert second.start == 1


def test_what_was_seen_to_begin_is_told_from_its_beginning() -> None:
    seen = Seen()
    key = (VM, InstanceStats, ())
    assert since(seen, stats(5000), begun=[key])[0].cpu_time == 5000
    assert since(seen, stats(5100), begun=[key])[0].cpu_time == 5100


def test_a_new_start_and_a_vm_that_was_away_begin_again() -> None:
    seen = Seen()
    since(seen, stats(5000))
    assert since(seen, stats(70, start=2))[0].cpu_time == 0
    assert since(seen, stats(90, start=2))[0].cpu_time == 20
    seen.keep({"another"})
    assert since(seen, stats(100, start=2))[0].cpu_time == 0


def test_a_device_that_is_plugged_in_again_begins_again_and_is_never_below_0() -> None:
    """Its counters begin at 0, while its VM goes on."""
    seen = Seen()
    values = (5000, 5300, 70, 90, 400)
    told = [since(seen, stats(value))[0].cpu_time for value in values]
    assert told == [0, 300, 0, 20, 330]


def test_what_is_not_told_stays_unknown_and_begins_when_it_is() -> None:
    seen = Seen()
    assert since(seen, stats(None))[0].cpu_time is None
    assert since(seen, stats(400))[0].cpu_time == 0
    assert since(seen, stats(None))[0].cpu_time is None
    assert since(seen, stats(450))[0].cpu_time == 50


def test_devices_have_beginnings_of_their_own() -> None:
    seen = Seen()

    def nic(name: str, received: int) -> InterfaceStats:
        nothing = InterfaceStats._make([None] * len(InterfaceStats._fields))
        return nothing._replace(name=name, rx_bytes=received, start=1)

    def disk(name: str, written: int) -> DiskStats:
        nothing = DiskStats._make([None] * len(DiskStats._fields))
        return nothing._replace(device=name, write_bytes=written, errors=-1, start=1)

    since(seen, nic("a", 10), nic("b", 20), disk("a", 30))
    told = since(seen, nic("a", 11), nic("b", 22), disk("a", 33), disk("b", 1))
    assert [each.rx_bytes for each in told[:2]] == [1, 2]
    assert [(each.write_bytes, each.errors) for each in told[2:]] == [(3, -1), (0, -1)]


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.integers(-5, 0)), max_size=50))
def test_no_restart_of_the_exporter_makes_a_peak(steps: list[tuple[int, bool, int]]) -> None:
    """The increase over all is never more than what was used, though exact counters fall a bit."""
    seen, exact, before, increase, used = Seen(), 1_000_000, 0, 0, 0
    for grown, restarts, error in steps:
        exact += grown
        used += grown
        if restarts:
            seen, exact = Seen(), exact + error
        [told] = since(seen, stats(exact))
        assert told.cpu_time is not None
        increase += told.cpu_time - before if told.cpu_time >= before else told.cpu_time
        before = told.cpu_time
    assert increase <= used
