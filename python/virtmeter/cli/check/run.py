"""Reads all VMs with both inspectors, and reads again what may have moved in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from virtmeter.cli.check.answers import METHODS, Answer, ours
from virtmeter.cli.check.differences import Difference, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtmeter import Inspector, Instance
    from virtmeter.cli.check.child import Stock

TRIES = 3
"""How often a difference is looked at again before it is one."""

Answers = dict[tuple[str, str], Answer]


@dataclass
class Result:
    """What came of it."""

    instances: Sequence[Instance]
    values: int = 0
    """How many values were compared."""
    differences: list[tuple[Instance, Difference]] = field(default_factory=list)
    silent: list[Instance] = field(default_factory=list)
    """Those of which the stock inspector does not answer."""
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By method, what the stock inspector took, and what virtmeter took."""


def run(
    inspector: Inspector,
    exact: Inspector,
    stock: Stock,
    instances: Sequence[Instance],
) -> Result:
    """Compare what both say of these.

    :param inspector: as everybody uses it, which is what is timed.
    :param exact: one that reads nothing ahead, for what moves.
    """
    result = Result(instances)
    _all(inspector, instances)  # So it learns the order, which an agent's inspector knows.
    before = _all(inspector, instances)
    theirs = _all_of_stock(stock, instances, result.silent)
    inspector.close()  # What was read ahead is from before.
    after = _all(inspector, instances)
    compared = [each for each in instances if each not in result.silent]
    for method in METHODS:
        for instance in compared:
            which = (method, instance.id)
            found = list(compare(method, before[which], theirs[which], after[which]))
            if found:
                found = _look_again(exact, stock, method, instance, found)
            result.differences += [(instance, each) for each in found]
            result.values += sum(len(record) for record in theirs[which].records)
        result.seconds[method] = (
            sum(theirs[method, instance.id].seconds for instance in compared),
            sum(before[method, instance.id].seconds for instance in compared),
        )
    return result


def _all(inspector: Inspector, instances: Sequence[Instance]) -> Answers:
    """Ask as Ceilometer does, method by method."""
    return {
        (method, instance.id): ours(inspector, method, instance)
        for method in METHODS
        for instance in instances
    }


def _all_of_stock(stock: Stock, instances: Sequence[Instance], silent: list[Instance]) -> Answers:
    """Ask likewise, but nothing more of a VM that has not answered."""
    answers = {}
    for method in METHODS:
        for instance in instances:
            if instance in silent:
                continue
            answer = stock.ask(method, instance)
            answers[method, instance.id] = answer
            if answer.silent:
                silent.append(instance)
    return answers


def _look_again(
    exact: Inspector,
    stock: Stock,
    method: str,
    instance: Instance,
    found: list[Difference],
) -> list[Difference]:
    """Return the differences that stay."""
    for _ in range(TRIES):
        before = ours(exact, method, instance)
        theirs = stock.ask(method, instance)
        after = ours(exact, method, instance)
        if theirs.silent:
            return [Difference(method, "", "", "no answer in time", found[0].ours)]
        found = list(compare(method, before, theirs, after))
        if not found:
            break
    return found
