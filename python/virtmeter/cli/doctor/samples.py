"""What vSphere's samples are like: pure arithmetic over samples just as a server tells them.

Much of it only a real vCenter can tell, and no simulator: so each finding has the numbers, for
whoever sends them.
"""

from __future__ import annotations

import statistics
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple, Optional

from virtmeter.cli.doctor.finding import OK, Finding, names
from virtmeter.cli.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

STEP = 20
"""Seconds that a sample is over."""
HOUR = 3600 // STEP
"""Samples that a host keeps."""
SHOWN, NEWEST = 2, 3
"""Of so many VMs, so many of the newest samples are shown as they are."""
WHOLE = ""
"""The instance of a counter that stands for the whole VM."""
CPU = ("run", "ready", "costop", "wait")
"""What all time of a vCPU is divided into, by the names of the counters."""

Series = tuple[str, str, list[Optional[int]]]


class Samples(NamedTuple):
    """The samples of one VM."""

    id: str
    comes_in_order: bool
    """Whether they came from old to new."""
    times: list[tuple[int, int]]
    """From old to new: the end of each, seconds since the epoch, and its length in seconds."""
    series: list[Series]
    """Counter, instance, and a value for each of the times, None where it is missing (-1)."""

    def of(self, counter: str) -> dict[str, list[int | None]]:
        """Return the values of a counter, by instance."""
        return {instance: values for name, instance, values in self.series if name == counter}


def findings(
    sampled: Sequence[Samples], called: Mapping[str, str], clock: int
) -> Iterator[Finding]:
    """Say what samples are like.

    :param called: the VMs' names.
    :param clock: the server's.
    """
    sampled = [vm for vm in sampled if vm.times]
    if not sampled:
        yield Finding(OK, "no VM has samples that could be looked at")
        return
    yield Finding(OK, grid(sampled, clock))
    yield Finding(OK, missing(sampled))
    yield Finding(OK, cpu_time(sampled))
    yield Finding(OK, wholes("cpu.run.summation", "ms", "vCPUs", sampled))
    for counter in ("net.received.average", "virtualDisk.read.average"):
        yield Finding(OK, wholes(counter, "KBps", "devices", sampled))
    yield Finding(OK, instances(sampled))
    yield from fewer(sampled, called)
    for vm in sampled[:SHOWN]:
        yield Finding(OK, newest(vm, called.get(vm.id, vm.id)))


def grid(sampled: Sequence[Samples], clock: int) -> str:
    """When there are samples, and in which order."""
    lengths = sorted({length for vm in sampled for _, length in vm.times})
    offsets = sorted({end % STEP for vm in sampled for end, _ in vm.times})
    in_order = sum(vm.comes_in_order for vm in sampled)
    ages = [clock - vm.times[-1][0] for vm in sampled]
    counts = [len(vm.times) for vm in sampled]
    return (
        f"samples of {len(sampled)} VM(s), {_range(counts)} of each: over {_list(lengths)} s, "
        f"{_list(offsets)} s after a multiple of {STEP} s, from old to new for {in_order} VM(s); "
        f"the newest {_range(ages)} s old by the server's clock"
    )


def missing(sampled: Sequence[Samples]) -> str:
    """Which values were -1."""
    values = sum(len(values) for vm in sampled for *_, values in vm.series)
    holes: dict[str, int] = {}
    for vm in sampled:
        for counter, _, told in vm.series:
            if count := told.count(None):
                holes[counter] = holes.get(counter, 0) + count
    what = f"{sum(holes.values())} of {values} values are missing (-1)"
    most_first = sorted(holes.items(), key=lambda hole: -hole[1])
    listed = names([f"{count} of {name}" for name, count in most_first])
    return f"{what}: {listed}" if holes else what


def cpu_time(sampled: Sequence[Samples]) -> str:
    """Whether all time of the vCPUs is accounted for."""
    shares = []
    for vm in sampled:
        parts = [vm.of(f"cpu.{name}.summation").get(WHOLE, []) for name in CPU]
        vcpus = len(vm.of("cpu.run.summation").keys() - {WHOLE})
        for (_, length), *values in zip(vm.times, *parts):
            known = [value for value in values if value is not None]
            if len(known) == len(CPU) and vcpus and length:
                shares.append(100 * sum(known) / (1000 * length * vcpus))
    what = " + ".join(CPU)
    if not shares:
        return f"cpu: {what} are not to be had of the whole VM and of each vCPU"
    return (
        f"cpu: {what} are {min(shares):.2f} to {max(shares):.2f} % of the time of the vCPUs, "
        f"median {statistics.median(shares):.2f} %, in {counted(len(shares), 'sample')}"
    )


def wholes(counter: str, unit: str, devices: str, sampled: Sequence[Samples]) -> str:
    """Whether the value of a whole VM is the sum of its devices', which tells of their rounding."""
    differences = []
    for vm in sampled:
        by_instance = vm.of(counter)
        whole = by_instance.pop(WHOLE, None)
        own = [values for name, values in by_instance.items() if not name.startswith("vmnic")]
        if whole is None or not own:
            continue
        for total, *values in zip(whole, *own):
            known = [value for value in values if value is not None]
            if total is not None and len(known) == len(values):
                differences.append(total - sum(known))
    if not differences:
        return f"{counter} has no value of the whole VM beside those of its {devices}"
    equal = differences.count(0)
    return (
        f"{counter} of the whole VM less the sum of its {devices}: 0 in {equal} of "
        f"{counted(len(differences), 'sample')}, {min(differences)} to {max(differences)} {unit} "
        "in all"
    )


def instances(sampled: Sequence[Samples]) -> str:
    """Which instances a server has of the devices' counters."""
    found = {
        group: sorted({name for vm in sampled for c, name, _ in vm.series if c.startswith(group)})
        for group in ("net.", "virtualDisk.")
    }
    told = (
        f"{group}*: {names([name or '(whole VM)' for name in these]) or 'none'}"
        for group, these in found.items()
    )
    return f"instances: {'; '.join(told)}"


def fewer(sampled: Sequence[Samples], called: Mapping[str, str]) -> Iterator[Finding]:
    """Say which VMs have fewer samples than they should: as after a vMotion, perhaps."""
    for vm in sampled:
        uptime = next((up for up in reversed(vm.of("sys.uptime.latest").get(WHOLE, [])) if up), 0)
        if len(vm.times) < min(HOUR, uptime // STEP) - 1:
            yield Finding(
                OK,
                f"{called.get(vm.id, vm.id)} has samples since {_time(vm.times[0][0])} only, "
                f"{len(vm.times)} of them, though it has been up for {uptime} s: after a vMotion, "
                "there are those of its new host",
            )


def newest(vm: Samples, name: str) -> str:
    """Return the newest samples as they are."""
    times = ", ".join(_time(end) for end, _ in vm.times[-NEWEST:])
    lines = [
        f"{counter}[{instance}] {', '.join('-1' if v is None else str(v) for v in told[-NEWEST:])}"
        for counter, instance, told in vm.series
    ]
    return f"samples of {name} at {times}: {'; '.join(lines)}"


def changed(before: Sequence[Samples], after: Sequence[Samples], seconds: float) -> Finding:
    """Say what has become of samples since: whether they are filled in, or come late."""
    filled = still = other = late = 0
    earlier = {vm.id: vm for vm in before if vm.times}
    for vm in after:
        if vm.id not in earlier:
            continue
        old = earlier[vm.id]
        place = {end: index for index, (end, _) in enumerate(old.times)}
        known = {(counter, instance): values for counter, instance, values in old.series}
        first, last = old.times[0][0], old.times[-1][0]
        late += sum(first < end < last and end not in place for end, _ in vm.times)
        for counter, instance, values in vm.series:
            told = known.get((counter, instance))
            for (end, _), value in zip(vm.times, values):
                if told is None or end not in place:
                    continue
                was = told[place[end]]
                filled += was is None and value is not None
                still += was is None and value is None
                other += was is not None and value != was
    return Finding(
        OK,
        f"asked again after {seconds:g} s: missing values filled in: {filled} of "
        f"{filled + still}; others changed: {other}; samples that came late: {late}",
    )


def _time(end: int) -> str:
    return datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def _list(numbers: Iterable[int]) -> str:
    return names([str(number) for number in numbers])
