"""What calls wait for in the scripted daemon, and in a real one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support import sample
from tests.support.procedures import BULK, KNOWN_WITHOUT_JOB, NOWAIT, VIR_ERR_OPERATION_TIMEOUT
from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain
    from tests.support.qemu import Libvirtd

libvirt.registerErrorHandler(lambda *_: None, None)
QEMU_GROUPS = libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_BLOCK


@pytest.fixture
def domain(daemon: Daemon) -> Domain:
    daemon.add(sample.domain(1, bulk=True), sample.domain(2, bulk=True))
    return next(iter(daemon.domains.values()))


class Clients:
    """Each call comes from a client of its own, and may take its time."""

    def __init__(self, daemon: Daemon, pool: ThreadPoolExecutor) -> None:
        self._daemon = daemon
        self._pool = pool

    def ask(self, question: Callable[[libvirt.virConnect], Any]) -> Future[Any]:
        connection = libvirt.openReadOnly(self._daemon.uri)
        return self._pool.submit(question, connection)

    def about(self, domain: Domain, question: Callable[[libvirt.virDomain], Any]) -> Future[Any]:
        """Ask about a domain, which needs no look-up for that."""
        connection = libvirt.openReadOnly(self._daemon.uri)
        found = connection.lookupByUUIDString(domain.uuid)
        return self._pool.submit(question, found)


@pytest.fixture
def clients(daemon: Daemon) -> Iterator[Clients]:
    with ThreadPoolExecutor(50) as pool:
        yield Clients(daemon, pool)
        daemon.stop()  # no call of theirs waits any more


def bulk(domain: libvirt.virDomain, groups: int = 0, flags: int = 0) -> dict[str, Any]:
    [(_, stats)] = domain.connect().domainListGetStats([domain], groups, flags)
    return dict(stats)


def waits(daemon: Daemon, procedure: str, asked: Future[Any], before: int) -> None:
    """A call has arrived, and is not answered."""
    assert daemon.wait_until(lambda daemon: daemon.calls[procedure] > before)
    threading.Event().wait(0.1)
    assert not asked.done()


@pytest.mark.parametrize("job", ["held", "async"])
def test_who_does_not_wait_for_the_job_gets_what_is_known_without(
    daemon: Daemon, domain: Domain, clients: Clients, job: Any
) -> None:
    everything = clients.about(domain, bulk).result()
    domain.job = job
    told = clients.about(domain, lambda it: bulk(it, 0, NOWAIT)).result()
    assert told == {
        name: value for name, value in everything.items() if KNOWN_WITHOUT_JOB.fullmatch(name)
    }
    assert {"state.state", "vcpu.1.time", "balloon.current", "net.0.rx.bytes"} <= told.keys()
    assert "block.0.name" in told
    assert "block.0.rd.bytes" not in told
    quick = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE
    assert clients.about(domain, lambda it: bulk(it, quick)).result()["net.0.rx.bytes"] == 1
    control = clients.about(domain, lambda it: it.controlInfo()).result()
    assert control[0] == (libvirt.VIR_DOMAIN_CONTROL_OCCUPIED if job == "held" else 0)
    waiting = clients.about(domain, bulk)
    waits(daemon, BULK, waiting, 3)
    memory = clients.about(domain, lambda it: it.memoryStats())
    waits(daemon, "DOMAIN_MEMORY_STATS", memory, 0)
    assert domain.most_asking == 2
    domain.job = None
    assert waiting.result() == everything
    assert memory.result()["rss"] == 300 * 1024
    assert domain.asking == 0


def test_who_waits_for_the_job_in_vain(daemon: Daemon, domain: Domain, clients: Clients) -> None:
    daemon.waits.job_timeout = 0.2
    domain.job = "async"
    refused = clients.about(domain, lambda it: it.blockInfo("vda")).exception()
    assert isinstance(refused, libvirt.libvirtError)
    assert refused.get_error_code() == VIR_ERR_OPERATION_TIMEOUT
    # A bulk call goes on without.
    assert "balloon.rss" not in clients.about(domain, bulk).result()


def test_a_guest_that_hangs(daemon: Daemon, domain: Domain, clients: Clients) -> None:
    domain.hung = True
    control = clients.about(domain, lambda it: it.controlInfo()).result()
    assert control[0] == 0, "nobody has asked it"
    waiting = clients.about(domain, lambda it: bulk(it, 0, NOWAIT))
    waits(daemon, BULK, waiting, 0)
    assert clients.about(domain, lambda it: it.controlInfo()).result()[0] == 2
    assert "balloon.rss" not in clients.about(domain, lambda it: bulk(it, 0, NOWAIT)).result()
    everybody = clients.ask(lambda it: it.getAllDomainStats(QEMU_GROUPS))
    waits(daemon, BULK, everybody, 2)
    assert len(clients.ask(lambda it: it.getAllDomainStats(1)).result()) == 2
    domain.hung = False
    assert "balloon.rss" in waiting.result()
    assert len(everybody.result()) == 2
    wait_for(lambda: domain.asking == 0, "nobody asks any more")
    assert domain.most_asking == 2


def test_a_domain_whose_lock_is_held(daemon: Daemon, clients: Clients) -> None:
    locked, other = sample.domain(1), sample.domain(2)
    daemon.add(locked, other)
    found = {
        it.uuid: libvirt.openReadOnly(daemon.uri).lookupByUUIDString(it.uuid)
        for it in (locked, other)
    }
    locked.locked = True
    waiting = [
        clients.ask(question)
        for question in (
            lambda it: len(it.listAllDomains()),
            lambda it: len(it.getAllDomainStats(1)),
            lambda it: it.lookupByName(locked.name).name(),
            lambda it: it.lookupByUUIDString(locked.uuid).name(),
            lambda _: found[locked.uuid].state(),
        )
    ]
    assert clients.about(other, lambda it: it.state()).result() == [1, 1]
    assert clients.ask(lambda it: it.lookupByName(other.name).name()).result() == other.name
    assert bulk(found[other.uuid], 1)["state.state"] == 1
    assert clients.ask(lambda it: it.getInfo()[2]).result() == 8
    threading.Event().wait(0.1)
    assert not any(asked.done() for asked in waiting)
    locked.locked = False
    assert [it.result() for it in waiting] == [2, 2, locked.name, locked.name, [1, 1]]


def test_when_all_ordinary_workers_are_gone(
    daemon: Daemon, domain: Domain, clients: Clients
) -> None:
    other = list(daemon.domains.values())[1]
    daemon.waits.workers, daemon.waits.priority_workers = 3, 1
    domain.hung = True
    stuck = [clients.about(domain, lambda it: it.memoryStats()) for _ in range(3)]
    wait_for(lambda: domain.asking == 3, "three workers are gone")
    queued = clients.about(other, lambda it: it.info()[0])
    for question in (libvirt.virDomain.state, libvirt.virDomain.controlInfo):
        assert clients.about(domain, question).result()
    assert clients.about(domain, lambda it: it.interfaceStats("tap1")).result()[0] == 1
    assert clients.ask(lambda it: len(it.listAllDomains())).result() == 2
    waits(daemon, "DOMAIN_GET_INFO", queued, 0)
    domain.hung = False
    assert queued.result() == 1
    assert all(it.result() for it in stuck)


def test_a_daemon_stops_with_all_that_wait(daemon: Daemon) -> None:
    domains = [sample.domain(number) for number in range(1, 5)]
    daemon.add(*domains)
    locked, hung, held, well = domains
    daemon.waits.workers = 3
    found = [libvirt.openReadOnly(daemon.uri).lookupByUUIDString(it.uuid) for it in domains]
    locked.locked, hung.hung, held.job = True, True, "held"
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(it.memoryStats) for it in found[:3]]
        wait_for(lambda: hung.asking == held.asking == 1, "they wait")
        queued = pool.submit(found[3].info)
        waits(daemon, "DOMAIN_GET_INFO", queued, 0)
        daemon.stop()
    assert all(isinstance(it.exception(30), libvirt.libvirtError) for it in (*waiting, queued))
    assert well.asking == 0


def test_the_real_one_knows_the_same_without_the_job(rig: Libvirtd) -> None:
    guest = rig.guests["disks"]
    with closing(rig.connect()) as one, closing(rig.connect()) as another:
        first, second = guest.domain(one), guest.domain(another)
        everything = bulk(first, 0, NOWAIT)
        assert "block.0.rd.bytes" in everything
        with guest.sigstopped(), ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(first.memoryStats)
            try:
                wait_for(lambda: second.controlInfo()[0] == 2, "the job is taken")
                told = bulk(second, 0, NOWAIT)
            finally:
                guest.sigcont()
            assert stuck.result()
    expected = {name for name in everything if KNOWN_WITHOUT_JOB.fullmatch(name)}
    assert set(told) == expected
