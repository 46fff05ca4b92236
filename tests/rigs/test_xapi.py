"""The simulated pool of XenServer, against recorded answers and against real clients of XAPI."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from math import isnan
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import XenAPI

from tests.support.xapi import PASSWORD, SETS, Pool
from tests.support.xapi.client import Client
from tests.support.xapi.recording import parse, read, recording, values
from tests.support.xapi.scenario import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
XEN_API = ROOT / "build/xen-api/node_modules/xen-api"
pytestmark = pytest.mark.skipif(which("openssl") is None, reason="there is no openssl")

# What was asked when, in seconds from the end of a recording, for each recorded file.
ASKED: dict[str, tuple[int, dict[str, Any]]] = {
    "last60": (0, {"start": -60, "cf": "AVERAGE", "host": "true"}),
    "last600_5s": (0, {"start": -595, "interval": 5, "cf": "AVERAGE", "host": "true"}),
    "hour_60s_allcf": (0, {"start": -3600, "interval": 60, "host": "true"}),
    "hours3_3600s": (0, {"start": -10800, "interval": 3600, "cf": "AVERAGE", "host": "true"}),
    "future": (0, {"start": 100, "cf": "AVERAGE", "host": "true"}),
    "too_old_for_5s": (0, {"start": -900, "cf": "AVERAGE", "host": "true"}),
    **{
        f"polls/every60_{n:02}": (
            60 * n - 600,
            {"start": 60 * n - 665, "cf": "AVERAGE", "host": "true"},
        )
        for n in range(11)
    },
    **{
        f"polls/every10_{n:02}": (
            10 * n - 120,
            {"start": 10 * n - 140, "cf": "AVERAGE", "host": "true"},
        )
        for n in range(13)
    },
}


@pytest.fixture(scope="module", params=SETS)
def played(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(request.param) as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(hosts=2) as pool:
        yield pool


def test_rows_are_those_of_the_library(played: Pool) -> None:
    client = Client(played)
    orders = set()
    for name, (after, query) in ASKED.items():
        played.now = played.end + after
        asked = {**query, "start": played.end + query["start"]}
        response, body = client.get("/rrd_updates", **asked)
        assert (response.status, response.version) == (200, 11)
        told, recorded = parse(body), parse(read(played.name, f"{name}.xml"))
        assert told.meta == recorded.meta, name
        assert values(told) == values(recorded), name
        assert sorted(told.legend) == sorted(recorded.legend)
        assert [t for t, _ in told.rows] == [t for t, _ in recorded.rows]
        orders.add(tuple(told.legend))
    assert len(orders) == len(ASKED)


def test_one_vm_and_a_start_that_is_relative(played: Pool) -> None:
    client = Client(played)
    played.now = played.end
    _, body = client.get("/rrd_updates", start=-30, cf="AVERAGE", host="true")
    recorded = parse(read(played.name, "negative30.xml"))
    assert parse(body).meta == recorded.meta
    assert values(parse(body)) == values(recorded)
    query: dict[str, Any] = {
        "start": played.end - 60,
        "cf": "AVERAGE",
        "vm_uuid": played.vm("A").uuid,
    }
    told, recorded = (
        parse(client.get("/rrd_updates", **query)[1]),
        parse(read(played.name, "one_vm.xml")),
    )
    assert sorted(told.legend) == sorted(recorded.legend)
    # At the boundary, a VM's RRD may be a row ahead of the host's, by whose rows ours go.
    if not played.name.endswith("boundary"):
        assert values(told) == values(recorded)


def test_json_is_that_of_the_release(played: Pool) -> None:
    client = Client(played)
    played.now = played.end
    query: dict[str, Any] = {"start": played.end - 60, "cf": "AVERAGE", "host": "true"}
    accept = "application/json" if played.release.accepts_json else "text/xml"
    response, body = client.get("/rrd_updates", accept=accept, json="true", **query)
    assert response.headers["Content-Type"] == "application/json"
    recorded = read(played.name, "last60.json")
    # The order of the columns apart, the same text.
    names = '"AVERAGE[^"]*"'
    head, told_head = (re.sub(names, "", text.partition("values")[0]) for text in (recorded, body))
    assert told_head == head
    assert sorted(body) == sorted(recorded)
    if played.release.accepts_json:
        assert parse(client.get("/rrd_updates", accept="text/xml", **query)[1]).rows
        told = json.loads(client.get("/rrd_updates", accept="*/*", **query)[1])
        assert set(told) == {"meta", "data"}
    else:
        future = client.get("/rrd_updates", json="true", start=played.end + 100, host="true")
        assert future[0].status == 500


def test_raw_counters_are_the_truth_in_the_format_of_the_release(played: Pool) -> None:
    client = Client(played)
    played.now = played.end
    vm = played.vm("A")
    response, body = client.get("/vm_rrd", uuid=vm.uuid)
    assert (response.status, response.version, response.length) == (200, 10, None)
    recorded = read(played.name, "vm_rrd_A.xml")
    assert len(body) > 200_000
    heads = [text.partition("<rra>")[0] for text in (body, recorded)]
    assert heads[0].partition("<ds>")[0] == heads[1].partition("<ds>")[0]
    told, wanted = (
        {
            name: (kind, last)
            for name, kind, last in re.findall(
                r"<name>(\w+)</name><type>(\w+)</type>.*?<last_ds>(.*?)</last_ds>", head
            )
        }
        for head in heads
    )
    assert {name: kind for name, (kind, _) in told.items()} == {
        name: kind for name, (kind, _) in wanted.items()
    }
    reading = float(played.end - 5)
    for name, (kind, last) in told.items():
        assert last.isdigit() == wanted[name][1].isdigit() or kind == "GAUGE", name
        if kind == "DERIVE":
            truths = [played.truth(vm.uuid, name, time) for time in (reading, reading + 5)]
            assert truths[0] is not None
            assert truths[1] is not None
            # The truth of a moment between two rows is not recorded: half a second's growth.
            off = max((truths[1] - truths[0]) / 10, float(wanted[name][1]) * 1e-4)
            assert float(last) == pytest.approx(float(wanted[name][1]), abs=off), name


@pytest.mark.parametrize("data", [name for name in SETS if not name.endswith("boundary")])
def test_growth_is_the_truth_whenever_one_asks(data: str) -> None:
    with Pool(data) as pool:
        client = Client(pool)
        uuid = pool.vm("A").uuid
        summed: dict[str, float] = {}
        pool.now = pool.start + 3
        seen = first = parse(client.get("/rrd_updates", start=-5)[1]).meta["end"]
        for pause in (13, 7, 61, 5, 29, 2, 44, 90, 3, 120, 17, 60, 11, 33, 59, 16, 20):
            pool.now += pause
            told = parse(client.get("/rrd_updates", start=seen + 1, cf="AVERAGE")[1])
            for t, row in told.rows:
                assert t > seen
                for entry, value in zip(told.legend, row):
                    _, _, whose, name = entry.split(":")
                    if whose == uuid and not isnan(float(value)):
                        summed[name] = summed.get(name, 0) + 5 * float(value)
            seen = max((t for t, _ in told.rows), default=seen)
        for name in ("cpu0", "cpu3", "vif_0_rx", "vif_2_tx", "vbd_xvda_read", "vbd_xvdb_write"):
            before, after = (pool.truth(uuid, name, time) for time in (first, seen))
            assert before is not None
            assert after is not None
            assert summed[name] == pytest.approx(after - before, rel=2e-3), name


def test_the_recorded_events_happen_as_time_passes(played: Pool) -> None:
    with Pool(played.name) as pool:
        client = Client(pool)
        events, token = client.events("", "VM", "VIF", "VBD", "VM_guest_metrics")
        vms = {
            event["snapshot"]["uuid"]: event["snapshot"]
            for event in events
            if event["class"] == "vm"
        }
        states = {letter: vms[pool.vm(letter).uuid]["power_state"] for letter in "CDEF"}
        assert states == {"C": "Halted", "D": "Running", "E": "Running", "F": "Running"}
        domid = vms[pool.vm("E").uuid]["domid"]
        seen = []
        while pool.now < pool.end:
            pool.now += 10
            events, token = client.events(token, "VM", "VIF", "VBD", "VM_guest_metrics")
            for event in events:
                snapshot = event.get("snapshot", {})
                seen.append(
                    (
                        event["class"],
                        event["operation"],
                        snapshot.get("name_label", snapshot.get("device", ""))[-4:],
                        snapshot.get("power_state", snapshot.get("currently_attached")),
                    )
                )
        assert seen == [
            ("vm", "mod", "vm-C", "Running"),
            ("vif", "mod", "0", True),
            ("vbd", "mod", "xvda", True),
            ("vm", "mod", "vm-F", "Paused"),
            ("vif", "mod", "1", False),
            ("vm", "mod", "vm-E", "Running"),
            ("vm", "mod", "vm-F", "Running"),
            ("vm", "mod", "vm-H", "Running"),
            ("vm_guest_metrics", "del", "", None),
            ("vm", "mod", "vm-D", "Halted"),
            ("vif", "mod", "0", False),
            ("vbd", "mod", "xvda", False),
            ("vbd", "mod", "xvde", True),
        ]
        assert pool.vm("E").record["domid"] != domid
        uuids = {entry.split(":")[2] for entry in client.legend()}
        assert pool.vm("C").uuid in uuids
        assert pool.vm("D").uuid not in uuids


def test_a_paused_vm_of_an_old_release_has_old_rows_under_current_times() -> None:
    with Pool("xapi-24.19_drift") as pool:
        client = Client(pool)
        vm = pool.vm("A")
        source = f"AVERAGE:vm:{vm.uuid}:cpu0"
        pool.now = pool.start + 100
        before = values(parse(client.get("/rrd_updates", start=-100)[1]))
        newest = max(t for _, t in before)
        vm.pause()
        pool.now += 30
        during = values(parse(client.get("/rrd_updates", start=-100)[1]))
        assert during[source, newest + 30] == before[source, newest]
        counter = client.counter(vm.uuid, "cpu0")
        pool.now += 30
        assert client.counter(vm.uuid, "cpu0") == counter
        vm.resume()
        pool.now += 30
        after = values(parse(client.get("/rrd_updates", start=-100)[1]))
        assert after[source, newest + 30] == "0.0"
        assert float(after[source, newest + 80]) > 0
        assert client.counter(vm.uuid, "cpu0") > counter


def test_what_a_test_does_to_a_vm_is_told_by_events_rows_and_counters(pool: Pool) -> None:
    client = Client(pool)
    vm = pool.vm("A")
    pool.now += 60
    _, token = client.events()
    domid, counter = vm.record["domid"], client.counter(vm.uuid, "vif_0_rx")

    vm.reboot()
    pool.now += 20
    assert vm.record["domid"] != domid
    assert 0 < client.counter(vm.uuid, "vif_0_rx") < counter / 10

    vm.unplug("VBD", "xvdb")
    pool.now += 20
    told = values(parse(client.get("/rrd_updates", start=-5)[1]))
    unplugged = {v for (e, _), v in told.items() if vm.uuid in e and "vbd_xvdb_" in e}
    assert unplugged == {"0.0"}
    vm.plug("VBD", "xvdb")
    pool.now += 20
    assert client.counter(vm.uuid, "vbd_xvdb_read") > 0

    vm.migrate(1)
    assert not any(vm.uuid in entry for entry in client.legend())
    assert any(vm.uuid in entry for entry in client.legend(1))
    response, _ = client.get("/vm_rrd", uuid=vm.uuid)
    assert response.status == 302
    assert response.headers["Location"] == f"{pool.hosts[1].url}/vm_rrd?uuid={vm.uuid}"
    assert client.get("/vm_rrd", 1, uuid=vm.uuid)[0].status == 200

    clone = vm.clone("a clone")
    clone.start(1)
    snapshot = vm.snapshot("a snapshot")
    vm.stop()
    events, token = client.events(token, "VM")
    changed = {event["snapshot"]["name_label"]: event for event in events}
    assert changed["a clone"]["operation"] == "add"
    assert changed["a clone"]["snapshot"]["resident_on"] == pool.hosts[1].ref
    assert changed["a snapshot"]["snapshot"]["is_a_snapshot"]
    assert changed[vm.record["name_label"]]["snapshot"]["domid"] == -1
    pool.now += 20
    residents = {entry.split(":")[2] for entry in client.legend(1)}
    assert clone.uuid in residents
    assert not {vm.uuid, snapshot.uuid} & residents
    clone.destroy()
    events, _ = client.events(token, "VM", "VIF", "VBD", "VM_metrics")
    assert {event["operation"] for event in events} == {"del"}
    assert len(events) == 7


def test_pypis_client_reads_all_over_xml_rpc(pool: Pool) -> None:
    session = XenAPI.Session(pool.hosts[1].url, ignore_ssl=True)
    with pytest.raises(XenAPI.Failure, match="HOST_IS_SLAVE"):
        session.login_with_password("root", PASSWORD)
    session("close")()
    session = XenAPI.Session(pool.url, ignore_ssl=True)
    with pytest.raises(XenAPI.Failure, match="SESSION_AUTHENTICATION_FAILED"):
        session.login_with_password("root", "wrong")
    assert (pool.sessions.logins, pool.sessions.refused) == (1, 1)
    session.login_with_password("monitor", PASSWORD, "1.0", "virtmeter")
    for name in CLASSES:
        records = getattr(session.xenapi, name).get_all_records()
        assert set(records) == set(pool.database.tables[name]), name
    vm = pool.vm("A")
    told = session.xenapi.VM.get_record(vm.ref)
    assert told["name_label"] == vm.record["name_label"] == 'vm A <&> "ü"'
    assert (told["domid"], told["VCPUs_max"]) == ("1", "4")
    assert told["is_a_template"] is False
    assert str(told["snapshot_time"]) == "19700101T00:00:00Z"
    assert session.xenapi.VM.get_by_uuid(vm.uuid) == vm.ref
    assert session.xenapi.VM.query_data_source(vm.ref, "cpu0") == pool.metrics.newest(
        vm.uuid, "cpu0", pool.now
    )
    answer = session.xenapi_request("event.from", (["VM"], "", 0.0))
    assert len(answer["events"]) == len(pool.database.tables["VM"])
    vm.pause()
    answer = session.xenapi_request("event.from", (["VM"], answer["token"], 30.0))
    (event,) = answer["events"]
    assert (event["operation"], event["snapshot"]["power_state"]) == ("mod", "Paused")
    with pytest.raises(XenAPI.Failure, match="EVENT_FROM_TOKEN_PARSE_FAILURE"):
        session.xenapi_request("event.from", (["VM"], "no token", 0.0))
    with pytest.raises(XenAPI.Failure, match="RBAC_PERMISSION_DENIED"):
        session.xenapi.VM.record_data_source(vm.ref, "runnable_any")
    session.xenapi.session.logout()
    assert not pool.sessions.open
    session("close")()
    assert pool.count("VM.get_all_records") == 1
    assert {asked.request.path for asked in pool.requests} <= {"/RPC2", "/"}


def xen_api_missing() -> str | None:
    if which("node") is None:
        return "node is missing"
    if not (XEN_API / "index.mjs").exists():
        return "npm's xen-api is missing: tools/setup test fetches it"
    return None


@pytest.mark.skipif(xen_api_missing() is not None, reason=xen_api_missing() or "")
def test_npms_client_reads_all_over_json_rpc_and_follows_events(pool: Pool) -> None:
    url = pool.url.replace("https://", f"https://root:{quote(PASSWORD, safe='')}@")
    command = ["node", str(ROOT / "tests/support/xapi/client.mjs"), str(XEN_API), url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        killing = threading.Timer(100, node.kill)
        killing.start()
        try:
            assert node.stdin
            assert node.stdout
            told = json.loads(node.stdout.readline())
            tables = pool.database.tables
            assert told["counts"] == {name: len(tables[name]) for name in CLASSES}
            assert told["pool"] == "test pool"
            vm = pool.vm("A", host=1)
            assert told["residents"][vm.uuid] == [pool.hosts[1].uuid, 2, 4]
            assert told["residents"][pool.vm("C").uuid] == [None, 1, 1]
            for change, state in (
                (vm.pause, "Paused"),
                (vm.resume, "Running"),
                (vm.stop, "Halted"),
            ):
                change()
                print(
                    json.dumps({"uuid": vm.uuid, "power_state": state}), file=node.stdin, flush=True
                )
                assert json.loads(node.stdout.readline()) == {"power_state": state}
            node.stdin.close()
            assert node.wait() == 0
        finally:
            killing.cancel()
            node.kill()
    assert pool.count("system.listMethods") == 1
    assert pool.count("event.inject") == 1
    assert {asked.request.path for asked in pool.requests} == {"/jsonrpc"}


def test_what_is_due_happens_while_a_client_waits() -> None:
    began: list[float] = []
    start = recording(SETS[2]).events["F is paused"] - 1
    with Pool(SETS[2], now=lambda: start + sum(time.monotonic() - each for each in began)) as pool:
        client = Client(pool)
        _, token = client.events()
        began.append(time.monotonic())
        events, _ = client.events(token, "VM", timeout=60)
        assert [event["snapshot"]["power_state"] for event in events] == ["Paused"]
