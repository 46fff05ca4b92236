"""Compares what the stock inspector says with what virtmeter said before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtmeter.cli.check.answers import Answer

SINCE_THE_LAST_READING = ("rx_bytes_delta", "tx_bytes_delta")
"""Each inspector's own, so there is nothing to compare."""

UP_AND_DOWN = (
    *("power_state", "cpu_number", "memory_actual", "memory_available", "memory_usage"),
    *("memory_resident", "capacity", "allocation", "physical"),
)
"""Numbers that may also fall; all others count."""

MISSING = "(missing)"


class Difference(NamedTuple):
    """Something that the two say otherwise of one VM."""

    method: str
    device: str
    """The NIC or disk; empty where it is about the VM."""
    field: str
    """Empty where it is about the whole answer, or the whole device."""
    stock: object
    ours: object


def compare(method: str, before: Answer, stock: Answer, after: Answer) -> Iterator[Difference]:
    """Yield what cannot be, had virtmeter read at the moment at which the stock inspector did."""
    if before.silent or after.silent:
        yield Difference(method, "", "", outcome(stock), "no answer in time")
        return
    outcomes = (before.raised, after.raised)
    if stock.raised is not None or None not in outcomes:
        if stock.raised not in outcomes:
            yield Difference(method, "", "", outcome(stock), outcome(after))
        return
    first, theirs, last = (by_device(method, answer) for answer in (before, stock, after))
    for device in {**theirs, **last}:
        ours = [records[device] for records in (first, last) if device in records]
        if device not in theirs:
            if len(ours) == 2:
                yield Difference(method, device, "", MISSING, "there")
        elif not ours:
            yield Difference(method, device, "", "there", MISSING)
        else:
            yield from compare_records(method, device, ours[0], theirs[device], ours[-1])


def compare_records(
    method: str, device: str, before: dict[str, Any], stock: dict[str, Any], after: dict[str, Any]
) -> Iterator[Difference]:
    """Yield the fields that differ."""
    for field, value in stock.items():
        if field in SINCE_THE_LAST_READING:
            continue
        first, last = before.get(field, MISSING), after.get(field, MISSING)
        if not agrees(field, first, value, last):
            yield Difference(method, device, field, value, last)


def agrees(field: str, first: Any, stock: Any, last: Any) -> bool:  # noqa: ANN401
    """Return whether a value is one of the two or lies between them; 1 is not 1.0."""
    if same(stock, first) or same(stock, last):
        return True
    if not (is_number(first) and is_number(stock) and is_number(last)):
        return False
    if type(stock) is not type(last):
        return False
    low, high = (min(first, last), max(first, last)) if field in UP_AND_DOWN else (first, last)
    return bool(low <= stock <= high)


def same(one: object, other: object) -> bool:
    """Return whether two values are equal and of one type."""
    return type(one) is type(other) and one == other


def is_number(value: object) -> bool:
    """Return whether there can be something between this and another."""
    return isinstance(value, (int, float))


def by_device(method: str, answer: Answer) -> dict[str, dict[str, Any]]:
    """Return the records by what they are of: the first field, but for the VM itself."""
    if method == "inspect_instance":
        return {"": answer.records[0]} if answer.records else {}
    return {str(next(iter(record.values()))): record for record in answer.records}


def outcome(answer: Answer) -> str:
    """Return what an answer is, in a word."""
    return answer.raised or ("records" if answer.records else "no device")
