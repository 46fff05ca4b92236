"""A domain whose lock is held: libvirt's list hangs, and so does all about that domain alone."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.cli.test_doctor import run
from tests.support import sample
from tests.support.libvirtd import Late, Then
from tests.support.oracle import METHODS
from tests.support.polling import ask, assert_same, cycle
from tests.support.procedures import PROCEDURES
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

TIMEOUT = 0.5


@pytest.fixture
def inspector(daemon: Daemon) -> Iterator[virtmeter.LibvirtInspector]:
    with virtmeter.LibvirtInspector(daemon.uri, timeout=TIMEOUT) as inspector:
        yield inspector


def wait_until_found(
    inspector: virtmeter.LibvirtInspector, uuids: list[str], locked: Domain
) -> None:
    """Ask on until it is known whose lock is held; on a busy machine, one round may not do."""

    def is_found() -> bool:
        inspector.list_instances()
        cycle(inspector, uuids)
        return set(inspector.health().locked) == {locked.uuid}

    wait_for(is_found, "it is found", timeout=10)


def test_what_was_listed_last_goes_on_to_be_read(
    daemon: Daemon,
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    locked = domains[2]
    others = [domain for domain in domains if domain is not locked]
    uuids = [domain.uuid for domain in domains]
    listed = inspector.list_instances()
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    health = inspector.health()
    assert (health.list_hangs, set(health.locked)) == (None, set())
    locked.locked = True
    # A new one is not listed, but can be read.
    came = sample.domain(6, bulk=True)
    daemon.add(came)
    began = time.monotonic()
    for _ in range(50):
        assert inspector.list_instances() == listed
    assert time.monotonic() - began < 25 * TIMEOUT, "they have not waited one by one"
    cycle(inspector, uuids)
    for _ in range(3):
        answers = cycle(inspector, uuids)
        assert_same(answers, before, others)
        for method in METHODS:
            refused = answers[method, locked.uuid]
            assert isinstance(refused, virtmeter.InspectionTimeout), refused
        assert inspector.list_instances() == listed
    assert ask(inspector, "inspect_disks", came.uuid) == sample.answers(6)["inspect_disks"]
    wait_until_found(inspector, uuids, locked)
    first = inspector.health().list_hangs
    assert first
    wait_for(lambda: (inspector.health().list_hangs or 0) > first, "it goes on", timeout=10)
    assert inspector.health().outage is None
    assert not any("no connection" in line for line in caplog.messages)
    assert daemon.waits.most_busy <= 8, "what hangs is not asked for again and again"
    locked.locked = False
    wait_for(lambda: len(inspector.list_instances()) == 6, "the list is new", timeout=10)
    wait_for(lambda: cycle(inspector, uuids) == before, "all is as before", timeout=10)
    health = inspector.health()
    assert (health.list_hangs, set(health.locked), health.hung) == (None, set(), {})


def test_one_whose_uuid_is_nil_is_found_as_well(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    """Domain-0 of Xen has that UUID."""
    nil = sample.domain(6, str(UUID(int=0)), bulk=True)
    daemon.add(nil)
    uuids = [domain.uuid for domain in (*domains, nil)]
    assert len(inspector.list_instances()) == 6
    nil.locked = True
    wait_until_found(inspector, uuids, nil)
    assert inspector.health().outage is None


def test_a_daemon_that_was_merely_silent_is_not_asked_again_about_it(
    daemon: Daemon,
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    locked = domains[2]
    uuids = [domain.uuid for domain in domains]
    inspector.list_instances()
    cycle(inspector, uuids)
    locked.locked = True
    wait_until_found(inspector, uuids, locked)
    for procedure in PROCEDURES.values():
        daemon.on(procedure.name, Late(2 * TIMEOUT), repeat=True)

    def is_silent() -> bool:
        cycle(inspector, uuids)
        return inspector.health().outage is not None

    wait_for(is_silent, "it is silent")
    daemon.off()
    wait_for(lambda: not is_silent(), "it is not")
    end = time.monotonic() + 3 * TIMEOUT
    while time.monotonic() < end:
        cycle(inspector, uuids)
        inspector.list_instances()
    lines = [line for line in caplog.messages if "libvirt is waiting for instance" in line]
    assert len([line for line in lines if locked.uuid in line]) == 1


def test_usage_of_all_goes_on_without_it(
    domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    locked = domains[0]
    others = {domain.uuid for domain in domains[1:]}
    for _ in range(2):
        inspector.usage_all()
    locked.locked = True
    inspector.usage_all()
    for _ in range(3):
        usages = {usage.id: usage for usage in inspector.usage_all()}
        assert others <= usages.keys()
        for uuid in others:
            usage = usages[uuid]
            assert (usage.network_read_kib, usage.disk_read_kib) == (0.0, 0.0)
            assert usage.memory_used is not None
        # Nothing is invented of the other one.
        if locked.uuid in usages:
            assert usages[locked.uuid].disk_read_kib is None
            assert usages[locked.uuid].memory_used is None
    locked.locked = False

    def whole() -> bool:
        usages = {usage.id: usage for usage in inspector.usage_all()}
        return locked.uuid in usages and usages[locked.uuid].memory_used is not None

    wait_for(whole, "it is back", timeout=10)


@pytest.mark.parametrize("ask_for", ["list_instances", "list_servers", "usage_all"])
def test_nothing_was_listed_before(
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    ask_for: str,
) -> None:
    domains[1].locked = True
    question: Callable[[], list[object]] = getattr(inspector, ask_for)
    for _ in range(2):
        with pytest.raises(virtmeter.NoDataException, match="list") as caught:
            question()
        assert not isinstance(caught.value, virtmeter.ConnectionLost)
        assert "hang" in str(caught.value)
        assert caught.value.instance_id is None
    # Who is asked for by its UUID is read all the same.
    assert ask(inspector, "inspect_vnics", domains[0].uuid) == sample.answers(1)["inspect_vnics"]
    assert inspector.health().outage is None
    domains[1].locked = False

    def listed() -> bool:
        try:
            return len(question()) == (0 if ask_for == "list_servers" else 5)
        except virtmeter.NoDataException:
            return False

    wait_for(listed, "the list comes", timeout=10)


def test_the_list_when_all_ordinary_workers_are_gone(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    """Others may have all workers: the bulk call that lists is queued, and no lock is held."""
    listed = inspector.list_instances()
    daemon.waits.workers = 0
    for _ in range(3):
        assert [each.id for each in inspector.list_instances()] == [each.id for each in listed]
    assert set(inspector.health().locked) == set()
    assert inspector.health().outage is None
    daemon.waits.workers = None
    gone = domains.pop()
    del daemon.domains[gone.uuid]
    wait_for(lambda: len(inspector.list_instances()) == 4, "the list is new", timeout=10)


def test_scrapes_go_on(daemon: Daemon, domains: list[Domain]) -> None:
    locked, *others = domains

    def complete() -> bool:
        return exporter.scrape(timeout=20)("virtmeter_scrape_complete") == 1

    with Exporter(daemon.uri, "--timeout", "1") as exporter:
        wait_for(complete, "all is read")
        locked.locked = True
        exporter.scrape(timeout=20)
        for _ in range(3):
            samples = exporter.scrape(timeout=20)
            assert samples("virtmeter_up") == 1
            assert samples("virtmeter_domain_answering", uuid=locked.uuid) == 0
            for domain in others:
                assert samples("virtmeter_domain_answering", uuid=domain.uuid) == 1
                read = "virtmeter_domain_disk_read_bytes_total"
                assert samples(read, uuid=domain.uuid, disk="vda") is not None
        hangs = [value for (name, _), value in samples.values.items() if "list" in name]
        assert any(value > 0 for value in hangs), "a metric says that the list hangs"
        locked.locked = False
        answering = "virtmeter_domain_answering"
        wait_for(
            lambda: exporter.scrape(timeout=20)(answering, uuid=locked.uuid) == 1, "it is back"
        )
        samples = exporter.scrape(timeout=20)
        assert not any(value for (name, _), value in samples.values.items() if "list" in name)


def test_the_doctor_says_that_the_list_hangs(daemon: Daemon, domains: list[Domain]) -> None:
    domains[3].locked = True
    done = run("--uri", daemon.uri, "--timeout", "1")
    assert (done.returncode, done.stderr) == (1, "")
    [problem] = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert "list" in problem
    assert "hang" in problem


@pytest.mark.parametrize("why", ["its guest hangs", "a list hangs"])
def test_a_question_that_is_never_answered_locks_nobody_out(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector, why: str
) -> None:
    well, other = domains[:2]
    inspector.list_instances()
    answer = ask(inspector, "inspect_disks", well.uuid)
    over = threading.Event()
    asked = []

    def wait(call: object) -> None:
        asked.append(call)
        over.wait(60)

    daemon.on("DOMAIN_GET_CONTROL_INFO", Then(wait), uuid=well.uuid, repeat=True)

    def is_locked() -> bool:
        inspector.list_instances()
        ask(inspector, "inspect_disks", well.uuid)
        return well.uuid in inspector.health().locked

    def is_read() -> bool:
        return ask(inspector, "inspect_disks", well.uuid) == answer

    try:
        if why == "a list hangs":
            other.locked = True
        else:
            well.hung = True
        wait_for(is_locked, "the question after it has not come back", timeout=10)
        other.locked = well.hung = False
        wait_for(is_read, "it is read again", timeout=20)
        assert well.uuid not in inspector.health().locked
        # While that question is out, it is not asked again, and the guest may hang once more.
        well.hung = True
        wait_for(lambda: not is_read(), "it hangs")
        well.hung = False
        wait_for(is_read, "it is read once more", timeout=20)
        assert len(asked) == 1
    finally:
        over.set()
