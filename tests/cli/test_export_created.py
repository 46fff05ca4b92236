"""OpenMetrics' created timestamps: told where it was seen that a counter began, and right then."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import virtmeter
from tests.cli.exporter import Exporter, Samples
from tests.cli.test_export_guests import PROMETHEUS, scraping
from tests.support import sample
from tests.support.procedures import VIR_DOMAIN_RUNNING, VIR_DOMAIN_SHUTOFF, Disk
from tests.support.qemu import wait_for
from virtmeter.cli.export.created import Created
from virtmeter.cli.export.known import Known
from virtmeter.cli.export.reading import RECENT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain

VDB = "<disk type='file'><source file='/images/b'/><target dev='vdb' bus='virtio'/></disk>"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
OF_VM = {"cpu_seconds", "vcpu_seconds", "vcpu_wait_seconds", "vcpu_delay_seconds", "cpu_cycles"}
"""Counters that the sample domain has, but those of the guest's own memory."""
OF_NIC = {
    f"nic_{way}_{what}"
    for way in ("receive", "transmit")
    for what in ("bytes", "packets", "dropped", "errors")
}
OF_DISK = {
    f"disk_{does}_{what}"
    for does in ("read", "write", "flush")
    for what in ("bytes", "requests", "seconds")
} - {"disk_flush_bytes"}


class Scraper:
    """Scrapes an exporter, and says when its counters began, by the metric and the device."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.before = self.began = 0.0
        """When the scrape before the last one began, and when that one did."""

    def __call__(self, domain: Domain) -> dict[tuple[str, str], float]:
        time.sleep(2 * RECENT)  # nothing that was read before is good any more
        self.before, self.began = self.began, time.time()
        with self.exporter.get(headers=OPENMETRICS) as answer:
            text = answer.read().decode()
        created = {}
        for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
            last = None
            for each in family.samples:
                if each.name.endswith("_created"):
                    assert last == (f"{family.name}_total", each.labels), "after its counter"
                    if each.labels["uuid"] == domain.uuid:
                        labels = ("nic", "disk", "vcpu")
                        device = next((each.labels[it] for it in labels if it in each.labels), "")
                        created[family.name.removeprefix("virtmeter_domain_"), device] = each.value
                last = each.name, each.labels
        return created

    def assert_between(self, created: float) -> None:
        """Check that something began between the last two scrapes."""
        assert self.before < created < time.time()


def all_of(domain: Domain) -> set[tuple[str, str]]:
    """Return the counters of a sample domain that begin with it."""
    nics = itertools.product(OF_NIC, domain.interfaces)
    disks = itertools.product(OF_DISK, domain.disks)
    return {*((name, "") for name in OF_VM), *nics, *disks}


def restart(domain: Domain, number: int) -> None:
    domain.xml = domain.xml.replace(f"id='{domain.id}'", f"id='{number}'")
    domain.id = number


@pytest.fixture(params=[False, True], ids=["singly", "in bulk"])
def domain(daemon: Daemon, request: pytest.FixtureRequest) -> Domain:
    domain = sample.domain(bulk=request.param)
    daemon.add(domain)
    return domain


def test_a_vm_that_was_started_meanwhile(daemon: Daemon, domain: Domain) -> None:
    daemon.add(other := sample.domain(2))
    with Exporter(daemon.uri, "--collect", "vcpus") as exporter:
        scrape = Scraper(exporter)
        assert scrape(domain) == {}, "nobody has seen it begin"
        assert scrape(domain) == {}
        restart(domain, 13)
        created = scrape(domain)
        vcpus = {(f"each_vcpu_{what}_seconds", "1") for what in ("wait", "delay")}
        vcpus |= {("each_vcpu_seconds", "1")}
        assert created.keys() == all_of(domain) | vcpus
        [began] = {*created.values()}
        scrape.assert_between(began)
        assert scrape(domain) == created, "it stays"
        assert scrape(other) == {}
        restart(domain, 14)
        again = scrape(domain)
        assert again.keys() == created.keys()
        scrape.assert_between(min(again.values()))
        with exporter.get() as answer:
            text = answer.read().decode()
        assert "_created" not in text, "the text format has no place for it"
        assert Samples(text)("virtmeter_domain_cpu_seconds_total", domain="sample-1") == 1001e-9


def test_vms_that_come_and_go(daemon: Daemon, domain: Domain) -> None:
    with Exporter(daemon.uri) as exporter:
        scrape = Scraper(exporter)
        scrape(domain)
        daemon.add(new := sample.domain(3, bulk=domain.bulk))
        created = scrape(new)
        assert created.keys() == all_of(new)
        scrape.assert_between(min(created.values()))
        number, domain.id, domain.state = domain.id, -1, VIR_DOMAIN_SHUTOFF
        assert scrape(domain) == {}
        domain.id, domain.state = number, VIR_DOMAIN_RUNNING  # the same number, of another host's
        created = scrape(domain)
        assert created.keys() == all_of(domain)
        scrape.assert_between(min(created.values()))


def test_a_disk_that_is_plugged_in_and_one_that_was_refused(daemon: Daemon, domain: Domain) -> None:
    domain.xml = domain.xml.replace("</devices>", f"{VDB.replace('vdb', 'vdc')}</devices>")
    with Exporter(daemon.uri) as exporter:
        scrape = Scraper(exporter)
        scrape(domain)
        xml, vdb = domain.xml, Disk(stats=(1, 2, 3, 4, -1), path="/images/b")
        domain.xml = xml.replace("</devices>", f"{VDB}</devices>")
        domain.disks |= {"vdb": vdb, "vdc": vdb}
        created = scrape(domain)
        assert {device for _, device in created} == {"vdb"}, "vdc was there all the time"
        scrape.assert_between(min(created.values()))
        vdb = domain.disks.pop("vdb")
        assert scrape(domain) == {}, "refused"
        domain.disks["vdb"] = vdb
        assert scrape(domain) == created, "it has gone on"
        domain.xml = xml
        scrape(domain)
        domain.xml = xml.replace("</devices>", f"{VDB}</devices>")
        again = scrape(domain)
        assert again.keys() == created.keys(), "plugged in anew"
        scrape.assert_between(min(again.values()))


def test_counters_that_may_have_counted_before(daemon: Daemon, domain: Domain) -> None:
    domain.xml = domain.xml.replace("<interface type='bridge'>", "<interface type='vhostuser'>")
    with Exporter(daemon.uri) as exporter:
        scrape = Scraper(exporter)
        scrape(domain)
        restart(domain, 13)
        assert scrape(domain).keys() == {key for key in all_of(domain) if "nic" not in key[0]}


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="Prometheus is not in build/prometheus")
def test_a_real_prometheus_takes_it(daemon: Daemon, domain: Domain, tmp_path: Path) -> None:
    """One that does not know what it means has a series of it."""
    series = "virtmeter_domain_nic_receive_bytes_created"
    with Exporter(daemon.uri) as exporter, scraping(exporter, tmp_path) as prometheus:
        wait_for(lambda: prometheus.query("virtmeter_up") == [1], "Prometheus scrapes")
        assert prometheus.query(series) == []
        before = time.time()
        restart(domain, 13)
        wait_for(lambda: prometheus.query(series) != [], "it has seen the new start")
        [created] = prometheus.query(series)
        assert before - 5 < created < time.time()
        assert prometheus.query("up") == [1]


class Step(NamedTuple):
    """What happens before a pass, and whether the disk is told of in it."""

    added: int
    starts: bool
    is_renamed: bool
    is_plugged: bool
    is_refused: bool


def of_three(value: bool) -> st.SearchStrategy[bool]:
    """Return something that is mostly so."""
    return st.sampled_from([value, value, not value])


STEPS = st.lists(
    st.builds(Step, st.integers(1, 100), *map(of_three, (False, False, True, False))),
    min_size=2,
    max_size=12,
)
VM = virtmeter.Instance("uuid", "name", virtmeter.PowerState.RUNNING)


class Passes:
    """Passes over a VM with a disk, a minute apart, and what Prometheus makes of them."""

    def __init__(self) -> None:
        self.created = Created()
        self.known: Known | None = None
        self.now = 0.0
        self.vm = VM
        self.series: list[list[tuple[float, int]]] = [[]]
        """One for each name that the VM has had."""
        self.is_stale = False

    def rename(self) -> None:
        """Give the VM another name, which is a label: its counters have new series."""
        self.vm = VM._replace(name=f"{VM.name}-{len(self.series)}")
        self.series.append([])

    def read(self, start: int, count: int | None, *, is_plugged: bool) -> None:
        """Take a pass, with a count if the disk is told of."""
        between = self.now - 30 if self.known else None
        self.created.list([self.vm], between)
        stats, records = virtmeter.InstanceStats(start=start), []
        if count is not None:
            record = virtmeter.DiskStats("vda", count, 0, 0, 0, -1, None, None, start=start)
            records.append(record)
        seen = (between, self.known)
        list(self.created.read(self.vm, "inspect_instance", stats, [stats], *seen))
        told = dict(self.created.read(self.vm, "inspect_disks", iter(()), records, *seen))
        self.scrape(count, told.get((VM.id, virtmeter.DiskStats, ("vda",))))
        disks = [virtmeter.DiskDetails("vda", *(None,) * 6, {})] if is_plugged else []
        self.known = Known.of(virtmeter.InstanceDetails(1, *(None,) * 11, [], disks, []))
        self.now += 60

    def scrape(self, count: int | None, created: float | None) -> None:
        """Do as Prometheus, which puts a zero in where a counter began, if that is its newest."""
        samples = self.series[-1]
        if count is None:
            if samples and not self.is_stale:
                samples.append((self.now, samples[-1][1]))  # marks it as stale
            self.is_stale = True
            return
        self.is_stale = False
        newest = samples[-1][0] if samples else -1
        if created is not None and newest < created < self.now:
            samples.append((created, 0))
        samples.append((self.now, count))

    def increase(self) -> int:
        return sum(
            after - before if after >= before else after
            for samples in self.series
            for (_, before), (_, after) in itertools.pairwise(samples)
        )


FIRST_TOLD_UNDER_ANOTHER_NAME = [
    Step(1, False, False, True, True),
    Step(1, True, False, True, True),
    Step(1, False, True, True, False),
]


@given(STEPS)
@example(FIRST_TOLD_UNDER_ANOTHER_NAME)
def test_prometheus_counts_all_that_was_added_and_nothing_twice(steps: list[Step]) -> None:
    passes, start, was_plugged = Passes(), 1, steps[0].is_plugged
    count = life = right = 0
    last: tuple[int, str, int] | None = None
    began_as = ""
    """The name that the VM had when its disk began to count."""
    for number, step in enumerate(steps):
        if step.is_renamed:
            passes.rename()
        begins = number > 0 and (step.starts or (step.is_plugged and not was_plugged))
        start += step.starts
        # One that is plugged in and refused at once is no more than a new one.
        is_told = step.is_plugged and not (step.is_refused and was_plugged)
        was_plugged = step.is_plugged
        if begins:
            life, count, began_as = life + 1, 0, passes.vm.name
        count += step.added
        passes.read(start, count if is_told else None, is_plugged=step.is_plugged)
        if is_told:
            name = passes.vm.name
            if last is None:  # under another name than it began with, that is told no more
                right += count if began_as == name else 0
            elif last[0] != life:
                right += count
            elif last[1] == name:  # a series of a new name begins with its first value
                right += count - last[2]
            last = life, name, count
    assert passes.increase() == right


def test_what_did_not_change_stays_and_is_shared_by_all_that_are_alike() -> None:
    created, kept = Created(), []
    vms = [VM._replace(id=f"uuid-{number}") for number in range(2)]
    for _ in range(2):
        created.list(vms, None)
        for vm in vms:
            stats, known = virtmeter.InstanceStats(start=1), Known(disks=("vda",))
            disk = virtmeter.DiskStats("vda", *(0,) * 5, None, None, start=1)
            assert not [*created.read(vm, "inspect_instance", stats, [stats], None, known)]
            assert not [*created.read(vm, "inspect_disks", iter(()), [disk], None, known)]
            assert created._vms is not None
            kept.append(created._vms[vm.id].counts)
    for kind in (virtmeter.InstanceStats, virtmeter.DiskStats):
        assert len({id(each[kind]) for each in kept}) == 1
