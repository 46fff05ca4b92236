"""Tests of the scripted libvirt daemon, with the real client library on the other end.

What the daemon imitates: https://libvirt.org/kbase/internals/rpc.html
"""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.support import libvirtd, procedures, sample, xdr
from tests.support.libvirtd import Answer, Daemon, Garbage, HangUp, Late, Never, Reply, Then
from tests.support.oracle import stock_inspector
from tests.support.procedures import Disk, Domain, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UUID = "5c3a1c4e-0001-4000-8000-000000000001"
OTHER = "5c3a1c4e-0002-4000-8000-000000000002"
NOBODY = "5c3a1c4e-0003-4000-8000-000000000003"
MAX64 = 2**64 - 1
XML = """
<domain type='kvm'>
  <devices>
    <disk type='file'><source file='/disk'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <interface type='bridge'>
      <mac address='fa:16:3e:00:00:01'/><source bridge='br'/><target dev='tap1'/>
    </interface>
  </devices>
</domain>
"""
STATS: dict[str, xdr.TypedValue] = {
    "state.state": xdr.Int(1),
    "state.reason": xdr.Int(1),
    "cpu.time": MAX64,
    "balloon.current": 524288,
    "vcpu.current": xdr.UInt(2),
    "vcpu.maximum": xdr.UInt(4),
    "vcpu.0.time": 11,
    "vcpu.0.wait": 22,
    "vcpu.3.time": 33,
    "vcpu.3.wait": 44,
    "net.0.name": xdr.String("tap1"),
    "block.0.rd.reqs": 2**63 + 1,
    "perf.cpu_cycles": 7,
    "iothread.count": xdr.UInt(0),
    "memory.bandwidth.monitor.count": xdr.UInt(0),
    "dirtyrate.calc_status": xdr.Int(-1),
    "vm.other": 1,
}

libvirt.registerErrorHandler(lambda *_: None, None)


def running() -> Domain:
    return Domain(
        UUID,
        "instance-00000001",
        id=7,
        max_memory_kib=1048576,
        memory_kib=524288,
        vcpus=2,
        cpu_time=MAX64,
        xml=XML,
        interfaces={"tap1": (2**63 - 1, 2, -1, 4, 5, 6, 7, 8)},
        disks={
            "vda": Disk(
                stats=(1, 2, 3, 4, -1),
                flags={"rd_total_times": MAX64, "wr_total_times": 9},
                info=(MAX64, 2**63, 3),
            )
        },
        memory={
            libvirt.VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON: 524288,
            libvirt.VIR_DOMAIN_MEMORY_STAT_RSS: MAX64,
        },
        stats=dict(STATS),
        metadata={"http://openstack.org/xmlns/libvirt/nova/1.1": "<instance/>"},
    )


def shut_off() -> Domain:
    return Domain(OTHER, "instance-00000002", id=-1, state=5, reason=0, disks={"vda": Disk()})


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        daemon.add(running(), shut_off())
        yield daemon


@pytest.fixture
def connection(daemon: Daemon) -> libvirt.virConnect:
    return libvirt.openReadOnly(daemon.uri)


@pytest.fixture
def domain(connection: libvirt.virConnect) -> libvirt.virDomain:
    return connection.lookupByUUIDString(UUID)


def refusal(call: Callable[[], object]) -> tuple[int, int, str]:
    """The code, domain and message of the error that a call ends with."""
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    error = caught.value
    return error.get_error_code(), error.get_error_domain(), error.get_error_message()


# Calls at the same time on one connection are made by a client of our own: of two threads that
# share a connection, libvirt 9's library may leave the one's call unsent until the other's is
# answered.


@contextmanager
def raw(daemon: Daemon) -> Iterator[socket.socket]:
    """A client that is not libvirt."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(daemon.socket_path))
        yield client


def call_bytes(
    number: int, payload: bytes = b"", *, serial: int = 1, program: int = libvirtd.REMOTE_PROGRAM
) -> bytes:
    header = xdr.pack("IIIiiIi", 28 + len(payload), program, 1, number, 0, serial, 0)
    return header + payload


def serials_of_replies(client: socket.socket, count: int) -> list[int]:
    """Reads so many replies and tells which calls they answer."""
    serials = []
    with client.makefile("rb") as stream:
        for _ in range(count):
            length = xdr.Reader(stream.read(4)).uint32()
            header = xdr.Reader(stream.read(length - 4))
            serials.append([header.uint32() for _ in range(5)][4])
    return serials


def error_of(reply: bytes) -> tuple[int, int, str | None]:
    reader = xdr.Reader(reply)
    *_header, status = [reader.int32() for _ in range(7)]
    assert status == libvirtd.STATUS_ERROR
    return reader.int32(), reader.int32(), reader.optional()


def test_constants_are_libvirts() -> None:
    ours = {name: value for name, value in vars(procedures).items() if name.startswith("VIR_")}
    assert ours == {name: getattr(libvirt, name) for name in ours}
    stats = [name for name in vars(libvirt) if name.startswith("VIR_DOMAIN_STATS_")]
    assert max(getattr(libvirt, name) for name in stats) <= 1 << len(procedures.STATS_GROUPS) - 1


def test_open_and_close(daemon: Daemon) -> None:
    connection = libvirt.openReadOnly(daemon.uri)
    assert {"AUTH_LIST", "CONNECT_OPEN"} <= set(daemon.calls)
    assert (daemon.connections, daemon.open_connections) == (1, 1)
    connection.close()
    assert daemon.wait_until(lambda it: it.open_connections == 0)
    assert (daemon.calls["CONNECT_CLOSE"], daemon.connections) == (1, 1)


def test_what_the_host_is(connection: libvirt.virConnect) -> None:
    assert connection.isAlive()
    assert connection.getType() == "QEMU"
    assert connection.getHostname() == "compute.example"
    assert connection.getLibVersion() == 9_000_000
    assert connection.getVersion() == 7_002_000
    assert connection.getCapabilities().startswith("<capabilities>")
    assert connection.getInfo() == ["x86_64", 16384, 8, 2400, 1, 1, 8, 1]


def test_lookups(connection: libvirt.virConnect) -> None:
    for found in (
        connection.lookupByUUIDString(UUID),
        connection.lookupByName("instance-00000001"),
        connection.lookupByID(7),
    ):
        assert (found.UUIDString(), found.name(), found.ID()) == (UUID, "instance-00000001", 7)
    missing = "Domain not found: no domain with matching"
    for call, what in (
        (lambda: connection.lookupByUUIDString(NOBODY), f"uuid '{NOBODY}'"),
        (lambda: connection.lookupByName("nobody"), "name 'nobody'"),
        (lambda: connection.lookupByID(9), "id '9'"),
    ):
        assert refusal(call) == (42, 10, f"{missing} {what}")


def test_list_all_domains(connection: libvirt.virConnect) -> None:
    for flags, uuids in (
        (0, [UUID, OTHER]),
        (libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE, [UUID]),
        (libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE, [OTHER]),
        (libvirt.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, [OTHER]),
        (libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED, []),
    ):
        assert [it.UUIDString() for it in connection.listAllDomains(flags)] == uuids


def test_what_a_domain_is(connection: libvirt.virConnect, domain: libvirt.virDomain) -> None:
    assert domain.info() == [1, 1048576, 524288, 2, MAX64]
    assert domain.state() == [1, 1]
    assert domain.XMLDesc(0) == XML
    assert domain.controlInfo() == [0, 0, 0]
    element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    assert domain.metadata(element, "http://openstack.org/xmlns/libvirt/nova/1.1") == "<instance/>"
    assert refusal(lambda: domain.metadata(element, "urn:none"))[:2] == (80, 20)
    assert connection.lookupByUUIDString(OTHER).state() == [5, 0]


def test_device_statistics(domain: libvirt.virDomain) -> None:
    assert domain.interfaceStats("tap1") == (2**63 - 1, 2, -1, 4, 5, 6, 7, 8)
    assert domain.blockStats("vda") == (1, 2, 3, 4, -1)
    assert domain.blockStatsFlags("vda") == {"rd_total_times": MAX64, "wr_total_times": 9}
    assert domain.blockInfo("vda") == [MAX64, 2**63, 3]
    assert domain.memoryStats() == {"actual": 524288, "rss": MAX64}


def test_every_type_of_typed_parameter(daemon: Daemon, domain: libvirt.virDomain) -> None:
    daemon.domains[UUID].disks["vda"].flags = {
        "int": xdr.Int(-1),
        "uint": xdr.UInt(2**31 - 1),
        "llong": xdr.LLong(-(2**63)),
        "ullong": xdr.ULLong(MAX64),
        "plain": 2**63,
        "double": xdr.Double(0.5),
        "boolean": xdr.Boolean(True),
        "string": xdr.String("naïve"),
    }
    assert domain.blockStatsFlags("vda") == {
        "int": -1,
        "uint": 2**31 - 1,  # libvirt-python 9 makes a negative number of a larger one
        "llong": -(2**63),
        "ullong": MAX64,
        "plain": 2**63,
        "double": 0.5,
        "boolean": True,
        "string": "naïve",
    }


def test_unknown_devices(domain: libvirt.virDomain) -> None:
    for call in (domain.interfaceStats, domain.blockStats, domain.blockStatsFlags):
        assert refusal(lambda call=call: call("zz"))[:2] == (8, 10)  # type: ignore[misc]
    assert refusal(lambda: domain.blockInfo("zz"))[:2] == (8, 10)


def test_a_shut_off_domain(connection: libvirt.virConnect) -> None:
    domain = connection.lookupByUUIDString(OTHER)
    off = (55, 10, "Requested operation is not valid: domain is not running")
    assert domain.info()[0] == libvirt.VIR_DOMAIN_SHUTOFF
    assert domain.blockInfo("vda") == [0, 0, 0]
    assert refusal(domain.memoryStats) == off
    assert refusal(lambda: domain.blockStats("vda")) == off
    assert refusal(lambda: domain.blockStatsFlags("vda")) == off
    assert refusal(lambda: domain.interfaceStats("tap1")) == off


def test_a_domain_that_goes_away(daemon: Daemon, domain: libvirt.virDomain) -> None:
    del daemon.domains[UUID]
    name = f"no domain with matching uuid '{UUID}' (instance-00000001)"
    assert refusal(domain.info) == (42, 10, f"Domain not found: {name}")


def plain(stats: dict[str, xdr.TypedValue]) -> dict[str, object]:
    return {k: v.value if isinstance(v, xdr.Typed) else v for k, v in stats.items()}


SHUT_OFF = {"state.state": 5, "state.reason": 0}


def test_bulk_stats_of_all_domains(connection: libvirt.virConnect) -> None:
    records = {dom.UUIDString(): stats for dom, stats in connection.getAllDomainStats()}
    assert records == {UUID: plain(STATS), OTHER: SHUT_OFF}
    active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    assert [dom.name() for dom, _ in connection.getAllDomainStats(0, active)] == [
        "instance-00000001"
    ]


def test_bulk_stats_of_some_domains(
    daemon: Daemon, connection: libvirt.virConnect, domain: libvirt.virDomain
) -> None:
    other = connection.lookupByUUIDString(OTHER)
    records = connection.domainListGetStats([other, domain])
    assert [(dom.UUIDString(), stats) for dom, stats in records] == [
        (OTHER, SHUT_OFF),
        (UUID, plain(STATS)),
    ]
    del daemon.domains[UUID]
    records = connection.domainListGetStats([domain, other])
    assert [dom.UUIDString() for dom, _ in records] == [OTHER]
    del daemon.domains[OTHER]
    assert connection.domainListGetStats([domain, other]) == []


def test_bulk_stats_that_are_made_of_what_is_told_singly(daemon: Daemon) -> None:
    domain = sample.domain(uuid=UUID, bulk=True)
    domain.interfaces["tap1"] = (1, 2, 3, -1, 5, 6, 7, 8)
    daemon.domains = {UUID: domain}
    with closing(libvirt.openReadOnly(daemon.uri)) as connection:
        ((_, stats),) = connection.getAllDomainStats()
    assert stats["balloon.current"] == domain.memory[6]
    assert (stats["net.count"], stats["net.0.name"], stats["net.0.rx.bytes"]) == (1, "tap1", 1)
    assert "net.0.rx.drop" not in stats, "unknown"
    assert (stats["block.0.name"], stats["block.0.rd.reqs"]) == ("vda", 1)
    assert "block.0.errors" not in stats
    sizes = [stats[f"block.0.{part}"] for part in ("capacity", "allocation", "physical")]
    assert sizes == [1 << 30, 1, 1 << 20]


@pytest.mark.parametrize("group", procedures.STATS_GROUPS)
def test_the_groups_of_the_bulk_stats(
    connection: libvirt.virConnect, domain: libvirt.virDomain, group: str
) -> None:
    names = {"cpu": "CPU_TOTAL", "net": "INTERFACE"}
    mask = getattr(libvirt, f"VIR_DOMAIN_STATS_{names.get(group, group.upper())}", None)
    if mask is None:
        pytest.skip("this libvirt does not know the group")
    ((_, stats),) = connection.domainListGetStats([domain], mask)
    assert stats
    assert stats == {k: v for k, v in plain(STATS).items() if k.startswith(f"{group}.")}


def test_an_unknown_procedure(daemon: Daemon, domain: libvirt.virDomain) -> None:
    # The client library turns the daemon's VIR_ERR_RPC into "not supported".
    assert refusal(domain.isActive)[0] == libvirt.VIR_ERR_NO_SUPPORT
    assert daemon.calls["150"] == 1
    with raw(daemon) as client:
        client.sendall(call_bytes(150))
        assert error_of(client.recv(4096)) == (39, 7, "unknown procedure: 150")


@pytest.mark.parametrize(("message", "seen"), [("boom", "boom"), (None, "Unknown error")])
def test_error(daemon: Daemon, domain: libvirt.virDomain, message: str | None, seen: str) -> None:
    daemon.on("DOMAIN_GET_INFO", Error(38, 16, message))
    assert refusal(domain.info) == (38, 16, seen)
    assert domain.info()[0] == 1


def test_a_late_answer(daemon: Daemon, domain: libvirt.virDomain) -> None:
    daemon.on("DOMAIN_GET_INFO", Late(0.03), Late(0.0, Error(1, 10)))
    start = time.monotonic()
    assert domain.info()[0] == 1
    assert time.monotonic() - start >= 0.03
    assert refusal(domain.info)[:2] == (1, 10)


def test_a_late_answer_holds_up_no_other(daemon: Daemon) -> None:
    daemon.on("CONNECT_GET_TYPE", Late(0.05))
    with raw(daemon) as client:
        client.sendall(call_bytes(3, serial=1) + call_bytes(59, serial=2))
        assert serials_of_replies(client, 2) == [2, 1]


def test_latency_is_shared_by_calls_in_parallel(daemon: Daemon) -> None:
    daemon.latency["CONNECT_GET_TYPE"] = 0.05
    start = time.monotonic()
    with raw(daemon) as client:
        client.sendall(b"".join(call_bytes(3, serial=serial) for serial in range(5)))
        assert sorted(serials_of_replies(client, 5)) == [0, 1, 2, 3, 4]
    assert 0.05 <= time.monotonic() - start < 5 * 0.05


def test_never_lasts_until_the_daemon_stops(daemon: Daemon, domain: libvirt.virDomain) -> None:
    daemon.on("DOMAIN_GET_INFO", Never())
    with ThreadPoolExecutor() as pool:
        call = pool.submit(domain.info)
        assert daemon.wait_until(lambda it: it.calls["DOMAIN_GET_INFO"] == 1)
        assert not call.done()
        daemon.stop()
        assert refusal(lambda: call.result(5))[:2] == (libvirt.VIR_ERR_SYSTEM_ERROR, 7)


def test_never_holds_up_no_other(daemon: Daemon) -> None:
    daemon.on("CONNECT_GET_TYPE", Never())
    with raw(daemon) as client:
        client.sendall(call_bytes(3, serial=1) + call_bytes(3, serial=2))
        assert serials_of_replies(client, 1) == [2]


def test_only_so_many_calls_are_in_flight(daemon: Daemon) -> None:
    release = threading.Event()
    daemon.on("CONNECT_GET_TYPE", Then(lambda _: release.wait(5)), repeat=True)
    with raw(daemon) as client:
        client.sendall(b"".join(call_bytes(3, serial=serial) for serial in range(7)))
        assert daemon.wait_until(lambda it: it.calls["CONNECT_GET_TYPE"] == 5)
        assert not daemon.wait_until(lambda it: it.calls["CONNECT_GET_TYPE"] > 5, timeout=0.05)
        daemon.max_client_requests = 6
        assert daemon.wait_until(lambda it: it.calls["CONNECT_GET_TYPE"] == 6)
        release.set()
        assert sorted(serials_of_replies(client, 7)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_client_that_leaves_its_calls_behind(daemon: Daemon) -> None:
    daemon.on("CONNECT_GET_TYPE", Never(), repeat=True)
    with raw(daemon) as client:
        client.sendall(call_bytes(3) * 6)
        assert daemon.wait_until(lambda it: it.calls["CONNECT_GET_TYPE"] == 5)
        assert daemon.open_connections == 1
    assert daemon.wait_until(lambda it: it.open_connections == 0)


def test_hang_up(daemon: Daemon, connection: libvirt.virConnect, domain: libvirt.virDomain) -> None:
    daemon.on("DOMAIN_GET_INFO", HangUp())
    assert refusal(domain.info)[:2] == (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
    assert not connection.isAlive()
    assert daemon.wait_until(lambda it: it.open_connections == 0)
    again = libvirt.openReadOnly(daemon.uri)
    assert again.lookupByUUIDString(UUID).info()[0] == 1
    assert daemon.connections == 2


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\0\0\0\x40" + b"\1" * 60])
def test_garbage(
    daemon: Daemon, connection: libvirt.virConnect, domain: libvirt.virDomain, data: bytes
) -> None:
    daemon.on("DOMAIN_GET_INFO", Garbage(data))
    assert refusal(domain.info)[:2] == (libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC)
    assert not connection.isAlive()


def test_reply(daemon: Daemon, domain: libvirt.virDomain) -> None:
    too_many = xdr.typed_params({f"p{number}": number for number in range(17)})
    daemon.on(
        "DOMAIN_BLOCK_STATS_FLAGS",
        Reply(too_many + xdr.pack("i", 17)),
        Reply(b""),
        Reply(b"\0" * 8),
    )
    assert refusal(lambda: domain.blockStatsFlags("vda"))[:2] == (39, 7)
    assert refusal(lambda: domain.blockStatsFlags("vda"))[:2] == (39, 7)
    assert domain.blockStatsFlags("vda") == {}
    assert "rd_total_times" in domain.blockStatsFlags("vda")


def test_then(daemon: Daemon, domain: libvirt.virDomain) -> None:
    def fail(_: Daemon) -> None:
        raise LookupError("oops")

    daemon.on("DOMAIN_GET_INFO", Then(fail), Then(lambda it: it.domains.pop(UUID)))
    code, _, message = refusal(domain.info)
    assert (code, "oops" in message) == (libvirt.VIR_ERR_INTERNAL_ERROR, True)
    assert refusal(domain.info)[0] == libvirt.VIR_ERR_NO_DOMAIN


def test_then_stop(daemon: Daemon, domain: libvirt.virDomain) -> None:
    daemon.on("DOMAIN_GET_INFO", Then(lambda it: it.stop()))
    assert refusal(domain.info)[:2] == (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
    assert daemon.wait_until(lambda it: it.open_connections == 0)


def test_scripts_are_used_in_order(daemon: Daemon, domain: libvirt.virDomain) -> None:
    answers: list[Answer] = [Error(1, 1), Error(2, 2)]
    daemon.on("DOMAIN_GET_INFO", *answers)
    daemon.on("DOMAIN_GET_INFO", Error(3, 3), Error(4, 4), repeat=True)
    assert [refusal(domain.info)[0] for _ in range(6)] == [1, 2, 3, 4, 4, 4]
    daemon.off()
    assert domain.info()[0] == 1


def test_scripts_for_one_domain_or_device(
    daemon: Daemon, connection: libvirt.virConnect, domain: libvirt.virDomain
) -> None:
    daemon.domains[UUID].disks["vdb"] = Disk()
    other = connection.lookupByUUIDString(OTHER)
    daemon.on("DOMAIN_GET_INFO", Error(1, 1), uuid=OTHER, repeat=True)
    daemon.on("DOMAIN_BLOCK_STATS", Error(2, 2), uuid=UUID, device="vdb")
    daemon.on("DOMAIN_LOOKUP_BY_UUID", Error(3, 3), uuid=OTHER)
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Error(4, 4), uuid=OTHER)
    assert domain.info()[0] == 1
    assert refusal(other.info)[0] == 1
    assert domain.blockStats("vda") == (1, 2, 3, 4, -1)
    assert refusal(lambda: domain.blockStats("vdb"))[0] == 2
    assert connection.lookupByUUIDString(UUID)
    assert refusal(lambda: connection.lookupByUUIDString(OTHER))[0] == 3
    assert connection.domainListGetStats([domain])
    assert refusal(lambda: connection.domainListGetStats([domain, other]))[0] == 4
    with pytest.raises(ValueError, match="DOMAIN_GET_INFOS"):
        daemon.on("DOMAIN_GET_INFOS", Never())


def test_restart(tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    daemon = Daemon(path)
    daemon.add(running())
    with daemon:
        connection = libvirt.openReadOnly(daemon.uri)
        domain = connection.lookupByUUIDString(UUID)
        with pytest.raises(RuntimeError):
            daemon.start()
        daemon.stop()
        daemon.stop()
        assert not path.exists()
        assert not connection.isAlive() or refusal(domain.info)[:2] == (38, 7)
        assert refusal(lambda: libvirt.openReadOnly(daemon.uri))[:2] == (38, 7)
        daemon.start()
        assert libvirt.openReadOnly(daemon.uri).lookupByUUIDString(UUID).info()[0] == 1
        daemon.stop(keep_socket_file=True)
        assert path.exists()
        code, _, message = refusal(lambda: libvirt.openReadOnly(daemon.uri))
        assert (code, "Connection refused" in message) == (38, True)
        daemon.start()
        assert libvirt.openReadOnly(daemon.uri).isAlive()
    assert daemon.open_connections == 0


def test_stop_ends_every_thread(daemon: Daemon) -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "scripted-libvirtd"]

    daemon.on("CONNECT_GET_TYPE", Late(60), Never(), Late(60, HangUp()))
    with raw(daemon) as client:
        client.sendall(call_bytes(3) * 3)
        assert daemon.wait_until(lambda it: it.calls["CONNECT_GET_TYPE"] == 3)
        daemon.stop()
        for thread in ours():  # one that stop need not wait for has nothing left to do
            thread.join(1)
        assert ours() == []
        assert client.recv(1) == b""


def test_eight_clients(daemon: Daemon) -> None:
    def client(_: int) -> list[object]:
        domain = libvirt.openReadOnly(daemon.uri).lookupByUUIDString(UUID)
        return [domain.blockStats("vda") for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client, range(8)))
    assert answers == [[(1, 2, 3, 4, -1)] * 50] * 8
    assert daemon.calls["DOMAIN_BLOCK_STATS"] == 400
    assert daemon.connections == 8


def test_keepalive(daemon: Daemon) -> None:
    with raw(daemon) as client:
        client.sendall(xdr.pack("IIIiiIi", 28, libvirtd.KEEPALIVE_PROGRAM, 1, 1, 2, 0, 0))
        pong = xdr.pack("IIIiiIi", 28, libvirtd.KEEPALIVE_PROGRAM, 1, 2, 2, 0, 0)
        assert client.recv(4096) == pong


def test_calls_that_make_no_sense(daemon: Daemon) -> None:
    with raw(daemon) as client:
        client.sendall(call_bytes(16, b"\0\0"))
        assert error_of(client.recv(4096))[:2] == (39, 7)
        client.sendall(call_bytes(344, xdr.pack("I", 2**32 - 1)))
        assert error_of(client.recv(4096))[:2] == (39, 7)
        client.sendall(call_bytes(1, program=0x1234))
        assert error_of(client.recv(4096)) == (39, 7, "Cannot find program 4660 version 1")


def test_hostile_clients(daemon: Daemon, domain: libvirt.virDomain) -> None:
    noise = random.Random(1)
    for turn in range(60):
        junk = noise.randbytes(noise.randrange(200))
        number = noise.choice([1, 16, 24, 243, 265, 344, 2**31 - 1, -1])
        messages = [junk, call_bytes(number, junk), call_bytes(number, junk)[: turn % 28]]
        with raw(daemon) as client:
            client.sendall(messages[turn % 3])
    assert daemon.wait_until(lambda it: it.open_connections == 1)
    assert domain.info()[0] == 1


def test_ceilometers_inspector(daemon: Daemon) -> None:
    inspector = stock_inspector(daemon.uri)
    instance = SimpleNamespace(id=UUID, name="instance-00000001")
    (vnic,) = inspector.inspect_vnics(instance, None)
    (disk,) = inspector.inspect_disks(instance, None)
    (disk_info,) = inspector.inspect_disk_info(instance, None)
    whole = inspector.inspect_instance(instance, None)
    assert (vnic.name, vnic.rx_bytes, vnic.rx_errors) == ("tap1", 2**63 - 1, -1)
    assert (disk.device, disk.errors, disk.rd_total_times) == ("vda", -1, MAX64)
    assert (disk_info.capacity, disk_info.allocation) == (MAX64, 2**63)
    assert (whole.cpu_number, whole.cpu_time, whole.memory_actual) == (2, 110, 512)
