"""The named tuples: Ceilometer's fields, and the manners of a tuple."""

from __future__ import annotations

import copy
import pickle

import pytest
from ceilometer.compute.virt import inspector as virt_inspector

import virtmeter
from tests.support.oracle import ADDED

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
SAMPLES = [
    virtmeter.Instance(UUID, "test", 1),
    virtmeter.InstanceStats(1, 2, 2**64 - 1, 512.5),
    virtmeter.InterfaceStats("tap0", "52:54:00:00:00:01", None, {"bridge": None}, *range(10)),
    virtmeter.DiskStats("vda", 1, 2, 3, 4, -1, 5, 6),
    virtmeter.DiskInfo("vda", 2**64 - 1, 2, 3),
    virtmeter.InterfaceRateStats("tap0", None, "no-spoof", {"bridge": None}, 0.0, 1.5),
    virtmeter.DiskRateStats("vda", 1.0, 2.0, 3.0, 4.0),
    virtmeter.VmUsage(
        *(UUID, "test", 2, 50.0, 12.5, 2.0, 1.0, 2.0, 3, 4, 5.0, 6.0, 7, 8, 9, 10, 3.0, 4.0),
        *(2.0, 4.0, 2.0, 11, 8.0),
    ),
]


@pytest.mark.parametrize(
    "name", ["InterfaceStats", "InterfaceRateStats", "DiskStats", "DiskRateStats", "DiskInfo"]
)
def test_fields_are_ceilometers_and_then_ours(name: str) -> None:
    ours, theirs = getattr(virtmeter, name), getattr(virt_inspector, name)
    assert ours._fields == (*theirs._fields, *ADDED.get(ours, ()))


def test_instance_stats_has_ceilometers_fields_then_ours_and_none_for_each() -> None:
    added = ADDED[virtmeter.InstanceStats]
    assert virtmeter.InstanceStats._fields == (*virt_inspector.InstanceStats.fields, *added)
    assert set(virtmeter.InstanceStats()) == {None}


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_records_are_true_tuples(record: virtmeter.DiskInfo) -> None:
    assert isinstance(record, tuple)
    assert tuple(record) == record
    assert type(record)(*record) == record
    assert type(record)(**record._asdict()) == record
    first = record._fields[0]
    replaced: tuple[object, ...] = record._replace(**{first: "new"})  # type: ignore[arg-type]
    assert replaced == ("new", *record[1:])
    for twin in (pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record)):
        assert twin == record
        assert type(twin) is type(record)


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_every_record_is_documented(record: virtmeter.DiskInfo) -> None:
    documentation = type(record).__doc__
    assert documentation
    assert not documentation.startswith(type(record).__name__), "the one of any named tuple"


def test_usage_has_averages_over_the_time_that_each_value_is_over() -> None:
    usage = SAMPLES[-1]
    assert isinstance(usage, virtmeter.VmUsage)
    assert (usage.per_second("network_read_kib"), usage.per_second("network_write_kib")) == (0.5, 1)
    requests = usage.per_second("disk_read_requests"), usage.per_second("disk_write_requests")
    assert requests == (0.375, 0.5)
    kib = usage.per_second("disk_read_kib"), usage.per_second("disk_write_kib")
    assert kib == (1.25, 1.5)
    unknown = usage._replace(disk_read_kib=None, disk_interval=None)
    assert unknown.per_second("disk_read_kib") is None
    assert unknown.per_second("disk_write_kib") is None
    for field in ("memory_used", "interval", "per_second", "cpu_utilization", ""):
        with pytest.raises(ValueError, match="has no average; these have: network_read_kib, "):
            usage.per_second(field)


def test_readings_are_these_records() -> None:
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        [instance] = inspector.list_instances()
        assert type(instance) is virtmeter.Instance
        assert instance[:] == (UUID, "test", virtmeter.PowerState.RUNNING)
        stats = inspector.inspect_instance(instance)
        assert type(stats) is virtmeter.InstanceStats
        assert pickle.loads(pickle.dumps(stats)) == stats
        [vnic] = inspector.inspect_vnics(instance)
        assert type(vnic) is virtmeter.InterfaceStats
        [info] = inspector.inspect_disk_info(instance)
        assert type(info) is virtmeter.DiskInfo
