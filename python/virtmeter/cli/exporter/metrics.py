"""Makes Prometheus' metrics of what a pass has read, and of what the inspector says of itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import virtmeter
from virtmeter.cli.exporter.reading import Pass, failures
from virtmeter.cli.exporter.tables import DOMAIN, NOVA, STATES, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from virtmeter import Health, Instance, Server
    from virtmeter.cli.exporter.reading import Answer


def registry(current: Pass, health: Callable[[], Health]) -> CollectorRegistry:
    """Return a registry with the metrics of this pass and no other."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PassCollector(current, health))
    return registry


class PassCollector(Collector):
    """What prometheus_client asks for the metrics."""

    def __init__(self, current: Pass, health: Callable[[], Health]) -> None:
        """Keep what the metrics are made of."""
        self._pass = current
        self._health = health

    def describe(self) -> Iterable[Metric]:
        """Return all metrics without a value, which lets scrapers choose by ``name[]``."""
        nothing = Pass()
        yield from _scrape(nothing, (), complete=False)
        yield from _domains(nothing, (), ())
        yield from _engine(self._health())

    def collect(self) -> Iterable[Metric]:
        """Return all metrics; while a pass goes on, of what it has read by now."""
        complete, answers = self._pass.complete, tuple(self._pass.answers)
        health = self._health()
        yield from _scrape(self._pass, answers, complete=complete)
        yield from _domains(self._pass, answers, health.hung)
        yield from _engine(health)


def _scrape(
    current: Pass, answers: Sequence[tuple[Instance, Answer]], *, complete: bool
) -> Iterator[Metric]:
    """Yield what is to be known of the reading itself."""
    age = time.monotonic() - current.began
    build = InfoMetricFamily("virtmeter_build", "The version that is running.")
    build.add_metric([], {"version": virtmeter.__version__})
    yield build
    yield _single("virtmeter_up", "1 when libvirt answers.", current.reached)
    yield _single("virtmeter_scrape_complete", "1 when there was time to ask every VM.", complete)
    yield _single("virtmeter_scrape_age_seconds", "Age of the oldest value in here.", age)
    yield _single(
        "virtmeter_scrape_failures",
        "Readings that libvirt refused or a VM did not answer.",
        failures(answers),
    )


def _domains(
    current: Pass, answers: Sequence[tuple[Instance, Answer]], hung: Collection[str]
) -> Iterator[Metric]:
    """Yield what is to be known of the VMs."""
    info = InfoMetricFamily(
        "virtmeter_domain", "What OpenStack Nova says of a VM.", labels=(*DOMAIN, *NOVA)
    )
    state = _family("virtmeter_domain_state", f"State: {STATES}.", DOMAIN)
    answering = _family("virtmeter_domain_answering", "0 when a running VM hangs.", DOMAIN)
    silent = {*hung}
    for instance, answer in answers:
        if isinstance(answer, virtmeter.InspectionTimeout):
            silent.add(instance.id)
    for instance in current.instances:
        labels = (instance.id, instance.name)
        if instance.id in current.described:
            info.add_metric((*labels, *_nova(current.servers.get(instance.id))), {})
        state.add_metric(labels, instance.state)
        if instance.state != virtmeter.PowerState.SHUTOFF:
            answering.add_metric(labels, instance.id not in silent)
    yield from (info, state, answering)
    yield from _readings(answers)


def _nova(server: Server | None) -> tuple[str, ...]:
    """Return the values of the labels NOVA."""
    if server is None:
        return ("",) * len(NOVA)
    values = (
        *(server.name, server.project_id, server.user_id, server.flavor.get("name")),
        *(server.image_id, server.os_type, server.architecture),
    )
    return tuple(value or "" for value in values)


def _readings(answers: Sequence[tuple[Instance, Answer]]) -> Iterator[Metric]:
    """Yield what the VMs use."""
    families = {
        kind: [_family(f"virtmeter_domain_{each.metric}", each.help, labels) for each in fields]
        for kind, (fields, labels) in TABLES.items()
    }
    for instance, answer in answers:
        for record in () if isinstance(answer, virtmeter.InspectorException) else answer:
            labels = (instance.id, instance.name, *_device(record))
            for field, family in zip(TABLES[type(record)][0], families[type(record)]):
                value = getattr(record, field.field)
                if value not in (None, -1):
                    family.add_metric(labels, field.convert(value))
    for kind in families.values():
        yield from kind


def _device(record: object) -> tuple[str, ...]:
    """Return the values of the labels that a record has beside its VM's."""
    if isinstance(record, virtmeter.InterfaceStats):
        return (record.name, record.mac or "")
    if isinstance(record, (virtmeter.DiskStats, virtmeter.DiskInfo)):
        return (record.device,)
    return ()


def _engine(health: Health) -> Iterator[Metric]:
    """Yield what the inspector says of itself."""
    for name, text, value in (
        ("connections", "Connections to libvirt that are open.", health.connections),
        ("connections_opened_total", "Connections that were ever opened.", health.opened),
        ("connections_broken_total", "Connections that broke in use.", health.broken),
        ("threads", "Threads that take readings.", health.threads),
        ("threads_stuck", "Threads stuck in a reading that was given up.", health.stuck),
        ("readings_total", "Readings that were handed out.", health.handed_out),
        ("readings_ahead_total", "Those that were there or under way.", health.read_ahead),
        ("readings_wasted_total", "Readings taken ahead in vain.", health.wasted),
        ("readings_timed_out_total", "Readings that were given up.", health.timeouts),
        ("readings_late_total", "Readings that came after that.", health.late),
        ("readings_age_seconds_total", "Ages when handed out, summed up.", health.age_sum),
        ("readings_age_max_seconds", "The greatest of these ages.", health.age_max),
        ("outage_seconds", "Since when libvirt is away.", health.outage[1] if health.outage else 0),
    ):
        yield _single(f"virtmeter_{name}", text, value)
    calls = _family("virtmeter_libvirt_calls_total", "Round trips to libvirt.", ("call",))
    for call, count in sorted(health.calls.items()):
        calls.add_metric((call,), count)
    yield calls


def _family(
    name: str, text: str, labels: Sequence[str] = ()
) -> CounterMetricFamily | GaugeMetricFamily:
    """Return a metric without values: its name says whether it is a counter, and its unit."""
    bare = name[: -len("_total")] if name.endswith("_total") else name
    unit = bare.rpartition("_")[2]
    kind = GaugeMetricFamily if bare == name else CounterMetricFamily
    return kind(bare, text, labels=labels, unit=unit if unit in ("seconds", "bytes") else "")


def _single(name: str, text: str, value: float) -> Metric:
    family = _family(name, text)
    family.add_metric([], value)
    return family
