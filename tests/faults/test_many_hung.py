"""Many guests that hang: those that do not are read on, and no guest is asked twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.polling import Answers, assert_same, cycle
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

WORKERS = 4
TIMEOUT = 0.5
# The thread that finds out whether libvirt answers at all has company while it is stuck.
PROBING = 3


def add_domains(daemon: Daemon) -> list[Domain]:
    domains = [sample.domain(number, bulk=True) for number in range(1, 21)]
    daemon.add(*domains)
    daemon.waits.workers = 20
    return domains


# Which guests hang, by how many of them.
HUNG = {
    1: (7,),
    6: (2, 3, 4, 9, 12, 19),
    12: (2, 3, 4, 5, 6, 7, 9, 11, 16, 17, 18, 19),
    16: (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 19),
}


def divide(domains: Sequence[Domain], hung: Collection[int]) -> tuple[list[Domain], list[Domain]]:
    """Return those that are to hang, and the others."""
    return (
        [domain for number, domain in enumerate(domains) if number in hung],
        [domain for number, domain in enumerate(domains) if number not in hung],
    )


def hang(domains: Sequence[Domain]) -> None:
    for domain in domains:
        domain.hung, domain.most_asking = True, 0


def nics(answers: Answers, uuid: str) -> list[tuple[object, ...]]:
    """Return what is told of NICs, but for their start: not told where QEMU is not asked."""
    answer = answers["inspect_vnics", uuid]
    assert isinstance(answer, list), answer
    return [nic[: virtmeter.InterfaceStats._fields.index("start")] for nic in answer]


def assert_hung(answers: Answers, before: Answers, hung: Sequence[Domain]) -> None:
    """A guest that hangs keeps what needs no answer."""
    for domain in hung:
        answer, then = (of["inspect_instance", domain.uuid] for of in (answers, before))
        assert isinstance(answer, list), answer
        assert isinstance(then, list)
        [stats], [full] = answer, then
        assert stats[0] == full[0], "its power state"
        assert stats[3:7] == (None,) * 4, "its memory"
        assert nics(answers, domain.uuid) == nics(before, domain.uuid)
        for method in ("inspect_disks", "inspect_disk_info"):
            assert isinstance(answers[method, domain.uuid], virtmeter.InspectionTimeout)


@pytest.mark.parametrize("when", ["before a cycle", "in the middle of one"])
@pytest.mark.parametrize(
    ("count", "max_stuck", "workers"),
    [(1, 6, 4), (6, 6, 4), (12, 12, 4), (16, 16, 4), (1, 1, 1), (6, 6, 1)],
)
def test_all_others_are_read_in_every_cycle(
    daemon: Daemon, count: int, max_stuck: int, workers: int, when: str
) -> None:
    domains = add_domains(daemon)
    hung, well = divide(domains, HUNG[count])
    assert len(hung) == count
    uuids = [domain.uuid for domain in domains]
    with virtmeter.LibvirtInspector(
        daemon.uri, timeout=TIMEOUT, workers=workers, max_stuck=max_stuck
    ) as inspector:
        cycle(inspector, uuids)
        before = cycle(inspector, uuids)

        if when == "before a cycle":
            hang(hung)
        first = cycle(inspector, uuids, halfway=lambda: hang(hung))
        assert_same(first, before, well)
        for _ in range(5):
            answers = cycle(inspector, uuids)
            assert_same(answers, before, well)
            assert_hung(answers, before, hung)
        assert {domain.most_asking for domain in hung} <= {0, 1}, "never two calls about one"
        threads = max(workers, 2) + max_stuck
        assert sum(domain.asking for domain in hung) < threads
        assert daemon.waits.most_busy <= threads + PROBING
        health = inspector.health()
        assert health.stuck < threads
        assert set(health.hung) <= {domain.uuid for domain in hung}
        assert health.outage is None
        for domain in hung:
            domain.hung = False
        wait_for(lambda: cycle(inspector, uuids) == before, "all are back")
        wait_for(lambda: not inspector.health().hung, "nobody is said to hang any more")
        assert {domain.most_asking for domain in hung} == {1}
        wait_for(lambda: inspector.health().stuck == 0, "no thread is stuck any more")


def test_those_that_answered_last_time_are_read_on(daemon: Daemon) -> None:
    """Where so many hang that nobody else is asked any more whether it hangs as well."""
    domains = add_domains(daemon)
    hung, well = divide(domains, HUNG[12])
    uuids = [domain.uuid for domain in domains]
    max_stuck = 10
    with virtmeter.LibvirtInspector(
        daemon.uri, timeout=TIMEOUT, workers=WORKERS, max_stuck=max_stuck
    ) as inspector:
        cycle(inspector, uuids)
        before = cycle(inspector, uuids)
        hang(hung)
        for _ in range(5):
            answers = cycle(inspector, uuids)
            assert_same(answers, before, well)
            assert_hung(answers, before, hung)
        assert inspector.health().stuck > max_stuck + 1
        assert {domain.most_asking for domain in hung} <= {0, 1}
        assert daemon.waits.most_busy <= WORKERS + max_stuck + PROBING
        for domain in hung:
            domain.hung = False
        wait_for(lambda: cycle(inspector, uuids) == before, "all are back")


@pytest.mark.parametrize("workers", [5, 10])
def test_state_and_nics_are_told_where_fewer_workers_are_than_guests_hang(
    daemon: Daemon, workers: int
) -> None:
    """Calls about guests that are well hang with the others, in a libvirtd that starts no more."""
    domains = add_domains(daemon)
    hung, _ = divide(domains, range(3, 15))
    uuids = [domain.uuid for domain in domains]
    daemon.waits.workers = workers
    methods = ("inspect_instance", "inspect_vnics")
    with virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT) as inspector:
        before = [cycle(inspector, uuids) for _ in range(2)][-1]
        hang(hung)
        cycle(inspector, uuids)
        wait_for(lambda: all_told(cycle(inspector, uuids, methods)), "all are told of")
        answers = cycle(inspector, uuids, methods)
        assert all_told(answers)
        for uuid in uuids:
            assert nics(answers, uuid) == nics(before, uuid)
        assert inspector.health().outage is None
        for domain in hung:
            domain.hung = False
        wait_for(lambda: cycle(inspector, uuids) == before, "all are back")
        assert {domain.most_asking for domain in hung} <= {0, 1}


def all_told(answers: Answers) -> bool:
    return all(isinstance(answer, list) for answer in answers.values())


def test_hung_guests_keep_state_and_nics_when_all_ordinary_workers_are_gone(
    daemon: Daemon,
) -> None:
    """By the calls that libvirtd's priority workers serve."""
    domains = add_domains(daemon)
    hung, others = divide(domains, (1, 2, 9, 17))
    uuids = [domain.uuid for domain in domains]
    with virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT, workers=WORKERS) as inspector:
        cycle(inspector, uuids)
        before = cycle(inspector, uuids)
        hang(hung)
        cycle(inspector, uuids)
        wait_for(
            lambda: set(inspector.health().hung) == {domain.uuid for domain in hung}, "all hang"
        )
        daemon.waits.workers = 0  # somebody else has them all
        for _ in range(3):
            answers = cycle(inspector, [domain.uuid for domain in hung])
            assert_hung(answers, before, hung)
        assert inspector.health().outage is None
        daemon.waits.workers = 20
        cycle(inspector, uuids)
        wait_for(
            lambda: all(
                cycle(inspector, [domain.uuid]).items() <= before.items() for domain in others
            ),
            "the others are read again",
        )
        for domain in hung:
            domain.hung = False
        wait_for(lambda: cycle(inspector, uuids) == before, "all are back")
