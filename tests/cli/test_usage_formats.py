"""What VMs use, for programs: ``watch --format`` and ``stats --interval``."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import cli, sample
from tests.support.libvirtd import Daemon, Never, Then
from tests.support.procedures import (
    VIR_DOMAIN_PAUSED,
    VIR_ERR_INTERNAL_ERROR,
    VIR_FROM_NONE,
    Error,
)
from virtmeter import VmUsage

if TYPE_CHECKING:
    from pathlib import Path


RECEIVED = 1 << 20
FORMATS = ("json", "jsonl", "csv")


@pytest.fixture
def moving(daemon: Daemon) -> Daemon:
    """A daemon with a VM that receives something after its first reading, and others."""

    def receive(daemon: Daemon) -> None:
        domain = daemon.domains[first.uuid]
        received, *others = domain.interfaces["tap1"]
        domain.interfaces["tap1"] = (received + RECEIVED, *others)  # type: ignore[assignment]

    first, second = sample.domain(1), sample.domain(2)
    first.name, second.name = "=web-10", "web-2"
    daemon.add(first, second)
    nothing = Then(lambda _: None)
    daemon.on("DOMAIN_INTERFACE_STATS", nothing, Then(receive), uuid=first.uuid)
    return daemon


def parsed(text: str, form: str) -> list[dict[str, Any]]:
    """Return the records, those of CSV with the types that JSON has."""
    if form == "json":
        records: list[dict[str, Any]] = json.loads(text)
        return records
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]

    def value(field: str, cell: str) -> object:
        if field in ("time", "id", "name", "state"):
            return cell
        return json.loads(cell or "null")

    return [
        {field: value(field, cell) for field, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def assert_first(record: dict[str, Any]) -> None:
    assert record["interval"] is record["network_read_kib"] is record["cpu_utilization"] is None
    assert record["memory_used"] == 100 * 1024


def assert_used(record: dict[str, Any], kib: float) -> None:
    assert list(record)[:5] == ["time", "id", "name", "state", "hung"]
    assert list(record)[5:] == list(VmUsage._fields[2:])
    assert datetime.fromisoformat(record["time"]).tzinfo
    assert (record["state"], record["hung"], record["cpu_number"]) == ("running", False, 1)
    assert record["network_read_kib"] == kib
    assert record["network_interval"] > 0
    assert record["disk_read_requests"] == 0
    assert record["memory_used"] == 100 * 1024


@pytest.mark.parametrize("form", FORMATS)
def test_stats_within_an_interval(moving: Daemon, form: str) -> None:
    done = cli.run("stats", "--uri", moving.uri, "--interval", "0.5", "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    ten, two = parsed(done.stdout, form)
    assert (ten["name"], two["name"]) == ("'=web-10" if form == "csv" else "=web-10", "web-2")
    assert_used(ten, RECEIVED / 1024)
    assert_used(two, 0)


def test_stats_within_an_interval_for_people(moving: Daemon) -> None:
    done = cli.run("stats", "--uri", moving.uri, "--interval", "0.5", "*web-*", COLUMNS="20")
    assert (done.returncode, done.stderr) == (0, "")
    title, _, _, header, ten, two = done.stdout.splitlines()
    assert title.startswith("2 VMs: 2 running at qemu+unix://")
    assert title.endswith(", within 0.5 s")
    assert header.split()[:4] == ["VM", "state", "%", "wait"]
    assert (ten.split()[7] > "0B", two.split()[7]) == (True, "0B")
    [one] = cli.run(
        *("stats", "--uri", moving.uri, "--interval", "0.1", "--format", "jsonl", "web-2")
    ).stdout.splitlines()
    assert json.loads(one)["name"] == "web-2"


def test_why_a_vm_does_not_run_within_an_interval(daemon: Daemon) -> None:
    broken, runs, refused = (sample.domain(number, bulk=True) for number in (1, 2, 3))
    for domain in (broken, refused):
        domain.state, domain.reason = VIR_DOMAIN_PAUSED, 5
    daemon.add(broken, runs, refused)
    refusal = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "not today")
    daemon.on("DOMAIN_GET_XML_DESC", refusal, uuid=refused.uuid, repeat=True)
    done = cli.run("stats", "--uri", daemon.uri, "--interval", "0.1")
    _, _, _, header, first, second, third = done.stdout.splitlines()
    assert header.split()[:4] == ["VM", "state", "why", "%"]
    assert first.split()[:4] == ["sample-1", "paused", "I/O", "error"]
    assert second.split()[:3] == ["sample-2", "running", "0.0"]
    assert third.split()[:3] == ["sample-3", "paused", "-"], (
        "what libvirt refuses takes nothing else"
    )
    done = cli.run("stats", "--uri", daemon.uri, "--interval", "0.1", runs.name)
    assert "why" not in done.stdout, "it runs"


def test_stats_within_an_interval_of_a_guest_that_hangs(daemon: Daemon) -> None:
    daemon.add(sample.domain(1), sample.domain(2))
    daemon.on("DOMAIN_MEMORY_STATS", Never(), uuid=sample.domain(1).uuid, repeat=True)
    done = cli.run(
        *("stats", "--uri", daemon.uri, "--timeout", "0.5", "--interval", "0.5"),
        *("--format", "jsonl"),
    )
    one, two = parsed(done.stdout, "jsonl")
    assert (one["hung"], one["memory_used"], two["hung"]) == (True, None, False)
    [line] = done.stderr.splitlines()
    assert line.startswith("virtmeter: sample-1 hangs: it did not answer within 0.5 s")
    assert done.returncode == 1


@pytest.mark.parametrize("form", FORMATS[1:])
def test_watch_for_programs(moving: Daemon, form: str) -> None:
    done = cli.run(
        *("watch", "--uri", moving.uri, "--interval", "0.2", "--count", "3", "--format", form)
    )
    assert (done.returncode, done.stderr) == (0, "")
    records = parsed(done.stdout, form)
    assert len(records) == 6
    times = [record["time"] for record in records]
    assert times == sorted(times)
    assert len(set(times)) == 3
    for record in records[:2]:
        assert_first(record)
    for record, kib in zip(records[2:], (RECEIVED / 1024, 0, 0, 0)):
        assert_used(record, kib)


def test_watch_for_programs_draws_nothing_on_a_terminal(tmp_path: Path) -> None:
    uri = cli.some_host(tmp_path, "web")
    with cli.terminal(
        *("watch", "--uri", uri, "--count", "1", "--format", "jsonl"), columns=2000
    ) as child:
        [line] = cli.everything(child).splitlines()
    assert json.loads(line)["name"] == "web"


@pytest.mark.parametrize("bulk", [False, True], ids=["singly", "bulk"])
@pytest.mark.parametrize(
    "command", [("watch", "--count", "3"), ("stats",)], ids=lambda command: command[0]
)
def test_what_is_not_wanted_is_not_asked(
    daemon: Daemon, asked: set[object], command: tuple[str, ...], *, bulk: bool
) -> None:
    domains = [sample.domain(number, bulk=bulk) for number in range(1, 4)]
    daemon.add(*domains)
    done = cli.run(
        *(*command, "--uri", daemon.uri, "--interval", "0.2", "--format", "jsonl"),
        *("sample-1", domains[2].uuid),
    )
    assert (done.returncode, done.stderr) == (0, "")
    records = parsed(done.stdout, "jsonl")
    assert {record["name"] for record in records} == {"sample-1", "sample-3"}
    assert records[-1]["network_read_kib"] == 0
    assert [domain.uuid in asked for domain in domains] == [True, False, True]


@pytest.mark.parametrize("wanted", [(), ("sample-*",)], ids=["all", "some"])
def test_one_that_cannot_be_read_is_told_and_the_others_are_there(
    daemon: Daemon, wanted: tuple[str, ...]
) -> None:
    bad, good = sample.domain(1), sample.domain(2)
    daemon.add(bad, good)
    refusal = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, "not today")
    daemon.on("DOMAIN_GET_XML_DESC", refusal, uuid=bad.uuid, repeat=True)
    done = cli.run(*("watch", "--count", "1", "--uri", daemon.uri, "--format", "jsonl"), *wanted)
    one, two = parsed(done.stdout, "jsonl")
    assert (one["name"], one["memory_used"]) == ("sample-1", None)
    assert two["memory_used"] == 100 * 1024
    [line] = done.stderr.splitlines()
    assert "left out of the usage" in line
    assert "not today" in line


def test_of_no_vm(daemon: Daemon) -> None:
    for command in (("watch", "--count", "1"), ("stats", "--interval", "0.1")):
        done = cli.run(*command, "--uri", daemon.uri, "--format", "jsonl")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = cli.run("stats", "--interval", "0.1", "--uri", daemon.uri)
    assert done.stdout.startswith("no VM at ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stats", "--interval", "1", "--all"), "leave out --all or"),
        (("stats", "--interval", "0"), "not in the range"),
        (("watch", "--format", "json"), "'json' is not one of"),
        (("stats", "--interval", "0.1", "--uri", "test:///default", "no"), "no VM is named"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
