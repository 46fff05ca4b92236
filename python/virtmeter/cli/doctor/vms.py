"""Whether the VMs can be read: which hang, what is slow, and what the guests do not tell."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import virtmeter
from virtmeter.cli import balloon, session, units
from virtmeter.cli.connection import is_away
from virtmeter.cli.doctor.finding import OK, PROBLEM, WARNING, Finding, names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtmeter import Inspector, Instance

METHODS = ("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")
SLOW = 0.25
"""Seconds: a call that takes longer is worth a warning."""


def vms(inspector: Inspector, exact: Inspector, sample: int) -> Iterator[Finding]:
    """Read every VM once, and then some of them with every method, to measure that.

    :param inspector: one that finds out at once all VMs that hang.
    :param exact: one that reads nothing ahead.
    """
    instances = inspector.list_instances()
    running = [each for each in instances if each.state != virtmeter.PowerState.SHUTOFF]
    yield Finding(OK, f"libvirt answers: {len(instances)} VM(s), {len(running)} of them running")
    if sentence := session.beside_system(inspector.uri, instances):
        yield Finding(WARNING, sentence)
    stats = {}
    for instance in running:
        answer = read(inspector, "inspect_instance", instance)
        if isinstance(answer, virtmeter.InstanceStats):
            stats[instance] = answer
        elif answer is not None and not isinstance(answer, virtmeter.InspectionTimeout):
            yield Finding(WARNING, f"{instance.name}: inspect_instance: {answer}")
    health = inspector.health()
    hung, busy = health.hung, health.busy
    yield from hanging({vm.name: hung[vm.id][1] for vm in instances if vm.id in hung})
    for vm in instances:
        if vm.id in busy:
            what = (
                f"{vm.name} is busy: {busy[vm.id][1]}; its memory and disks will be read afterwards"
            )
            yield Finding(OK, what)
    well = [vm for vm in stats if vm.id not in {*hung, *busy}]
    yield from speeds(exact, well[:sample])
    yield from memory({vm: stats[vm] for vm in well})
    yield from metadata(inspector, instances)


def speeds(exact: Inspector, instances: Sequence[Instance]) -> Iterator[Finding]:
    """Measure every method."""
    for method in METHODS:
        seconds = []
        for instance in instances:
            began = time.perf_counter()
            answer = read(exact, method, instance)
            seconds.append(time.perf_counter() - began)
            if isinstance(answer, virtmeter.InspectorException):
                yield Finding(WARNING, f"{instance.name}: {method}: {answer}")
        if seconds:
            yield speed(method, seconds)
    if instances:
        calls = (f"{count} {call}" for call, count in exact.health().calls.items() if count)
        yield Finding(OK, f"round trips to libvirt for that: {', '.join(calls)}")
    refused = exact.health().refused
    for instance in instances:
        for line in refused.get(instance.id, ()):
            yield Finding(
                WARNING,
                f"{instance.name}: {line}",
                "libvirt has no counters for some kinds of NICs (user, mcast, vhostuser, vdpa, and "
                "hostdev unless it is a virtual function); a disk may have lost its image: compare "
                "'virsh domifstat' and 'virsh domblkinfo'",
            )


def read(inspector: Inspector, method: str, instance: Instance) -> object:
    """Return what comes of it, which may be an exception, or nothing if the VM has ended."""
    try:
        return getattr(inspector, method)(instance)
    except (virtmeter.InstanceNotFoundException, virtmeter.InstanceShutOffException):
        return None
    except virtmeter.InspectorException as error:
        if is_away(inspector, error):
            raise
        return error


def speed(method: str, seconds: Sequence[float]) -> Finding:
    """Say how long the calls took."""
    median, most = statistics.median(seconds), max(seconds)
    what = f"{method}: median {median * 1e3:.1f} ms, maximum {most * 1e3:.1f} ms of {len(seconds)}"
    if median <= SLOW:
        return Finding(OK, what)
    return Finding(
        WARNING,
        what,
        "libvirt's daemon or this host is overloaded: check the load and the daemon's log",
    )


def hanging(hung: dict[str, float]) -> Iterator[Finding]:
    """Say who does not answer."""
    for name, seconds in hung.items():
        yield Finding(
            PROBLEM,
            f"{name} hangs: its QEMU has not answered for {seconds:.0f} s",
            "check its QEMU process (in 'ps', state D waits for storage, T was stopped) and "
            "its storage; its memory and disks are not reported until it answers",
        )
    if not hung:
        yield Finding(OK, "no VM hangs")


def memory(stats: dict[Instance, virtmeter.InstanceStats]) -> Iterator[Finding]:
    """Say whose memory is not told, and what is missing for that."""
    silent = {vm: each for vm, each in stats.items() if each.memory_usage is None}
    without = [vm.name for vm, each in silent.items() if each.memory_actual is None]
    mute = [vm.name for vm, each in silent.items() if each.memory_actual is not None]
    if without:
        yield Finding(
            WARNING,
            f"memory in use is unknown for VMs without a balloon: {names(without)}",
            "give them <memballoon model='virtio'/> in their XML",
        )
    if mute:
        yield Finding(
            WARNING,
            f"memory in use is unknown for VMs whose balloon reports nothing: {names(mute)}",
            "the guest must have loaded its driver virtio_balloon, and a period must be set: "
            "'virsh dommemstat VM --period 10 --live' (Nova: mem_stats_period_seconds)",
        )
    old = [
        f"{vm.name} ({units.duration(balloon.age(each.memory_updated))})"
        for vm, each in stats.items()
        # The balloon of one that is paused cannot tell anything.
        if each.power_state == virtmeter.PowerState.RUNNING and balloon.is_old(each.memory_updated)
    ]
    if old:
        yield Finding(
            WARNING,
            f"memory in use is outdated for VMs: {names(old)}",
            "the guest has crashed, its balloon driver or service has stopped, or no period is set "
            "for the balloon's statistics: 'virsh dommemstat VM --period 10 --live', and "
            "<stats period='10'/> within <memballoon> in its XML (Nova: mem_stats_period_seconds)",
        )
    if stats and not silent and not old:
        yield Finding(OK, "all VMs report their memory in use")


def metadata(inspector: Inspector, instances: Sequence[Instance]) -> Iterator[Finding]:
    """Say which VMs are not Nova's, on a host of Nova's."""
    servers = inspector.list_servers()
    of_nova = {server.id for server in servers}
    others = [each.name for each in instances if each.id not in of_nova]
    if of_nova and others:
        yield Finding(
            WARNING,
            f"without OpenStack Nova's metadata, which other VMs here have: {names(others)}",
            "Ceilometer does not report them: Nova did not create them, or its metadata is broken",
        )
    for server in servers:
        if server.missing:
            yield Finding(
                WARNING,
                f"OpenStack Nova's metadata of {server.domain_name} is incomplete: "
                f"it lacks {', '.join(server.missing)}",
                "Ceilometer does not report it; compare 'virsh dumpxml' with that of another VM",
            )
    if of_nova and not others:
        yield Finding(OK, "all VMs are OpenStack Nova's")
