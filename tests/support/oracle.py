"""The stock inspector of the installed Ceilometer, right by definition, and what to ask it.

The stock inspector is run, never described: both inspectors get the same question about the same
guest, and their outcomes are compared field by field.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libvirt
from ceilometer.compute import discovery
from ceilometer.compute.virt import inspector as virt_inspector
from ceilometer.compute.virt.libvirt import utils
from ceilometer.compute.virt.libvirt.inspector import LibvirtInspector
from oslo_config import cfg

import virtmeter

METHODS = ("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")

# What our records have beyond the stock ones, after all fields that both have.
ADDED = {
    virtmeter.InstanceStats: (
        "vcpu_wait",
        "vcpu_delay",
        "memory_major_faults",
        "memory_minor_faults",
        "memory_disk_caches",
        "memory_hugetlb_allocations",
        "memory_hugetlb_failures",
        "memory_active",
        "memory_updated",
        "vcpu_time",
        "start",
    ),
    virtmeter.InterfaceStats: ("start",),
    virtmeter.DiskStats: ("flush_requests", "flush_total_times", "start"),
    virtmeter.DiskInfo: ("occupied",),
}

# What the stock inspector prints of libvirt's errors is no part of its answers.
libvirt.registerErrorHandler(lambda *_: None, None)


def stock_inspector(uri: str, *, report_stopped: bool = False) -> Any:
    """Return Ceilometer's own inspector, configured as an agent would."""
    conf = cfg.ConfigOpts()
    conf.register_opts(utils.OPTS)
    conf.register_opts(discovery.OPTS, group="compute")
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("libvirt_uri", uri)
    conf.set_override("report_stopped_instance_metrics", report_stopped, group="compute")
    return LibvirtInspector(conf)


class Pair:
    """Both inspectors on one libvirt."""

    def __init__(self, uri: str, *, report_stopped: bool = False) -> None:
        self.stock = stock_inspector(uri, report_stopped=report_stopped)
        self.ours = virtmeter.LibvirtInspector(
            uri, report_stopped=report_stopped, parity=True, all_vnics=False
        )

    def assert_equal(self, uuid: str, *methods: str) -> dict[str, Outcome]:
        """Compare the outcomes of these methods, or all, and return ours."""
        outcomes = {}
        for method in methods or METHODS:
            stock, ours = outcome(self.stock, method, uuid), outcome(self.ours, method, uuid)
            assert ours == stock, f"{method}: virtmeter says {ours}, the oracle {stock}"
            outcomes[method] = ours
        return outcomes


Outcome = list[dict[str, Any]] | str
"""The records as dictionaries, each value with its type, or the name of an exception."""


def outcome(inspector: Any, method: str, uuid: str) -> Outcome:
    """Ask one question and return what came of it."""
    instance = SimpleNamespace(id=uuid)
    expected = (virt_inspector.InspectorException, virtmeter.InspectorException)
    try:
        answer = getattr(inspector, method)(instance, None)
        records = [answer] if method == "inspect_instance" else list(answer)
    except expected as exception:
        return type(exception).__name__
    return [as_dict(record) for record in records]


def values(outcome: Outcome, name: str) -> list[Any]:
    """Return one field of all records, without the types."""
    assert not isinstance(outcome, str), outcome
    return [record[name][1] for record in outcome]


def as_dict(record: Any) -> dict[str, Any]:
    """Return the fields that both have, with the type beside each value: 1 is not 1.0."""
    return {name: typed(getattr(record, name)) for name in shared_fields(record)}


def shared_fields(record: Any) -> tuple[str, ...]:
    """Return the names of the fields without those that only virtmeter has."""
    names = tuple(getattr(record, "_fields", None) or record.fields)
    added = ADDED.get(type(record), ())
    first = len(names) - len(added)
    assert names[first:] == added, names
    return names[:first]


def typed(value: Any) -> Any:
    """Return the value with the names of its types."""
    if isinstance(value, dict):
        return type(value).__name__, [(key, typed(item)) for key, item in value.items()]
    return type(value).__name__, value
