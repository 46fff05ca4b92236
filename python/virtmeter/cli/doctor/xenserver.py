"""Whether a pool of XenServer can be read, and what whoever looks for a fault has to know of it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import virtmeter
from virtmeter import PowerState
from virtmeter.cli import connection, units
from virtmeter.cli.doctor import https
from virtmeter.cli.doctor.finding import OK, PROBLEM, WARNING, Finding, names
from virtmeter.cli.doctor.vms import read
from virtmeter.cli.text import counted, natural, shown_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtmeter import Host, Inspector, Instance, VmUsage

CALLER = "doctor"
AGAIN = 6.0
"""Seconds after which there is something new to read."""
YOUNGEST, OLDEST = -2.0, 20.0
"""Seconds that the newest row may be old, by two clocks: there is one every 5 s."""

MAY_LIE = "rows may be wrong"
"""How the quirk begins that makes a comparison worth while."""
UNCHECKABLE = "rows cannot be checked"
"""How the quirk begins that makes a comparison impossible."""
SAME_PIN = (
    "once 'openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem' shows the "
    "same on that host"
)
UNCHECKED = (
    "'virtmeter doctor --check-rows 90' compares them, and so does whatever reads on for minutes; "
    "'virtmeter export' tells the result as virtmeter_host_rows_wrong"
)
UPDATE = (
    "nothing tells whether they are right, and if they are not, usage is off by a factor of up to "
    "two: update the host, as since xapi 25.3 its rows are checked"
)
RECORD = (
    "to have XenServer record it: 'xe vm-data-source-record uuid=UUID "
    "data-source=runstate_full_contention'; that is a change, and needs a user who may make it"
)


def pool(
    uri: str, timeout: float, workers: int, sample: int, check_rows: float | None
) -> Iterator[Finding]:
    """Log in once, read every host, and ``sample`` VMs for their exact counters.

    :param check_rows: seconds to go on for, so that rows can be compared with exact counters.
    :raises virtmeter.ConnectionLost: it cannot be read at all.
    :raises ValueError: the URI cannot be used.
    """
    with connection.inspector(uri, timeout, workers, quiet=True) as inspector:
        yield from https.password(uri)
        yield from https.insecure(uri, timeout, SAME_PIN)
        instances = inspector.list_instances()
        yield Finding(OK, f"logged in at {shown_uri(uri)}")
        yield from https.certificate(uri, timeout)
        usages = inspector.usage_all(caller=CALLER)
        hosts = inspector.list_hosts()
        until = time.monotonic() + (check_rows or 0)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, AGAIN))
            hosts = inspector.list_hosts()
        away = inspector.health().away
        states = Counter(instance.state for instance in instances)
        yield Finding(
            OK,
            f"{len(hosts)} host(s), {len(instances)} VM(s), {states[PowerState.RUNNING]} of them "
            "running",
        )
        hosts.sort(key=lambda host: natural(host.name))
        for host in hosts:
            yield from of_host(host, away)
        yield from releases(hosts)
        yield from memory(usages)
        told = {usage.id for usage in usages}
        running = [vm for vm in instances if vm.id in told and vm.state == PowerState.RUNNING]
        yield from counters(inspector, running[:sample])
        yield https.requests(inspector.health())


def of_host(host: Host, away: dict[str, tuple[str, float]]) -> Iterator[Finding]:
    """Say what a host is, and how its readings are."""
    about = (
        host.address or "no address",
        host.product or "unknown product",
        f"xapi {host.build or 'of an unknown release'}",
        f"{units.number(host.cpus)} CPUs",
        f"{host.instances} VM(s)",
    )
    yield Finding(OK, f"host {host.name}: {', '.join(about)}")
    if host.name in away:
        yield Finding(
            PROBLEM,
            f"host {host.name} does not answer: {away[host.name][0]}",
            "check that it runs, and that its port 443 can be reached from here; its VMs are not "
            "reported until it answers",
        )
        return
    yield lag(host)
    yield rows(host)


def releases(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Say what is known to be wrong with the releases that there are."""
    for build, quirks in sorted({(host.build or "?", tuple(host.quirks)) for host in hosts}):
        if quirks:
            which = "what" if is_checkable(quirks) else "all but wrong rows of what"
            known = "; ".join(quirks)
            yield Finding(OK, f"virtmeter makes up for {which} xapi {build} is known for: {known}")


def is_checkable(quirks: Sequence[str]) -> bool:
    """Say whether rows of a release with these quirks can be compared with exact counters."""
    return not any(quirk.startswith(UNCHECKABLE) for quirk in quirks)


def lag(host: Host) -> Finding:
    """Say how old the newest row was, which also tells of clocks that are wrong."""
    if host.lag is None:
        return Finding(WARNING, f"host {host.name}: it has told no rows yet")
    age = units.duration(abs(host.lag))
    how = f"{age} old" if host.lag >= 0 else f"{age} in the future"
    what = f"host {host.name}: its newest row was {how}, by its clock and the one here"
    if YOUNGEST <= host.lag <= OLDEST:
        return Finding(OK, what)
    return Finding(
        WARNING,
        what,
        "check the time on both (NTP), which changes no value of virtmeter's; if it is right, "
        "xcp-rrdd on the host is behind: 'systemctl status xcp-rrdd'",
    )


def rows(host: Host) -> Finding:
    """Say whether its rows agree with its exact counters."""
    if host.exact:
        return Finding(
            WARNING,
            f"host {host.name}: its rows are wrong: {host.differed} of {host.compared} counters "
            "have grown otherwise by more than 1 %",
            "nothing needs to be done: virtmeter reads the counters of each of its VMs instead, "
            "with one more request for each",
        )
    if not is_checkable(host.quirks):
        what = (
            f"host {host.name}: its rows may be wrong, and cannot be compared with exact counters: "
            f"xapi {host.build} tells the time of those with too few digits"
        )
        return Finding(WARNING, what, UPDATE)
    if host.compared == 0:
        may_lie = any(quirk.startswith(MAY_LIE) for quirk in host.quirks)
        what = f"host {host.name}: its rows were not compared with exact counters"
        if not may_lie:
            return Finding(OK, f"{what}; those of its release are right")
        return Finding(OK, what, UNCHECKED)
    return Finding(
        OK,
        f"host {host.name}: {counted(host.compared, 'counter')} compared with its rows, "
        f"{host.differed} of them off by more than 1 %",
    )


def memory(usages: Sequence[VmUsage]) -> Iterator[Finding]:
    """Say whose guest does not tell its memory."""
    silent = [usage.name or usage.id for usage in usages if usage.memory_used is None]
    if silent:
        yield Finding(
            WARNING,
            f"memory in use is unknown for VMs whose guest does not report it: {names(silent)}",
            "install the guest tools in the guest (XenServer VM Tools, or xe-guest-utilities), and "
            "check that their service runs",
        )
    elif usages:
        yield Finding(OK, "all VMs report their memory in use")


def counters(inspector: Inspector, instances: Sequence[Instance]) -> Iterator[Finding]:
    """Say which VMs do not tell their exact counters, or not how long they waited for a CPU."""
    unrecorded = []
    for instance in instances:
        answer = read(inspector, "inspect_instance", instance)
        if isinstance(answer, virtmeter.InspectorException):
            yield Finding(WARNING, f"{instance.name}: inspect_instance: {answer}")
        elif isinstance(answer, virtmeter.InstanceStats):
            if answer.cpu_time is None:
                what = f"{instance.name}: the exact counter of its CPU time cannot be read"
                yield Finding(WARNING, what)
            # It is recorded of all vCPUs together, so that more than one tell nothing.
            if answer.vcpu_delay is None and answer.cpu_number == 1:
                unrecorded.append(instance.name)
    if unrecorded:
        what = f"waiting for a host CPU is not recorded for VMs with one vCPU: {names(unrecorded)}"
        yield Finding(OK, what, RECORD)
