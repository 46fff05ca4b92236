"""``virtmeter export --vm`` and ``--no-collect``: what is asked, and what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import Exporter, Samples, run
from tests.support import sample
from tests.support.procedures import VIR_DOMAIN_SHUTOFF
from virtmeter.cli.export.choice import PARTS

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon

SINGLY = {
    "nics": ("DOMAIN_INTERFACE_STATS",),
    "disks": ("DOMAIN_BLOCK_STATS", "DOMAIN_BLOCK_STATS_FLAGS"),
    "disk-sizes": ("DOMAIN_GET_BLOCK_INFO",),
}
"""What is asked for a part alone, of a domain that is not in a bulk reading."""
METRICS = {
    "cpu": ("vcpus", "cpu_seconds_total", "vcpu_delay_seconds_total", "cpu_cycles_total"),
    "memory": ("memory_usage_bytes", "memory_resident_bytes", "memory_major_faults_total"),
    "nics": ("nic_receive_bytes_total", "nic_transmit_errors_total"),
    "disks": ("disk_read_bytes_total", "disk_flush_seconds_total"),
    "disk-sizes": ("disk_capacity_bytes", "disk_physical_bytes"),
    "metadata": ("info",),
    "details": ("memory_maximum_bytes", "vcpus_maximum", "disk_info", "nic_info"),
}


def options(option: str, *values: str) -> list[str]:
    return [word for value in values for word in (option, value)]


def told(samples: Samples) -> set[str]:
    """Return the parts that some metric tells of; of each, all its metrics are there or none."""
    found = set()
    for part, metrics in METRICS.items():
        counts = {len(samples.all(f"virtmeter_domain_{metric}")) > 0 for metric in metrics}
        assert len(counts) == 1, part
        if counts == {True}:
            found.add(part)
    return found


def once(daemon: Daemon, *arguments: str) -> Samples:
    done = run("--uri", daemon.uri, "--once", "--ask-sizes", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return Samples(done.stdout)


def test_all_that_is_read_by_default(daemon: Daemon) -> None:
    daemon.add(sample.domain())
    assert told(once(daemon)) == METRICS.keys()
    assert METRICS.keys() == {name for name, part in PARTS.items() if part.by_default}
    for calls in SINGLY.values():
        assert all(daemon.calls[call] for call in calls)


@pytest.mark.parametrize("part", METRICS)
@pytest.mark.parametrize("bulk", [False, True], ids=["singly", "bulk"])
def test_what_is_not_wanted_is_neither_asked_nor_told(
    daemon: Daemon, part: str, *, bulk: bool
) -> None:
    daemon.add(sample.domain(1, bulk=bulk), sample.domain(2, bulk=bulk))
    assert told(once(daemon, "--no-collect", part)) == METRICS.keys() - {part}
    for call in SINGLY.get(part, ()):
        assert daemon.calls[call] == 0
    daemon.calls.clear()
    others = [each for each in METRICS if each != part]
    assert told(once(daemon, *options("--no-collect", *others))) == {part}
    for other in others:
        for call in SINGLY.get(other, ()):
            assert daemon.calls[call] == 0, other


@pytest.mark.parametrize("bulk", [False, True], ids=["singly", "bulk"])
def test_without_devices_and_metadata_no_xml_is_asked(daemon: Daemon, *, bulk: bool) -> None:
    daemon.add(sample.domain(bulk=bulk))
    unwanted = options("--no-collect", "nics", "disks", "disk-sizes", "metadata", "details")
    assert told(once(daemon, *unwanted)) == {"cpu", "memory"}
    # A bulk reading does not tell whether there is a balloon; that is asked once for each start.
    assert daemon.calls["DOMAIN_GET_XML_DESC"] == (1 if bulk else 0)


def test_of_vms_alone_nothing_but_the_list_is_asked(daemon: Daemon) -> None:
    daemon.add(sample.domain(bulk=True))
    samples = once(daemon, *options("--no-collect", *PARTS))
    assert told(samples) == set()
    assert samples("virtmeter_domain_state", domain="sample-1") == 1
    assert samples("virtmeter_domain_answering", domain="sample-1") == 1
    assert daemon.calls["DOMAIN_GET_XML_DESC"] == daemon.calls["DOMAIN_LOOKUP_BY_UUID"] == 0


def test_only_some_vms(daemon: Daemon, asked: set[object]) -> None:
    domains = [sample.domain(number, bulk=True) for number in range(1, 6)]
    for domain, name in zip(domains, ("web-1", "web-2", "db-1", "db-2", "mail")):
        domain.name = name
    domains[1].state = VIR_DOMAIN_SHUTOFF
    daemon.add(*domains)
    wanted = options("--vm", "web-*", "db-1", domains[4].uuid.upper())
    with Exporter(daemon.uri, *wanted) as exporter:
        for _ in range(3):
            samples = exporter.scrape()
        assert samples("virtmeter_scrape_complete") == 1
        assert len(samples.all("virtmeter_domain_info")) == 4, "the metadata was read"
    named = {dict(labels)["domain"] for _, labels in samples.values if "domain" in dict(labels)}
    assert named == {"web-1", "web-2", "db-1", "mail"}
    assert samples.all("virtmeter_domain_vcpus") == [1, 1, 1], "web-2 does not run"
    for domain in domains:
        assert (domain.uuid in asked) == (domain.name in named)


def test_a_name_that_is_no_vms_is_told_once_until_there_is_one(daemon: Daemon) -> None:
    daemon.add(sample.domain(1, bulk=True))
    with Exporter(daemon.uri, *options("--vm", "sample-2\x1b", "sample-1")) as exporter:
        for _ in range(3):
            assert exporter.scrape()("virtmeter_domain_vcpus") == 1
    assert exporter.said.count("no VM is named 'sample-2\\x1b'") == 1
    assert "sample-1" not in exporter.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--no-collect", "everything"), "'everything' is not one of"),
        (("--collect", "nics", "--no-collect", "nics"), "both name nics"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
