"""Connections that break, hang, lie, or never come about."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.libvirtd import Daemon, Garbage, HangUp, Never, Then
from tests.support.oracle import METHODS
from tests.support.procedures import (
    VIR_DOMAIN_SHUTOFF,
    VIR_ERR_AUTH_FAILED,
    VIR_ERR_INTERNAL_ERROR,
    VIR_ERR_SYSTEM_ERROR,
    VIR_FROM_QEMU,
    VIR_FROM_REMOTE,
    VIR_FROM_RPC,
    Error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATS = ["DOMAIN_LOOKUP_BY_UUID", "CONNECT_GET_ALL_DOMAIN_STATS"]
DISKS = ["DOMAIN_BLOCK_STATS", "DOMAIN_BLOCK_STATS_FLAGS"]
# The calls for each method where the bulk statistics have it all, as with QEMU, and where not.
BULK = {
    "inspect_instance": [*STATS, "DOMAIN_GET_XML_DESC"],
    "inspect_vnics": [*STATS, "DOMAIN_GET_XML_DESC"],
    "inspect_disks": [*STATS, "DOMAIN_GET_XML_DESC"],
    "inspect_disk_info": [*STATS, "DOMAIN_GET_XML_DESC", "DOMAIN_GET_BLOCK_INFO"],
}
SINGLY = {
    "inspect_instance": [*STATS, "DOMAIN_MEMORY_STATS"],
    "inspect_vnics": [*BULK["inspect_vnics"], "DOMAIN_INTERFACE_STATS"],
    "inspect_disks": [*BULK["inspect_disks"], *DISKS],
    "inspect_disk_info": BULK["inspect_disk_info"],
}
DOMAIN_CALLS = {*sum(SINGLY.values(), []), "DOMAIN_GET_INFO", "DOMAIN_GET_STATE"}  # noqa: RUF017
EACH_CALL = [(method, procedure) for method in METHODS for procedure in SINGLY[method]]


@pytest.fixture
def inspector(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> Iterator[virtmeter.LibvirtInspector]:
    """An inspector of which nothing is seen on stderr, whatever happens to it."""
    daemon.add(sample.domain(uuid=sample.UUID))
    yield virtmeter.LibvirtInspector(daemon.uri)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bulk", [False, True])
def test_the_sample(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str, bulk: bool
) -> None:
    daemon.domains[sample.UUID].bulk = bulk
    answers = sample.answers()[method]
    if bulk and method == "inspect_disk_info":  # which tells what the image occupies
        answers = [(*size[:4], size[3]) for size in answers]
    assert sample.read(inspector, method, sample.UUID) == answers
    expected = (BULK if bulk else SINGLY)[method]
    served = {name: number for name, number in daemon.calls.items() if name in DOMAIN_CALLS}
    assert served == dict.fromkeys(expected, 1), "each call is made once"


@pytest.mark.parametrize("method", METHODS)
def test_a_libvirtd_that_comes_up_later_is_simply_used(method: str) -> None:
    daemon = Daemon()
    daemon.add(sample.domain(uuid=sample.UUID))
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    for _ in range(3):
        with pytest.raises(virtmeter.ConnectionLost) as caught:
            sample.read(inspector, method, sample.UUID)
        assert caught.value.instance_id == sample.UUID
        assert (caught.value.error_code, caught.value.error_domain) == (38, VIR_FROM_RPC)
        assert "libvirtd" in str(caught.value)
    with daemon:
        assert sample.read_again(inspector, method, sample.UUID) == sample.answers()[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_restarted_libvirtd_goes_unnoticed(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str
) -> None:
    for restart in range(3):
        assert sample.read(inspector, method, sample.UUID) == sample.answers()[method]
        assert daemon.connections == restart + 1
        daemon.stop()
        daemon.start()


@pytest.mark.parametrize(("method", "procedure"), EACH_CALL)
def test_a_connection_that_breaks_in_any_call_is_replaced_once(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str, procedure: str
) -> None:
    daemon.on(procedure, HangUp())
    assert sample.read(inspector, method, sample.UUID) == sample.answers()[method]
    assert daemon.connections == 2
    assert daemon.calls[procedure] == 2


@pytest.mark.parametrize(("method", "procedure"), EACH_CALL)
def test_a_connection_that_breaks_again_is_lost(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str, procedure: str
) -> None:
    daemon.on(procedure, HangUp(), HangUp())
    with pytest.raises(virtmeter.ConnectionLost) as caught:
        sample.read(inspector, method, sample.UUID)
    assert caught.value.instance_id == sample.UUID
    assert caught.value.error_code in (VIR_ERR_SYSTEM_ERROR, VIR_ERR_INTERNAL_ERROR)
    assert daemon.calls[procedure] == 2, "one try and one more"
    assert sample.read_again(inspector, method, sample.UUID) == sample.answers()[method]


@pytest.mark.parametrize("domain", [VIR_FROM_RPC, VIR_FROM_REMOTE])
@pytest.mark.parametrize("code", [VIR_ERR_SYSTEM_ERROR, VIR_ERR_INTERNAL_ERROR])
def test_what_the_stock_inspector_takes_for_a_disconnection_is_one(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, code: int, domain: int
) -> None:
    daemon.on("DOMAIN_MEMORY_STATS", Error(code, domain))
    assert inspector.inspect_instance(sample.UUID) == sample.answers()["inspect_instance"][0]
    assert daemon.connections == 2


@pytest.mark.parametrize(("method", "procedure"), EACH_CALL)
@pytest.mark.parametrize("words", ["what went wrong", None])
def test_a_refusal_is_a_typed_exception_or_a_missing_device(
    inspector: virtmeter.LibvirtInspector,
    daemon: Daemon,
    caplog: pytest.LogCaptureFixture,
    method: str,
    procedure: str,
    words: str | None,
) -> None:
    daemon.on(procedure, Error(1, VIR_FROM_QEMU, words))
    device = {"DOMAIN_INTERFACE_STATS": "tap1"}.get(procedure, "vda")
    if procedure.startswith(("DOMAIN_INTERFACE", "DOMAIN_BLOCK", "DOMAIN_GET_BLOCK")):
        assert sample.read(inspector, method, sample.UUID) == []
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        for part in (device, sample.UUID, words or "error 1"):
            assert part in caplog.text
    else:
        not_found, no_data = virtmeter.InstanceNotFoundException, virtmeter.NoDataException
        expected = not_found if procedure == "DOMAIN_LOOKUP_BY_UUID" else no_data
        with pytest.raises(expected) as caught:
            sample.read(inspector, method, sample.UUID)
        assert type(caught.value) is expected
        assert (caught.value.error_code, caught.value.error_domain) == (1, VIR_FROM_QEMU)
        for part in ("error 1", sample.UUID, words or "error 1"):
            assert part in str(caught.value)
    assert daemon.connections == 1, "the connection was not to blame"


@pytest.mark.parametrize(("method", "procedure"), EACH_CALL)
def test_a_domain_that_vanishes_between_two_calls(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str, procedure: str
) -> None:
    daemon.on(procedure, Then(lambda daemon: daemon.domains.clear()))
    for _ in range(2):
        with pytest.raises(virtmeter.InstanceNotFoundException) as caught:
            sample.read(inspector, method, sample.UUID)
        assert caught.value.instance_id == sample.UUID


# The sizes of disks are told also then.
@pytest.mark.parametrize(
    ("method", "procedure"), [call for call in EACH_CALL if call[0] != "inspect_disk_info"]
)
def test_a_domain_that_is_shut_off_between_two_calls(
    inspector: virtmeter.LibvirtInspector,
    daemon: Daemon,
    caplog: pytest.LogCaptureFixture,
    method: str,
    procedure: str,
) -> None:
    def shut_off(daemon: Daemon) -> None:
        for domain in daemon.domains.values():
            domain.id, domain.state = -1, VIR_DOMAIN_SHUTOFF

    daemon.on(procedure, Then(shut_off))
    with pytest.raises(virtmeter.InstanceShutOffException) as caught:
        sample.read(inspector, method, sample.UUID)
    assert caught.value.instance_id == sample.UUID
    assert caplog.messages == []
    assert inspector.health().refused == {}


@pytest.mark.parametrize(
    ("method", "procedure"),
    [("usage", "CONNECT_GET_ALL_DOMAIN_STATS"), ("inspect_job", "DOMAIN_GET_JOB_STATS")],
)
def test_a_domain_that_is_shut_off_while_its_monitor_is_asked(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, method: str, procedure: str
) -> None:
    def dies(daemon: Daemon) -> None:
        for domain in daemon.domains.values():
            domain.id, domain.state = -1, VIR_DOMAIN_SHUTOFF
        message = "Unable to read from monitor: Connection reset by peer"
        raise Error(VIR_ERR_SYSTEM_ERROR, VIR_FROM_QEMU, message)

    daemon.on(procedure, Then(dies))
    with pytest.raises(virtmeter.InstanceShutOffException):
        getattr(inspector, method)(sample.UUID)


@pytest.mark.parametrize(("method", "procedure"), EACH_CALL)
@pytest.mark.parametrize("data", [b"\0\0\0\4", b"\xff" * 64, b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_garbage_is_survived(
    inspector: virtmeter.LibvirtInspector,
    daemon: Daemon,
    method: str,
    procedure: str,
    data: bytes,
) -> None:
    # Nothing more comes after the garbage, or a client would wait for the rest of it.
    daemon.on(procedure, Garbage(data))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(sample.read, inspector, method, sample.UUID)
        assert daemon.wait_until(lambda daemon: daemon.calls[procedure] >= 1)
        daemon.stop()
        error = asking.exception()
        if error is None:
            # Without what garbage told of, or over another connection before the daemon stopped.
            assert asking.result() in ([], sample.answers()[method])
        else:
            assert isinstance(error, virtmeter.InspectorException)
            assert error.instance_id == sample.UUID
    daemon.start()
    assert sample.read_again(inspector, method, sample.UUID) == sample.answers()[method]


def test_an_open_that_fails_is_told_to_all_who_wait(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    fail = threading.Event()
    refused = Error(VIR_ERR_AUTH_FAILED, VIR_FROM_RPC, "authentication failed")

    def refuse(_: Daemon) -> None:
        fail.wait()
        raise refused

    daemon.on("CONNECT_OPEN", Then(refuse), repeat=True)
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(inspector.list_instances) for _ in range(8)]
        assert daemon.wait_until(lambda daemon: daemon.calls["CONNECT_OPEN"] >= 1)
        fail.set()
    for future in asking:
        assert "authentication failed" in str(future.exception())


def test_a_refused_open_is_told_as_such(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    daemon.on("CONNECT_OPEN", Error(VIR_ERR_AUTH_FAILED, VIR_FROM_RPC, "authentication failed"))
    with pytest.raises(virtmeter.ConnectionLost, match="authentication failed") as caught:
        inspector.list_instances()
    assert caught.value.instance_id is None
    inspector.close()
    assert inspector.list_instances(), "who has closed it need not wait for the next try"


def test_other_threads_go_on_while_a_guest_does_not_answer(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    daemon.on("DOMAIN_MEMORY_STATS", Never())
    daemon.add(other := sample.domain(2))
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(inspector.inspect_instance, sample.UUID)
        assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_MEMORY_STATS"] == 1)
        for method in METHODS:
            assert sample.read(inspector, method, other.uuid) == sample.answers(2)[method]
        assert inspector.connected
        assert "connected" in repr(inspector)
        assert not stuck.done()
        daemon.stop()
        with pytest.raises(virtmeter.ConnectionLost):
            stuck.result()


def test_an_open_that_does_not_answer_holds_up_nothing_but_itself(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    daemon.on("CONNECT_OPEN", Never())
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(inspector.list_instances)
        assert daemon.wait_until(lambda daemon: daemon.calls["CONNECT_OPEN"] == 1)
        assert not inspector.connected
        assert "not connected" in repr(inspector)
        inspector.close()
        daemon.stop()
        with pytest.raises(virtmeter.ConnectionLost):
            stuck.result()


def test_an_open_that_a_close_overtook_is_not_kept(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    opening, closed = threading.Event(), threading.Event()

    def wait(_: Daemon) -> None:
        opening.set()
        closed.wait()

    daemon.on("CONNECT_OPEN", Then(wait))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(inspector.list_instances)
        opening.wait()
        inspector.close()
        closed.set()
        assert len(asking.result()) == 1
    assert not inspector.connected
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)


def test_close_does_not_wait_for_a_daemon_that_does_not_answer(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    inspector.list_instances()
    daemon.on("CONNECT_CLOSE", Never())
    inspector.close()
    assert not inspector.connected
    assert "did not confirm" in caplog.text


def test_nobody_waits_for_a_connection_that_was_closed_under_a_call(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    reading, closed = threading.Event(), threading.Event()

    def wait(_: Daemon) -> None:
        reading.set()
        closed.wait()

    daemon.on("DOMAIN_MEMORY_STATS", Then(wait))
    daemon.on("CONNECT_CLOSE", Never())
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(inspector.inspect_instance, sample.UUID)
        reading.wait()
        inspector.close()
        closed.set()
        assert asking.result() == sample.answers()["inspect_instance"][0]
    assert not inspector.connected


def test_close_hangs_up(inspector: virtmeter.LibvirtInspector, daemon: Daemon) -> None:
    inspector.list_instances()
    inspector.close()
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)


def test_the_last_reference_hangs_up(daemon: Daemon) -> None:
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    inspector.list_instances()
    del inspector
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)
    assert daemon.calls["CONNECT_CLOSE"] == 1


def test_a_libvirtd_without_the_driver_is_not_the_uris_fault(daemon: Daemon) -> None:
    daemon.on("CONNECT_OPEN", Error(5, 0, "no connection driver available"))
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    with pytest.raises(virtmeter.ConnectionLost, match="no connection driver"):
        inspector.list_instances()
    inspector.close()
    assert inspector.list_instances() == []


def test_a_list_without_bulk_statistics_asks_domain_by_domain(
    inspector: virtmeter.LibvirtInspector, daemon: Daemon
) -> None:
    daemon.add(sample.domain(2), sample.domain(3))
    expected = sorted(inspector.list_instances())
    assert len(expected) == 3
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Error(3, 0, "unsupported"), repeat=True)
    assert sorted(inspector.list_instances()) == expected
    # One that goes away between the list and its state is left out.
    gone = sample.domain(2).uuid
    daemon.on("DOMAIN_GET_INFO", Error(42, VIR_FROM_QEMU, "gone"), uuid=gone)
    assert gone not in [instance.id for instance in inspector.list_instances()]
    # One whose state is refused has none, and takes no other with it.
    bad = sample.domain(3)
    daemon.on("DOMAIN_GET_INFO", Error(1, VIR_FROM_QEMU, "refused"), uuid=bad.uuid)
    without_state = virtmeter.Instance(bad.uuid, bad.name, virtmeter.PowerState.NOSTATE)
    told = [without_state if each.id == bad.uuid else each for each in expected]
    assert sorted(inspector.list_instances()) == told
    daemon.on("DOMAIN_GET_INFO", Error(1, VIR_FROM_QEMU, "refused"), repeat=True)
    with pytest.raises(virtmeter.NoDataException, match="cannot list the instances"):
        inspector.list_instances()


def test_a_socket_file_without_a_daemon(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    daemon = Daemon(path)
    daemon.start()
    daemon.stop(keep_socket_file=True)
    with pytest.raises(virtmeter.ConnectionLost, match="refused"):
        virtmeter.LibvirtInspector(daemon.uri).list_instances()
