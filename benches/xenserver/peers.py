"""What others do to read the usage of a pool's VMs, with PyPI's XenAPI.

Written for this benchmark, from what their sources say that they ask and reckon. TLS is not
verified, and one session serves for good.
"""

from __future__ import annotations

import http.client
import math
import re
import ssl
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import XenAPI

from benches.exactness import Used

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CLOUDSTACK, CEILOMETER = "CloudStack", "Ceilometer"
KIB = 1024
# What CloudStack adds up: of disks, also requests, which hardly shows.
NIC, DISK = re.compile(r"vif_\d*_[rt]x"), re.compile("vbd_.*_(read|write)")


class Peer:
    """A session with a pool, and its VMs by the URLs of their hosts."""

    def __init__(self, told: dict[str, Any], clock: Callable[[], float] = time.time) -> None:
        """Log in, and look which VMs there are: not a part of any cycle."""
        self.clock = clock
        self.session = XenAPI.Session(told["urls"][0], ignore_ssl=True)
        self.session.xenapi.login_with_password(told["user"], told["password"])
        hosts = self.call("host.get_all_records")
        port = urlsplit(told["urls"][0]).port
        urls = {ref: f"https://{host['address']}:{port}" for ref, host in hosts.items()}
        self.vms: dict[str, list[str]] = {url: [] for url in urls.values()}
        for vm in self.call("VM.get_all_records").values():
            if vm["resident_on"] in urls and not vm["is_control_domain"]:
                self.vms[urls[vm["resident_on"]]].append(vm["name_label"])

    def call(self, method: str, *arguments: Any) -> Any:
        """Make one call of XAPI's."""
        return getattr(self.session.xenapi, method)(*arguments)

    def read(self, hosts: int | None = None, vms: int | None = None) -> dict[str, Used]:
        """Return what VMs use by their names: of so many hosts, and so many of each."""
        raise NotImplementedError

    def close(self) -> None:
        """Log out."""
        self.session.xenapi.session.logout()

    def _asked(self, hosts: int | None, vms: int | None) -> Iterable[tuple[str, list[str]]]:
        return [(url, names[:vms]) for url, names in list(self.vms.items())[:hosts]]


class CloudStack(Peer):
    """What CloudStack's management server does for each host, one after the other.

    apache/cloudstack @002e4782, plugins/hypervisors/xenserver: CitrixGetVmStatsCommandWrapper asks
    for the UUID of each VM, CitrixResourceBase.getVmStats for the rows of 60 s since 1100 s ago,
    by its own clock, of which each number is the mean. What the text of a column's name contains
    decides what it is.
    """

    def read(self, hosts: int | None = None, vms: int | None = None) -> dict[str, Used]:
        """Return what VMs use by their names: of so many hosts, and so many of each."""
        found = {}
        for url, names in self._asked(hosts, vms):
            uuids = {}
            for name in names:
                refs = self.call("VM.get_by_name_label", name)
                uuids[self.call("VM.get_uuid", refs[0])] = name
            used = self._host(url, uuids)
            found.update({uuids[uuid]: usage for uuid, usage in used.items()})
        return found

    def _host(self, url: str, uuids: Iterable[str]) -> dict[str, Used]:
        start = int(self.clock()) - 1100
        session = quote(self.session.handle, safe="")
        query = f"session_id={session}&host=false&cf=AVERAGE&interval=60&start={start}"
        answer = ElementTree.fromstring(_get(url, f"/rrd_updates?{query}"))
        rows = [
            [float(value.text or "nan") for value in row.iter("v")] for row in answer.iter("row")
        ]
        found, cpus = {uuid: Used() for uuid in uuids}, dict.fromkeys(uuids, 0)
        for column, entry in enumerate(answer.iter("entry")):
            _, kind, uuid, name = (entry.text or "").split(":", 3)
            if kind != "vm" or uuid not in found:
                continue
            mean = _mean(row[column] for row in rows)
            if "cpu" in name:
                found[uuid].cpu += mean * 100
                cpus[uuid] += 1
            elif NIC.fullmatch(name):
                found[uuid].network += mean / KIB
            elif DISK.fullmatch(name):
                found[uuid].disk += mean / KIB
        for uuid, count in cpus.items():
            found[uuid].cpu /= count or 1
        return found


class Ceilometer(Peer):
    """What Ceilometer's inspector for XenAPI did until it was removed, one VM after the other.

    openstack/ceilometer @815274741, ceilometer/compute/virt/xenapi/inspector.py: each value is a
    call, `VM.query_data_source`, which tells the mean of the last 5 s. (The bytes since the start
    came from a plugin in dom0, for which there is nothing here.)
    """

    def read(self, hosts: int | None = None, vms: int | None = None) -> dict[str, Used]:
        """Return what VMs use by their names: of so many hosts, and so many of each."""
        names = [name for _, names in self._asked(hosts, vms) for name in names]
        return {name: used for name in names if (used := self._used(name)) is not None}

    def _used(self, name: str) -> Used | None:
        try:
            return Used(
                self._instance(name),
                sum(self._rates(name, "VIF", "vif_{}_rx", "vif_{}_tx")),
                sum(self._rates(name, "VBD", "vbd_{}_read", "vbd_{}_write")),
            )
        except XenAPI.Failure:  # it does not run
            return None

    def _vm(self, name: str) -> str:
        return str(self.call("VM.get_by_name_label", name)[0])

    def _instance(self, name: str) -> float:
        vm = self._vm(name)
        count = int(self.call("VM.get_VCPUs_max", vm))
        load = sum(self._value(vm, f"cpu{number}") for number in range(count))
        self._value(vm, "memory")
        self._value(vm, "memory_internal_free")
        return load / count * 100

    def _rates(self, name: str, kind: str, *sources: str) -> Iterable[float]:
        vm = self._vm(name)
        for ref in self.call(f"VM.get_{kind}s", vm):
            device = self.call(f"{kind}.get_record", ref)["device"]
            yield sum(self._value(vm, source.format(device)) for source in sources) / KIB

    def _value(self, vm: str, source: str) -> float:
        value = float(self.call("VM.query_data_source", vm, source))
        return 0.0 if math.isnan(value) else value


PEERS: dict[str, type[Peer]] = {CLOUDSTACK: CloudStack, CEILOMETER: Ceilometer}


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    mean = sum(known) / len(known) if known else 0.0
    return mean if math.isfinite(mean) else 0.0


def _get(url: str, path: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    place = urlsplit(url)
    connection = http.client.HTTPSConnection(place.hostname or "", place.port, context=context)
    with closing(connection):
        connection.request("GET", path, headers={"Accept": "text/xml"})
        return connection.getresponse().read()
