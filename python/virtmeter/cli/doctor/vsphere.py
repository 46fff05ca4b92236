"""Whether a vCenter or ESXi host can be read, and what whoever looks for a fault has to know."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import virtmeter
from virtmeter import PowerState
from virtmeter.cli import connection, units
from virtmeter.cli.doctor import https, samples
from virtmeter.cli.doctor.finding import OK, PROBLEM, WARNING, Finding, names
from virtmeter.cli.text import natural, shown_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from virtmeter import Host, Inspector, Instance

YOUNGEST, OLDEST = -2.0, 60.0
"""Seconds that the newest sample may be old, by two clocks: there is one every 20 s."""
APART = 30.0
"""Seconds by which the ages of hosts' newest samples may differ."""
MOST = 50
"""VMs whose samples are looked at; an answer about them has some megabytes."""
SKEW = 5.0
"""Seconds by which the clocks of the server and of this machine may differ."""

SAME_PIN = (
    "once 'openssl x509 -noout -fingerprint -sha256' shows the same of the server's own copy: "
    "/etc/vmware/ssl/rui.crt on an ESXi host, and on a vCenter what '/usr/lib/vmware-vmafd/bin/"
    "vecs-cli entry getcert --store MACHINE_SSL_CERT --alias __MACHINE_CERT' prints"
)
READ_ONLY = (
    "give the user the role Read-only at the root of the inventory, with 'Propagate to children': "
    "in the vSphere Client, at the vCenter itself, under Permissions"
)
AGAIN = "'virtmeter doctor --check-rows 60' asks again after so long, and says what came of them"


class Examined(NamedTuple):
    """What a server tells of itself and of its samples."""

    server: str
    clock: int
    """Seconds since the epoch."""
    lacking: list[str]
    """Counters that it does not have."""
    refused: int
    """How many properties the user may not see."""
    left_out: int
    """VMs without a UUID, or with another's."""
    unknown: str | None
    """The fault of a call that is also about a VM that does not exist; None without one."""
    sampled: list[samples.Samples]


def examine(inspector: Inspector, vms: Sequence[str]) -> Examined:
    """Ask for all samples that there are of these VMs."""
    told = Examined(*inspector._examine(list(vms), samples.HOUR))  # noqa: SLF001
    return told._replace(sampled=[samples.Samples(*each) for each in told.sampled])


def vcenter(
    uri: str, timeout: float, workers: int, sample: int, check: float | None
) -> Iterator[Finding]:
    """Log in once, read everything, and look at the samples of ``sample`` VMs.

    :param check: seconds after which samples are asked for again.
    :raises virtmeter.ConnectionLost: it cannot be read at all.
    :raises ValueError: the URI cannot be used.
    """
    with connection.inspector(uri, timeout, workers, quiet=True) as inspector:
        yield from https.password(uri)
        yield from https.insecure(uri, timeout, SAME_PIN)
        instances = inspector.list_instances()
        told = examine(inspector, [])
        here = time.time()
        server = told.server or "of an unknown version"
        yield Finding(OK, f"logged in at {shown_uri(uri)}: {server}")
        yield from https.certificate(uri, timeout)
        yield clock(told.clock, here)
        yield from lacks(told)
        hosts = inspector.list_hosts()
        states = Counter(instance.state for instance in instances)
        what = f"{len(hosts)} host(s), {len(instances)} VM(s), {states[PowerState.RUNNING]} running"
        if not hosts or not instances:
            yield Finding(
                PROBLEM, f"{what}: what a user may not see, vSphere does not list", READ_ONLY
            )
        else:
            yield Finding(OK, what)
        away = inspector.health().away
        hosts.sort(key=lambda host: natural(host.name))
        for host in hosts:
            yield from of_host(host)
        yield from absent(hosts, instances, away)
        yield from clocks(hosts)
        running = [vm for vm in instances if vm.state == PowerState.RUNNING]
        running.sort(key=lambda vm: natural(vm.name))
        yield from of_samples(inspector, running[: min(sample, MOST)], check)
        yield https.requests(inspector.health())


def clock(server: int, here: float) -> Finding:
    """Say whether the clocks of the server and this machine agree, on which nothing depends."""
    how = "ahead of" if server > here else "behind"
    what = f"its clock is {abs(server - here):.0f} s {how} the one here"
    if abs(server - here) <= SKEW:
        return Finding(OK, what)
    advice = "check the time on both (NTP), which changes no value of virtmeter's"
    return Finding(WARNING, what, advice)


def lacks(told: Examined) -> Iterator[Finding]:
    """Say what the server does not have, or does not let this user see."""
    if told.lacking:
        yield Finding(
            WARNING,
            f"the server does not have the counters {', '.join(told.lacking)}",
            "what comes from them is unknown; please report this, with the version",
        )
    if told.refused:
        yield Finding(
            WARNING, f"{told.refused} properties of VMs or hosts may not be seen", READ_ONLY
        )
    if told.left_out:
        yield Finding(
            WARNING,
            f"{told.left_out} VM(s) are left out: they have no UUID of their own "
            "(config.instanceUuid), or that of another VM",
            "a VM that is being cloned gets one in the end; else change its vc.uuid",
        )


def of_host(host: Host) -> Iterator[Finding]:
    """Say what a host is, and how its samples are."""
    about = (
        host.product or "unknown product",
        f"{units.number(host.cpus)} CPU threads",
        f"{host.instances} running VM(s)",
    )
    yield Finding(OK, f"host {host.name}: {', '.join(about)}")
    if host.live is False or not host.instances:
        return
    if host.lag is None:
        yield Finding(WARNING, f"host {host.name}: it has told no samples yet")
        return
    age = units.duration(abs(host.lag))
    how = f"{age} old" if host.lag >= 0 else f"{age} in the future"
    what = f"host {host.name}: its newest sample was {how}, by its clock and the one here"
    if YOUNGEST <= host.lag <= OLDEST:
        yield Finding(OK, what)
    else:
        advice = "check the time on the host and here (NTP), which changes no value of virtmeter's"
        yield Finding(WARNING, what, advice)


def absent(
    hosts: Sequence[Host], instances: Sequence[Instance], away: Mapping[str, tuple[str, float]]
) -> Iterator[Finding]:
    """Say which hosts do not answer, and which VMs are not told."""
    for name, (why, _) in away.items():
        yield Finding(
            PROBLEM,
            f"host {name} does not answer: {why}",
            "check the host and its connection to the vCenter; its VMs are not reported until then",
        )
    lost = [host.name for host in hosts if host.live is False and host.name not in away]
    if lost:
        yield Finding(
            PROBLEM,
            f"vCenter does not hear of hosts, which are disconnected or do not respond: "
            f"{names(lost)}",
            "reconnect them in the vSphere Client, or check that they run",
        )
    unknown = [vm.name for vm in instances if vm.state == PowerState.NOSTATE]
    if unknown:
        yield Finding(
            WARNING,
            f"the state of VMs is unknown: {names(unknown)}",
            "their host is not connected, or they are orphaned, inaccessible or invalid in vSphere",
        )


def clocks(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Say whether the hosts' clocks agree."""
    lags = {host.name: host.lag for host in hosts if host.lag is not None}
    if len(lags) < 2:
        return
    first, last = min(lags, key=lags.__getitem__), max(lags, key=lags.__getitem__)
    apart = lags[last] - lags[first]
    what = f"the ages of the newest samples of {len(lags)} hosts differ by {apart:.0f} s at most"
    if apart <= APART:
        yield Finding(OK, what)
    else:
        yield Finding(
            WARNING,
            f"{what}: {first} is ahead of {last}",
            "check the time on both (NTP): what a VM does when it moves between them is not known",
        )


def of_samples(
    inspector: Inspector, running: Sequence[Instance], check: float | None
) -> Iterator[Finding]:
    """Say what the samples of these VMs are like."""
    if not running:
        return
    called = {vm.id: vm.name for vm in running}
    try:
        told = examine(inspector, list(called))
        yield from samples.findings(told.sampled, called, told.clock)
        if check is None:
            yield Finding(OK, "whether missing or late samples come later was not looked at", AGAIN)
        else:
            time.sleep(check)
            again = examine(inspector, list(called))
            yield samples.changed(told.sampled, again.sampled, check)
    except virtmeter.InspectorException as error:
        # One of them may be gone by now.
        yield Finding(
            WARNING, f"samples were not looked at: {error}", "run 'virtmeter doctor' again"
        )
        return
    yield Finding(
        OK,
        "a call that is also about a VM that does not exist "
        + (f"fails: {told.unknown}" if told.unknown else "leaves that one out"),
    )
