"""Domains that are busy: migrated to here, saved, dumped, started. They do not hang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.cli.test_doctor import report
from tests.support import cli, xdr
from tests.support.libvirtd import Late, Then
from tests.support.oracle import METHODS
from tests.support.polling import Answer, Answers, ask, cycle
from tests.support.procedures import (
    BULK,
    VIR_DOMAIN_PAUSED,
    VIR_DOMAIN_PAUSED_DUMP,
    VIR_DOMAIN_PAUSED_MIGRATION,
    VIR_DOMAIN_PAUSED_SAVE,
    VIR_DOMAIN_PAUSED_SNAPSHOT,
    VIR_DOMAIN_PAUSED_STARTING_UP,
    VIR_DOMAIN_RUNNING,
    VIR_ERR_OPERATION_UNSUPPORTED,
    VIR_FROM_QEMU,
    Domain,
    Error,
)
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Daemon
    from tests.support.xdr import TypedValue

# The reasons, and a word of what is said of them.
REASONS = {
    VIR_DOMAIN_PAUSED_MIGRATION: "migration",
    VIR_DOMAIN_PAUSED_SAVE: "save",
    VIR_DOMAIN_PAUSED_DUMP: "dump",
    VIR_DOMAIN_PAUSED_SNAPSHOT: "snapshot",
    VIR_DOMAIN_PAUSED_STARTING_UP: "start",
}
NEED_JOB = ("inspect_disks", "inspect_disk_info")
OF_QEMU = ("memory_usage", "memory_resident", "memory_swap_in", "memory_swap_out")


@pytest.fixture
def inspector(daemon: Daemon) -> Iterator[virtmeter.LibvirtInspector]:
    # Nothing here is to take as long as that.
    with virtmeter.LibvirtInspector(daemon.uri, timeout=10) as inspector:
        yield inspector


def make_busy(domain: Domain, reason: int, job: Any = "async") -> None:
    domain.state, domain.reason, domain.job = VIR_DOMAIN_PAUSED, reason, job


def make_well(domain: Domain) -> None:
    domain.state, domain.reason, domain.job = VIR_DOMAIN_RUNNING, 1, None


def reasons(inspector: virtmeter.LibvirtInspector) -> dict[str, str]:
    """Return why which instances are busy."""
    return {uuid: reason for uuid, (_, reason) in inspector.health().busy.items()}


def stats_of(answer: Answer) -> virtmeter.InstanceStats:
    assert isinstance(answer, list), answer
    [stats] = answer
    assert isinstance(stats, virtmeter.InstanceStats)
    return stats


def assert_busy(answers: Answers, before: Answers, domain: Domain, word: str) -> None:
    """All is told that libvirt knows without the job, and why there is no more."""
    stats, then = (stats_of(of["inspect_instance", domain.uuid]) for of in (answers, before))
    assert stats.power_state == VIR_DOMAIN_PAUSED
    assert (stats.cpu_number, stats.cpu_time) == (then.cpu_number, then.cpu_time)
    assert [getattr(stats, name) for name in OF_QEMU] == [None] * len(OF_QEMU)
    assert answers["inspect_vnics", domain.uuid] == before["inspect_vnics", domain.uuid]
    for method in NEED_JOB:
        refused = answers[method, domain.uuid]
        assert isinstance(refused, virtmeter.InstanceBusyException), (method, refused)
        assert " is busy: " in str(refused)
        assert word in str(refused)
        assert refused.instance_id == domain.uuid


def assert_quiet(inspector: virtmeter.LibvirtInspector, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has waited, and nobody is told that something were wrong."""
    health = inspector.health()
    assert (health.hung, health.timeouts, health.stuck, health.outage) == ({}, 0, 0, None)
    assert caplog.messages == []


@pytest.mark.parametrize("job", ["async", "held"])
@pytest.mark.parametrize("reason", REASONS)
def test_a_domain_that_is_busy_is_read_without_waiting(
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
    reason: int,
    job: str,
) -> None:
    busy, *others = domains
    uuids = [domain.uuid for domain in domains]
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    busy.most_asking = 0
    make_busy(busy, reason, job)
    # The first of them may still hand out what was read ahead.
    cycle(inspector, uuids)
    for _ in range(3):
        answers = cycle(inspector, uuids)
        assert_busy(answers, before, busy, REASONS[reason])
        for domain in others:
            for method in METHODS:
                assert answers[method, domain.uuid] == before[method, domain.uuid]
        assert set(reasons(inspector)) == {busy.uuid}
        assert REASONS[reason] in reasons(inspector)[busy.uuid]
    assert busy.most_asking == 0, "no call has waited for its job"
    assert_quiet(inspector, caplog)
    make_well(busy)
    wait_for(lambda: cycle(inspector, uuids) == before, "all is as before")
    assert reasons(inspector) == {}
    assert_quiet(inspector, caplog)


def test_one_that_is_busy_before_anything_is_known_of_it(
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    busy = domains[2]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    refused = ask(inspector, "inspect_disks", busy.uuid)
    assert isinstance(refused, virtmeter.InstanceBusyException)
    assert "is busy: paused for migration" in str(refused)
    assert isinstance(refused, virtmeter.NoDataException)
    assert not isinstance(refused, (virtmeter.InspectionTimeout, virtmeter.ConnectionLost))
    stats = stats_of(ask(inspector, "inspect_instance", busy.uuid))
    assert stats.power_state == VIR_DOMAIN_PAUSED
    assert busy.most_asking == 0
    assert_quiet(inspector, caplog)


def test_a_migration_to_here_that_holds_no_job_just_now(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    """Its progress is known to the other host; libvirt refuses the question about it."""
    busy = domains[0]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION, None)
    assert inspector.inspect_job(busy.uuid) is None
    message = "Operation not supported: migration statistics are available only on the source host"
    refused = Error(VIR_ERR_OPERATION_UNSUPPORTED, VIR_FROM_QEMU, message)
    daemon.on("DOMAIN_GET_JOB_STATS", refused, repeat=True)
    with pytest.raises(virtmeter.InstanceBusyException, match="busy: paused for migration"):
        inspector.inspect_job(busy.uuid)
    make_well(busy)
    with pytest.raises(virtmeter.NoDataException, match="only on the source host") as caught:
        inspector.inspect_job(busy.uuid)
    assert not isinstance(caught.value, virtmeter.InstanceBusyException)


IO_THREADS_AND_DIRTY_RATE: dict[str, TypedValue] = {
    "iothread.count": xdr.UInt(1),
    "iothread.7.poll-max-ns": 32768,
    "dirtyrate.calc_status": xdr.Int(2),
    "dirtyrate.megabytes_per_second": xdr.LLong(5),
}


def test_what_is_left_out_while_another_call_has_the_job_is_waited_for(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    """There is no sign of I/O threads or of a dirty rate in a bulk reading that lacks them."""
    polled = domains[0]
    polled.stats.update(IO_THREADS_AND_DIRTY_RATE)

    def give_back(_: Daemon) -> None:
        polled.job = None

    polled.job = "held"
    daemon.on(BULK, Late(0), Late(0.1, Then(give_back)), uuid=polled.uuid)
    [thread] = inspector.inspect_io_threads(polled.uuid)
    assert (thread.number, thread.poll_max) == (7, 32768)
    polled.job = "held"
    daemon.on(BULK, Late(0), Late(0.1, Then(give_back)), uuid=polled.uuid)
    rate = inspector.inspect_dirty_rate(polled.uuid)
    assert rate is not None
    assert rate.mebibytes_per_second == 5


@pytest.mark.parametrize("method", ["inspect_io_threads", "inspect_dirty_rate"])
def test_what_is_left_out_at_last_is_not_known(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector, method: str
) -> None:
    polled = domains[0]
    polled.stats.update(IO_THREADS_AND_DIRTY_RATE)
    polled.job, daemon.waits.job_timeout = "held", 0.1
    with pytest.raises(virtmeter.InspectionTimeout):
        getattr(inspector, method)(polled.uuid)
    make_busy(polled, VIR_DOMAIN_PAUSED_MIGRATION)
    with pytest.raises(virtmeter.InstanceBusyException):
        getattr(inspector, method)(polled.uuid)
    make_well(polled)
    assert getattr(inspector, method)(polled.uuid)


def test_the_health_names_it_as_one_that_hangs(
    domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    busy = domains[0]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    [listed] = [each for each in inspector.list_instances() if each.id == busy.uuid]
    with pytest.raises(virtmeter.InstanceBusyException):
        list(inspector.inspect_disks(listed))
    assert inspector.health().busy == {busy.uuid: (busy.name, "paused for migration")}


def test_one_that_has_gone_away_is_not_busy(
    daemon: Daemon, domains: list[Domain], inspector: virtmeter.LibvirtInspector
) -> None:
    busy = domains[0]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    with pytest.raises(virtmeter.InstanceBusyException):
        list(inspector.inspect_disks(busy.uuid))
    assert list(inspector.health().busy) == [busy.uuid]
    del daemon.domains[busy.uuid]
    with pytest.raises(virtmeter.InstanceNotFoundException):
        list(inspector.inspect_disks(busy.uuid))
    assert inspector.health().busy == {}


@pytest.mark.parametrize("reason", REASONS)
def test_one_whose_job_is_free_is_read_whole(
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
    reason: int,
) -> None:
    """A save, a dump and a snapshot let others ask QEMU; and who was paused when it was migrated
    or restored is said to be paused for a migration until it runs. (So it is with libvirt 9.0.)
    """
    uuids = [domain.uuid for domain in domains]
    cycle(inspector, uuids)
    before = cycle(inspector, uuids)
    make_busy(domains[1], reason, None)
    inspector.close()  # nothing that was read before
    for _ in range(2):
        answers = cycle(inspector, uuids)
        stats = stats_of(answers["inspect_instance", uuids[1]])
        assert stats.power_state == VIR_DOMAIN_PAUSED
        then = stats_of(before["inspect_instance", uuids[1]])
        assert stats == then._replace(power_state=stats.power_state)
        for method in (*NEED_JOB, "inspect_vnics"):
            assert answers[method, uuids[1]] == before[method, uuids[1]]
    if reason == VIR_DOMAIN_PAUSED_MIGRATION:
        assert reasons(inspector) == {}
    assert_quiet(inspector, caplog)


def test_a_job_that_is_held_in_a_domain_that_runs_is_no_reason(
    daemon: Daemon, domains: list[Domain]
) -> None:
    """Nobody knows for how long: it is treated as a guest that does not answer."""
    silent, *others = domains
    with virtmeter.LibvirtInspector(daemon.uri, timeout=0.5) as inspector:
        uuids = [domain.uuid for domain in domains]
        cycle(inspector, uuids)
        before = cycle(inspector, uuids)
        silent.job = "held"
        cycle(inspector, uuids)
        answers = cycle(inspector, uuids)
        assert reasons(inspector) == {}
        assert set(inspector.health().hung) == {silent.uuid}
        for method in NEED_JOB:
            assert isinstance(answers[method, silent.uuid], virtmeter.InspectionTimeout)
        for domain in others:
            assert answers["inspect_disks", domain.uuid] == before["inspect_disks", domain.uuid]
        assert silent.most_asking == 1


def test_usage_tells_the_cpu_and_the_nics(
    domains: list[Domain],
    inspector: virtmeter.LibvirtInspector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    busy = domains[3]
    for _ in range(2):
        inspector.usage_all()
    busy.most_asking = 0
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    for _ in range(3):
        usages = {usage.id: usage for usage in inspector.usage_all()}
        assert set(usages) == {domain.uuid for domain in domains}
        usage = usages[busy.uuid]
        assert usage.network_read_kib == 0.0
        assert usage.cpu_utilization is not None
        assert (usage.memory_used, usage.disk_read_kib) == (None, None)
        assert all(usages[each.uuid].disk_read_kib == 0.0 for each in domains if each is not busy)
    assert inspector.usage(busy.uuid).network_read_kib == 0.0
    assert busy.most_asking == 0
    assert_quiet(inspector, caplog)


def test_the_exporter_says_busy_and_that_it_answers(daemon: Daemon, domains: list[Domain]) -> None:
    busy, other = domains[:2]
    with Exporter(daemon.uri) as exporter:
        exporter.scrape()
        busy.most_asking = 0
        make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
        exporter.scrape()
        for _ in range(2):
            samples = exporter.scrape(timeout=20)
            assert samples("virtmeter_up") == 1
            assert samples("virtmeter_scrape_complete") == 1
            assert samples("virtmeter_domain_answering", uuid=busy.uuid) == 1
            assert samples("virtmeter_domain_state", uuid=busy.uuid) == VIR_DOMAIN_PAUSED
            received = "virtmeter_domain_nic_receive_bytes_total"
            assert samples(received, uuid=busy.uuid, nic="tap1") == 1
            read = "virtmeter_domain_disk_read_bytes_total"
            assert samples(read, uuid=busy.uuid, disk="vda") is None
            assert samples(read, uuid=other.uuid, disk="vda") == 2
            told = {
                dict(labels)["uuid"]
                for (name, labels), value in samples.values.items()
                if "busy" in name and "uuid" in dict(labels) and value == 1
            }
            assert told == {busy.uuid}
        assert busy.most_asking == 0
    assert "hangs" not in exporter.said


def test_the_doctor_finds_no_problem_in_it(daemon: Daemon, domains: list[Domain]) -> None:
    busy = domains[0]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    found = report("--uri", daemon.uri, "--timeout", "10")
    assert found.has("ok", "no VM hangs")
    assert "problem" not in found.levels()
    assert any(
        found.has(level, busy.name, "busy", "paused for migration") for level in ("ok", "warning")
    )
    assert busy.most_asking == 0


def test_watch_shows_it_as_busy(daemon: Daemon, domains: list[Domain]) -> None:
    busy, other = domains[:2]
    make_busy(busy, VIR_DOMAIN_PAUSED_MIGRATION)
    options = ("--interval", "0.1", "--count", "2", "--timeout", "10")
    done = cli.run("watch", "--uri", daemon.uri, *options, busy.name, other.name)
    assert (done.returncode, done.stderr) == (0, "")
    states = [line.split()[1] for line in done.stdout.splitlines()[1:]]
    assert states == ["busy", "running"] * 2
    assert busy.most_asking == 0
