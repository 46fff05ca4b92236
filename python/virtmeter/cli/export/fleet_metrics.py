"""What the exporter says of itself and of its targets, without asking any of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from virtmeter.cli.export.metrics import NO_LABELS, Family, build_info, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtmeter.cli.export.fleet import Entry
    from virtmeter.cli.export.reload import Reload

PROCESS = prometheus_client.CollectorRegistry()
prometheus_client.ProcessCollector(registry=PROCESS)
"""CPU, memory and descriptors of this process, under the names that all exporters have."""

TARGET = ("target",)


def families(entries: Iterable[Entry], reload: Reload) -> Iterator[Family]:
    """Yield all that is known; what is not, as of a target that was not read yet, is left out."""
    yield build_info()
    for name, text, value in (
        ("successful", "1 when the last reload of the configuration went well.", reload.successful),
        ("success_timestamp_seconds", "When a reload last did.", reload.when),
    ):
        family = Family(f"virtmeter_config_last_reload_{name}", text)
        family.add(NO_LABELS, value)
        yield family
    yield from _of_targets(entries)


def _of_targets(entries: Iterable[Entry]) -> Iterator[Family]:
    info = Family("virtmeter_target_info", "What reads a target.")
    opened = Family("virtmeter_target_open", "1 when it is read, as somebody asks for it.")
    scrapes = Family("virtmeter_target_scrapes_total", "How often it was asked for.")
    up = Family("virtmeter_target_up", "1 when it answered the last time.")
    complete = Family("virtmeter_target_complete", "1 when every VM was asked for everything then.")
    vms = Family("virtmeter_target_vms", "VMs that it had then.")
    age = Family("virtmeter_target_age_seconds", "How long ago that was.")
    took = Family("virtmeter_target_reading_seconds", "How long that took.")
    threads = Family("virtmeter_target_threads", "Threads that read it.")
    connections = Family("virtmeter_target_connections", "Connections to it that are open.")
    expires = Family(
        "virtmeter_target_certificate_expiry_timestamp_seconds",
        "When its certificate expires; not where one is pinned, or none is asked for.",
    )
    now = time.monotonic()
    for entry in entries:
        target, reads = entry.target, entry.opened
        labels = label(TARGET, (target.name,))
        info.add(label((*TARGET, "hypervisor"), (target.name, target.kind)), 1)
        opened.add(labels, reads is not None)
        scrapes.add(labels, entry.scrapes)
        if entry.expires is not None:
            expires.add(labels, entry.expires)
        if reads is None:
            continue
        health = reads.reader.health()
        threads.add(labels, health.threads)
        connections.add(labels, health.connections)
        if last := reads.reader.last():
            up.add(labels, last.reached)
            complete.add(labels, last.complete)
            if last.vms is not None:
                vms.add(labels, last.vms)
            age.add(labels, now - last.began)
            took.add(labels, last.took)
    yield from (info, opened, scrapes, up, complete, vms, age, took, threads, connections, expires)


def text(entries: Iterable[Entry], reload: Reload, *, openmetrics: bool) -> bytes:
    """Return all of it."""
    blocks = [family.block() for family in families(entries, reload)]
    ours = b"".join(each.header(openmetrics=openmetrics) + each.lines[:] for each in blocks)
    if openmetrics:
        process: bytes = generate_openmetrics(PROCESS)  # type: ignore[no-untyped-call]
        return ours + process  # with the end
    return ours + prometheus_client.generate_latest(PROCESS)
