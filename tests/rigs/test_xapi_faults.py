"""What the simulated pool of XenServer does wrong on demand, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
import xmlrpc.client
from contextlib import closing
from http.client import BadStatusLine, IncompleteRead
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest
import XenAPI

from tests.support.xapi import SETS, Pool, synthetic
from tests.support.xapi.client import Client
from tests.support.xapi.recording import parse, values
from tests.support.xapi.records import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(which("openssl") is None, reason="there is no openssl")


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(hosts=2) as pool:
        yield pool


def test_both_shapes_of_errors_and_the_redirect_that_can_be_pinned(pool: Pool) -> None:
    client = Client(pool)
    master, member = pool.hosts
    call = {"id": 7, "method": "VM.get_all", "params": ["OpaqueRef:none"]}
    _, old = client.post(master, "/jsonrpc", json.dumps(call))
    assert json.loads(old)["result"] == {
        "Status": "Failure",
        "ErrorDescription": ["SESSION_INVALID", "OpaqueRef:none"],
    }
    _, new = client.post(master, "/jsonrpc", json.dumps({**call, "jsonrpc": "2.0"}))
    assert json.loads(new)["error"] == {
        "code": 1,
        "message": "SESSION_INVALID",
        "data": ["OpaqueRef:none"],
    }
    asks = {"x_xenapi_request_host_certificate_thumbprint": "sha-256:master"}
    headers, body = client.post(member, "/jsonrpc", json.dumps({**call, "jsonrpc": "2.0"}), **asks)
    assert json.loads(body)["error"]["message"] == "HOST_IS_SLAVE"
    assert json.loads(body)["error"]["data"] == [master.address]
    assert headers["x-xenapi-response-host-certificate-thumbprint"] == client.pin(master)
    assert client.pin(member) != client.pin(master) == master.certificate.sha256
    pem = client.call("host.get_server_certificate", member.ref)
    assert pem == member.certificate.pem

    pool.appoint(1)
    with pytest.raises(ApiError, match="HOST_IS_SLAVE"):
        client.call("VM.get_all", host=master)
    assert client.call("VM.get_all", host=member)
    assert client.call("pool.get_all_records").popitem()[1]["master"] == member.ref


def test_sessions_end_and_are_too_many_and_may_not_do_all(pool: Pool) -> None:
    client = Client(pool)
    assert client.get("/rrd_updates", 1, start=-5)[0].status == 200
    # The cookie counts, and not what stands in the query.
    right, client.session = client.session, "OpaqueRef:wrong"
    assert client.get("/rrd_updates", start=-5, session_id=right)[0].status == 401
    client.session = right
    pool.sessions.most = 1
    other = Client(pool)
    assert client.get("/rrd_updates", start=-5)[0].status == 401
    with pytest.raises(ApiError, match="SESSION_INVALID"):
        client.call("VM.get_all")
    assert other.get("/rrd_updates", start=-5)[0].status == 200
    assert other.get("/rrd_updates")[0].status == 400
    for method in ("VM.record_data_source", "VM.start", "task.create"):
        with pytest.raises(ApiError, match="RBAC_PERMISSION_DENIED"):
            other.call(method, pool.vm("A").ref)
    pool.sessions.expire()
    assert other.get("/rrd_updates", start=-5)[0].status == 401
    assert Client(pool, "nobody").get("/rrd_updates", start=-5)[0].status == 403
    pool.sessions.refusal = ("HOST_STILL_BOOTING",)
    with pytest.raises(ApiError, match="HOST_STILL_BOOTING"):
        Client(pool)
    assert pool.sessions.logins == pool.count("session.login_with_password") == 4


def test_event_from_waits_and_loses_events_on_demand(pool: Pool) -> None:
    client = Client(pool)
    _, token = client.events()
    changing = threading.Timer(0.2, pool.vm("A").pause)
    changing.start()
    events, token = client.events(token, "VM", timeout=60)
    changing.join()
    assert [event["snapshot"]["power_state"] for event in events] == ["Paused"]
    assert client.events(token, "VM") == ([], token)
    assert client.events(token, "VM", timeout=0.3) == ([], token)
    pool.vm("A").resume()
    assert client.events(token, "VIF")[0] == []
    pool.hosts[0].fail(method="event.from", error=("INTERNAL_ERROR", "Db_lock"), times=1)
    with pytest.raises(ApiError, match="INTERNAL_ERROR"):
        client.events(token, "VM")
    assert client.events(token, "VM")[0]
    pool.database.lose_events()
    with pytest.raises(ApiError, match="EVENTS_LOST"):
        client.events(token, "VM")
    answer = client.call("event.from", ["VM", "host"], "", 0)
    assert answer["valid_ref_counts"] == {"vm": len(pool.database.tables["VM"]), "host": 2}


def test_what_releases_make_of_odd_questions() -> None:
    for data, known, status in (("xapi-24.19_drift", "all", 200), (SETS[2], "all", 500)):
        with Pool(data) as pool:
            client = Client(pool)
            assert client.get("/rrd_updates", start=-5, vm_uuid=known)[0].status == status
            assert client.get("/rrd_updates", start=-5, vm_uuid="no such VM")[0].status == 500
            assert client.get("/rrd_updates", start=-5, host="true", cf="MAX")[0].status == 500
            odd = client.get("/rrd_updates", accept="*", start=-5)[0].status
            assert odd == (500 if pool.release < (25, 7, 0) else 200)
            pool.hosts[0].rrdd = False
            assert client.get("/rrd_updates", start=-5)[0].status == 404
    with Pool(SETS[2], release="25.6.0") as high, Pool(SETS[2]) as right:
        rates = []
        for pool in (high, right):
            pool.now += 100
            told = values(parse(Client(pool).get("/rrd_updates", start=-5)[1]))
            rates.append(
                sum(float(value) for (entry, _), value in told.items() if "iops_read" in entry)
            )
        assert rates[0] == pytest.approx(5 * rates[1])
        body = Client(high).get("/vm_rrd", uuid=high.vm("A").uuid)[1]
        assert re.search(r"<lastupdate>\d+\.\d+</lastupdate>", body)


def test_a_host_whose_clock_is_fast(pool: Pool) -> None:
    client = Client(pool)
    pool.now += 100
    right = parse(client.get("/rrd_updates", start=int(pool.now) - 30)[1])
    pool.hosts[0].clock = 3600
    fast = parse(client.get("/rrd_updates", start=int(pool.now) + 3570)[1])
    assert fast.meta["end"] == right.meta["end"] + 3600
    assert {(e, t + 3600): v for (e, t), v in values(right).items()} == values(fast)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ({"hang": "head"}, TimeoutError),
        ({"hang": "body"}, TimeoutError),
        ({"cut": 100}, (IncompleteRead, ssl.SSLError)),
        ({"cut": 100, "reset": True}, (ConnectionResetError, IncompleteRead)),
        ({"reset": True}, ConnectionResetError),
        ({"length": 10}, (IncompleteRead, ssl.SSLError)),
        ({"raw": b"SSH-2.0-OpenSSH_9.2\r\n"}, BadStatusLine),
        ({"status": 301, "headers": {"Location": "https://192.0.2.1/"}, "body": b""}, 301),
        ({"status": 401}, 401),
        ({"status": 500, "body": b"no"}, 500),
        ({"status": 503}, 503),
        ({"delay": 0.1}, 200),
        ({"drip": 5000, "pause": 0.001}, 200),
        ({"method": "VM.get_all", "status": 500}, 200),
        ({"path": "/vm_rrd", "status": 500}, 200),
    ],
)
def test_a_fault_is_what_a_client_sees(
    pool: Pool, fault: dict[str, Any], seen: int | type[Exception] | tuple[type[Exception], ...]
) -> None:
    timeout = 0.5 if "hang" in fault else 60
    client = Client(pool)
    client.timeout = timeout
    happening = pool.hosts[0].fail(**{"path": "/rrd_updates", "times": 1, **fault})
    if isinstance(seen, int):
        assert client.get("/rrd_updates", start=-5)[0].status == seen
    else:
        with pytest.raises(seen):
            client.get("/rrd_updates", start=-5)
    # The pool may not even have read what a client has no patience for.
    while "hang" in fault and not happening.happened:
        time.sleep(0.01)
    assert happening.happened == (seen != 200 or not {"method", "path"} & set(fault))
    client.timeout = 60
    response, body = client.get("/rrd_updates", start=-5)
    assert response.status == 200
    assert body.endswith("</xport>")
    assert client.get("/rrd_updates", 1, start=-5)[0].status == 200


def test_a_body_without_end(pool: Pool) -> None:
    client = Client(pool)
    pool.hosts[0].fail(path="/rrd_updates", endless=True)
    with closing(client.connect(pool.hosts[0])) as connection:
        cookie = {"Cookie": f"session_id={client.session}"}
        connection.request("GET", "/rrd_updates?start=-5", headers=cookie)
        with connection.getresponse() as response:
            assert len(response.read(10_000_000)) == 10_000_000


def test_hosts_that_are_away_or_are_not_who_they_were(pool: Pool) -> None:
    client = Client(pool)
    master, member = pool.hosts
    trusting = ssl.create_default_context(cadata=master.certificate.pem)

    def greet() -> None:
        with (
            socket.create_connection(master.server.address) as plain,
            trusting.wrap_socket(plain, server_hostname=master.address),
        ):
            pass

    greet()
    pin = client.pin(master)
    master.change_certificate()
    assert client.pin(master) != pin
    master.change_certificate("elsewhere.example", "192.0.2.1")
    trusting.load_verify_locations(cadata=master.certificate.pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        greet()
    master.server.plain = True
    with pytest.raises(ssl.SSLError):
        greet()
    master.heal()
    master.server.silent = True
    with (
        socket.create_connection(master.server.address, timeout=0.3) as plain,
        pytest.raises(TimeoutError),
    ):
        trusting.wrap_socket(plain, server_hostname=master.address)
    master.heal()
    master.away()
    with pytest.raises(ConnectionRefusedError):
        client.get("/rrd_updates", start=-5)
    # Sessions are checked by the master.
    assert client.get("/rrd_updates", 1, start=-5)[0].status == 500
    master.heal()
    member.away()
    assert client.get("/rrd_updates", start=-5)[0].status == 200
    with pytest.raises(ConnectionRefusedError):
        client.get("/rrd_updates", 1, start=-5)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_nothing_is_left() -> None:
    threads, open_before = threading.active_count(), descriptors()
    with Pool(hosts=3) as pool:
        client = Client(pool)
        client.timeout = 0.3
        pool.hosts[1].fail(hang="head")
        with pytest.raises(TimeoutError):
            client.get("/rrd_updates", 1, start=-5)
        with socket.create_connection(pool.hosts[2].server.address):
            directory = Path(pool.hosts[0].certificate.path).parent
            assert directory.exists()
            pool.__exit__(None, None, None)
    assert not directory.exists()
    # Those of tests before may end meanwhile.
    assert threading.active_count() <= threads
    assert descriptors() <= open_before


def test_a_large_pool_whose_rows_are_the_truth() -> None:
    with synthetic(hosts=2, vms=3, delay=0.0) as pool:
        client = Client(pool)
        told = parse(client.get("/rrd_updates", 1, start=-300, cf="AVERAGE", host="true")[1])
        assert len(told.legend) == 3 * 30
        assert len(told.rows) >= 59
        first, last = told.rows[-1][0] - 5, told.rows[0][0]
        for column, entry in enumerate(told.legend):
            _, _, uuid, name = entry.split(":")
            if name.startswith(("cpu", "vif", "vbd_xvda_read")) and "latency" not in name:
                grown = sum(5 * float(row[column]) for _, row in told.rows)
                before, after = (pool.truth(uuid, name, time) for time in (first, last))
                assert before is not None
                assert after is not None
                assert grown == after - before, entry
        minutes = parse(client.get("/rrd_updates", 1, start=-3000)[1])
        assert minutes.meta["step"] == 60
        running = [vm for vm in pool.vms() if vm.record["resident_on"] == pool.hosts[1].ref]
        counter = client.counter(running[0].uuid, "vif_0_rx", 1)
        truth = pool.truth(running[0].uuid, "vif_0_rx", last)
        assert truth is not None
        assert counter >= truth > 0
        running[0].stop()
        assert not any(running[0].uuid in entry for entry in client.legend(1))


def test_a_pool_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "tests.support.xapi", "--hosts", "2", "--vms", "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            told = json.loads(process.stdout.readline())
            session = XenAPI.Session(told["urls"][0], ignore_ssl=True)
            session.login_with_password(told["user"], told["password"])
            uuid = session.xenapi.VM.get_record(session.xenapi.VM.get_all()[0])["uuid"]

            def control(path: str, body: bytes | None = None) -> Any:
                with urllib.request.urlopen(told["control"] + path, body, timeout=60) as answer:
                    return json.load(answer)

            calls = {name: times for _, name, times in control("/calls")}
            assert calls["VM.get_record"] == 1
            assert control(f"/truth?uuid={uuid}&name=cpu0&time={time.time()}") > 0
            control("/fail", b'{"host": 0, "path": "/", "status": 503}')
            with pytest.raises(xmlrpc.client.ProtocolError, match="503"):
                session.xenapi.VM.get_all()
            control("/heal", b"")
            control("/forget", b"")
            session.xenapi.VM.get_all()
            assert control("/calls") == [[0, "VM.get_all", 1]]
            assert told["uri"].startswith("xenserver://monitor@127.0.0.1:")
            assert told["uri"].endswith(told["pins"][0])
            session("close")()
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()
