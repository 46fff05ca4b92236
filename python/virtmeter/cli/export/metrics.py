"""Makes Prometheus' metrics of what a pass has read, and of what the inspector says of itself."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import virtmeter
from virtmeter.cli.export.known import Known
from virtmeter.cli.export.reading import failures
from virtmeter.cli.export.tables import (
    DESCRIBED,
    DISK_DETAILS,
    DOMAIN,
    NIC_DETAILS,
    NOVA,
    STATES,
    TABLES,
    device,
)
from virtmeter.cli.kinds import LIBVIRT, VSPHERE, XENSERVER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from virtmeter import Health, Instance, Server
    from virtmeter.cli.export.reading import Answer, Snapshot
    from virtmeter.cli.export.texts import Part

NO_LABELS = ""
NOTHING = Known()
EXPONENT = 10**6
"""From which on a number is written with an exponent."""
LONGEST = 256
"""Characters of a label that tenants shape."""


class Family:
    """A metric and its samples.

    prometheus_client writes what stands before them, and the numbers. The samples' lines are made
    here: the labels of a VM's forty metrics are written once.
    """

    def __init__(self, name: str, text: str) -> None:
        """Begin without samples. The name says which type it is, and the unit."""
        self._name, self._text = name, text
        self._samples: dict[str, float] = {}
        self._created: dict[str, str] = {}

    def add(self, labels: str, value: float, created: str | None = None) -> None:
        """Add a sample, with labels as :func:`label` writes them.

        The first one of these labels stays: two of the same are no metric, and Prometheus would
        take nothing of the scrape.

        :param created: of a counter, the time when it began, if that is known.
        """
        if labels not in self._samples:
            self._samples[labels] = value
            if created is not None:
                self._created[labels] = created

    def block(self, *, openmetrics: bool = False) -> Block:
        """Return it as text, for OpenMetrics with the times when counters began."""
        created = self._created if openmetrics else {}
        bare = self._name.rpartition("_")[0]
        lines = []
        for labels, value in self._samples.items():
            lines.append(f"{self._name}{labels} {_number(value)}\n")
            if labels in created:
                lines.append(f"{bare}_created{labels} {created[labels]}\n")
        return Block(self._name, self._text, "".join(lines).encode())


def _number(value: float) -> str:
    if type(value) is int and 0 <= value < EXPONENT:  # most of them
        return f"{value}.0"
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


class Block(NamedTuple):
    """The text of a metric."""

    name: str
    text: str
    lines: Part

    def header(self, *, openmetrics: bool) -> bytes:
        """Return what stands before the lines, in which the formats differ."""
        return _header(self.name, self.text, openmetrics)


@cache
def _header(name: str, text: str, openmetrics: bool) -> bytes:
    bare, _, suffix = name.rpartition("_")
    kind = {"total": "counter", "info": "info"}.get(suffix, "gauge")
    bare = name if kind == "gauge" else bare
    unit = bare.rpartition("_")[2]
    metric = Metric(bare, text, kind, unit if unit in ("seconds", "bytes") else "")
    if not openmetrics:
        return generate_latest(_Only(metric))
    header: bytes = generate_openmetrics(_Only(metric))  # type: ignore[no-untyped-call]
    return header.replace(b"# EOF\n", b"")


class _Only(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


def label(names: tuple[str, ...], values: Iterable[str]) -> str:
    """Return labels as they stand between a name and a value."""
    escaped = [
        value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values
    ]
    return _form(names).format(*escaped)


@cache
def _form(names: tuple[str, ...]) -> str:
    """Return where the values of these labels go: the names are in order."""
    places = sorted((name, place) for place, name in enumerate(names))
    return "{{" + ",".join(f'{name}="{{{place}}}"' for name, place in places) + "}}"


def build_info() -> Family:
    """Return which version this is."""
    build = Family("virtmeter_build_info", "The version that is running.")
    build.add(label(("version",), (virtmeter.__version__,)), 1)
    return build


def of_scrape(read: Snapshot) -> Iterator[Family]:
    """Yield what is to be known of the reading itself."""
    yield build_info()
    yield _single("virtmeter_up", "1 when the hypervisor answers.", read.reached)
    yield _single(
        "virtmeter_scrape_complete", "1 when there was time to ask every VM.", read.complete
    )
    age = time.monotonic() - read.began
    yield _single("virtmeter_scrape_age_seconds", "Age of the oldest value in here.", age)
    yield _single(
        "virtmeter_scrape_failures",
        "Readings that were refused, or that a VM or its host did not answer.",
        failures(read.answers),
    )


def of_hosts(read: Snapshot, health: Health) -> Iterator[Family]:
    """Yield what is to be known of the hosts of a pool; nothing where there is none."""
    if read.hypervisor == LIBVIRT:
        return
    up = Family("virtmeter_host_up", "1 when a host of the pool or vCenter answers.")
    wrong = Family(
        "virtmeter_host_rows_wrong",
        "1 when the averages of a host differ from its counters, which are read instead.",
    )
    for host in read.hosts:
        labels = label(("host", "uuid"), (host.name, host.id))
        is_heard_of = read.hypervisor != VSPHERE or host.live is not False
        up.add(labels, is_heard_of and host.name not in health.away)
        wrong.add(labels, host.exact)
    yield up
    if read.hypervisor == XENSERVER:
        yield wrong


def of_domains(read: Snapshot, hung: Collection[str]) -> Iterator[Family]:
    """Yield what is to be known of the VMs."""
    info = Family(
        "virtmeter_domain_info", "What manages a VM, OpenStack Nova above all, says of it."
    )
    state = Family("virtmeter_domain_state", f"State: {STATES}.")
    answering = Family("virtmeter_domain_answering", "0 when a running VM hangs.")
    silent = {*hung}
    for instance, answer in read.answers:
        if isinstance(answer, virtmeter.InspectionTimeout):
            silent.add(instance.id)
    for instance in read.instances:
        names = (instance.id, instance.name)
        labels = label(DOMAIN, names)
        if instance.id in read.described:
            nova = _nova(read.servers.get(instance.id))
            known = read.known.get(instance.id, NOTHING)
            values = map(bounded, (*nova, *known.described))
            labels_of_info = (*DOMAIN, "hypervisor", *NOVA, *DESCRIBED)
            info.add(label(labels_of_info, (*names, read.hypervisor, *values)), 1)
        state.add(labels, instance.state)
        if instance.state != virtmeter.PowerState.SHUTOFF:
            answering.add(labels, instance.id not in silent)
    yield from (info, state, answering)
    yield from _readings(read)
    yield from _details(read.answers)


def bounded(value: str | None) -> str:
    """Return a label that a tenant can shape: no longer than is of use."""
    return (value or "")[:LONGEST]


def _details(answers: Sequence[tuple[Instance, Answer]]) -> Iterator[Family]:
    """Yield what VMs, disks and NICs are."""
    reason = Family("virtmeter_domain_state_reason", "1 for why a VM is in its state.")
    disks = Family("virtmeter_domain_disk_info", "What a disk is.")
    limits = Family(
        "virtmeter_domain_disk_limit", "A limit on a disk, in bytes or operations a second."
    )
    nics = Family("virtmeter_domain_nic_info", "What a NIC is.")
    for instance, answer in answers:
        for details in () if isinstance(answer, virtmeter.InspectorException) else answer:
            if not isinstance(details, virtmeter.InstanceDetails):
                continue
            names = (instance.id, instance.name)
            if details.reason:
                reason.add(label((*DOMAIN, "reason"), (*names, details.reason)), 1)
            for disk in details.disks:
                what = map(bounded, (disk.kind, *disk[2:7]))
                disks.add(label((*DOMAIN, "disk", *DISK_DETAILS), (*names, disk.device, *what)), 1)
                for limit, value in disk.limits.items():
                    if value:  # 0 is none
                        of_disk = (*names, disk.device, limit)
                        limits.add(label((*DOMAIN, "disk", "limit"), of_disk), value)
            for nic in details.nics:
                what = map(bounded, (*nic[1:6], None if nic.mtu is None else str(nic.mtu)))
                nics.add(label((*DOMAIN, *NIC_DETAILS), (*names, nic.name, *what)), 1)
    yield from (reason, disks, limits, nics)


def _nova(server: Server | None) -> tuple[str, ...]:
    """Return the values of the labels NOVA."""
    if server is None:
        return ("",) * len(NOVA)
    values = (
        *(server.name, server.project_id, server.user_id, server.flavor.get("name")),
        *(server.image_id, server.os_type, server.architecture),
    )
    return tuple(value or "" for value in values)


def _readings(read: Snapshot) -> Iterator[Family]:
    """Yield what the VMs use."""
    records: dict[type, list[tuple[Instance, Any]]] = {kind: [] for kind in TABLES}
    for instance, answer in read.answers:
        for record in () if isinstance(answer, virtmeter.InspectorException) else answer:
            records[type(record)].append((instance, record))
    # Kind by kind: what is written of one is not held while that of another is.
    for kind, (fields, names) in TABLES.items():
        families = [
            (field, field.begins, Family(f"virtmeter_domain_{field.metric}", field.help))
            for field in fields
        ]
        told: set[str] = set()
        for instance, record in records.pop(kind):
            its = device(record)
            labels = label(names, (instance.id, instance.name, *its))
            if labels in told:
                continue  # what the first one does not tell is not this one's to tell
            told.add(labels)
            began = read.created.get((instance.id, kind, its))
            created = None if began is None else f"{began:.3f}"
            for field, begins, family in families:
                value = getattr(record, field.field)
                if value is not None and value >= 0:  # -1 is for what is not counted
                    family.add(labels, field.convert(value), created if begins else None)
        yield from (family for _, _, family in families)


def of_engine(health: Health, hypervisor: str = LIBVIRT) -> Iterator[Family]:
    """Yield what the inspector of such a hypervisor says of itself."""
    for name, text, value in (
        ("connections", "Connections to the hypervisor that are open.", health.connections),
        ("connections_opened_total", "Connections that were ever opened.", health.opened),
        ("connections_broken_total", "Connections that broke in use.", health.broken),
        ("threads", "Threads that take readings.", health.threads),
        ("threads_stuck", "Threads stuck in a call that was given up.", health.stuck),
        ("readings_total", "Readings that were handed out.", health.handed_out),
        ("readings_ahead_total", "Those that were there or under way.", health.read_ahead),
        ("readings_wasted_total", "Readings taken ahead in vain.", health.wasted),
        ("readings_timed_out_total", "Readings that were given up.", health.timeouts),
        ("readings_late_total", "Readings that came after that.", health.late),
        ("readings_age_seconds_total", "Ages when handed out, summed up.", health.age_sum),
        ("readings_age_max_seconds", "The greatest of these ages.", health.age_max),
        ("sizes_reckoned_total", "Sizes of disks that were not asked for.", health.sizes_reckoned),
        ("sizes_asked_total", "Sizes of disks that were asked for.", health.sizes_asked),
        ("sizes_differed_total", "How often the two differed.", health.sizes_differed),
        (
            "outage_seconds",
            "Since when the hypervisor is away.",
            health.outage[1] if health.outage else 0,
        ),
    ):
        yield _single(f"virtmeter_{name}", text, value)
    yield _single(
        "virtmeter_list_hangs_seconds",
        "Since when a list of the VMs has not come, and the last one serves.",
        health.list_hangs or 0,
    )
    busy = Family("virtmeter_domain_busy", "1 when a VM cannot be asked, for this reason.")
    for uuid, (called, reason) in health.busy.items():
        busy.add(label((*DOMAIN, "reason"), (uuid, called or "", reason)), 1)
    yield busy
    locked = Family("virtmeter_domain_locked", "1 when libvirt itself waits for a VM.")
    for uuid, called in health.locked.items():
        locked.add(label(DOMAIN, (uuid, called or "")), 1)
    yield locked
    if hypervisor == LIBVIRT:
        calls = Family("virtmeter_libvirt_calls_total", "Round trips to libvirt.")
    else:
        calls = Family("virtmeter_calls_total", "Requests to the hypervisor.")
    for call, count in sorted(health.calls.items()):
        calls.add(label(("call",), (call,)), count)
    yield calls


def _single(name: str, text: str, value: float) -> Family:
    family = Family(name, text)
    family.add(NO_LABELS, value)
    return family
