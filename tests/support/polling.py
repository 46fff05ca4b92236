"""Polls as Ceilometer's agent does: method by method, and with each one instance by instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

import virtmeter
from tests.support import sample
from tests.support.oracle import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.support.procedures import Domain

# The records as tuples, or the exception.
Answer = Union[list[tuple[Any, ...]], virtmeter.InspectorException]
Answers = dict[tuple[str, str], Answer]


def ask(inspector: virtmeter.LibvirtInspector, method: str, uuid: str) -> Answer:
    """Return what comes of one question."""
    try:
        return sample.read(inspector, method, uuid)
    except virtmeter.InspectorException as exception:
        return exception


def cycle(
    inspector: virtmeter.LibvirtInspector,
    uuids: Sequence[str],
    methods: Iterable[str] = METHODS,
    *,
    halfway: Callable[[], object] = lambda: None,
) -> Answers:
    """Return what comes of all questions; something else may happen between the two halves."""
    questions = [(method, uuid) for method in methods for uuid in uuids]
    answers: Answers = {}
    for number, (method, uuid) in enumerate(questions):
        if number == len(questions) // 2:
            halfway()
        answers[method, uuid] = ask(inspector, method, uuid)
    return answers


def assert_same(answers: Answers, before: Answers, domains: Iterable[Domain]) -> None:
    """Compare what a cycle has said of these domains with what one said before."""
    for domain in domains:
        for method in METHODS:
            assert answers[method, domain.uuid] == before[method, domain.uuid], (method, domain)
