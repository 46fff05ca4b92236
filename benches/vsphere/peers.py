"""What another way to read a vCenter costs: Ceilometer's, and virtmeter's own calls alone.

Written for this benchmark over PyPI's pyvmomi, from what the sources of each say.
"""

from __future__ import annotations

import gzip
import http.client
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from threading import local
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pyVmomi import vim

from benches.exactness import Used
from tests.support.vcsim.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CEILOMETER, BARE = "Ceilometer", "the calls alone"
INTERVAL = 20
NICS = ("net.received.average", "net.transmitted.average")
DISK_BYTES = ("disk.read.average", "disk.write.average")
DISK_REQUESTS = ("disk.numberReadAveraged.average", "disk.numberWriteAveraged.average")


class Ceilometer:
    """What the inspector that Ceilometer had until release 23 does, VM by VM and value by value.

    openstack/ceilometer @e37e2f3ff^, ceilometer/compute/virt/vmware: each method asks for the power
    state, and then for each counter by itself: 11 round trips for a VM. A value is the mean of the
    samples of the time since the last reading, but for those that are missing. oslo.vmware cannot
    be used, as the simulator has no WSDL.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        """Log in, and look which VMs there are: not a part of any cycle."""
        self.client = Client(cast("Any", SimpleNamespace(**told)))
        found = self.client.properties(vim.VirtualMachine, "config.instanceUuid")
        self.vms = {vm["config.instanceUuid"]: self.client.vm(ref) for ref, vm in found.items()}

    def read(self, vms: int | None = None, seconds: float = INTERVAL) -> dict[str, Used]:
        """Return what VMs use by their UUIDs; so many of them."""
        return {uuid: self._used(vm, seconds) for uuid, vm in list(self.vms.items())[:vms]}

    def close(self) -> None:
        """Log out."""
        self.client.close()

    def _used(self, vm: Any, seconds: float) -> Used:
        def told(value: Callable[[], float]) -> float:
            self.client.properties_of(vm, "runtime.powerState")
            try:
                return value()
            except ZeroDivisionError:  # all samples are missing, which the agent's log tells
                return 0.0

        def devices(counters: Iterable[str]) -> float:
            return sum(sum(self._stats(vm, name, "*", seconds).values()) for name in counters)

        def disks() -> float:
            devices(DISK_REQUESTS)
            return devices(DISK_BYTES)

        def cpu() -> float:
            usage = self._stats(vm, "cpu.usage.average", "", seconds).get("", 0.0) / 100
            self._stats(vm, "mem.consumed.average", "", seconds)
            return usage

        return Used(told(cpu), told(lambda: devices(NICS)), told(disks))

    def _stats(self, vm: Any, counter: str, instance: str, seconds: float) -> dict[str, float]:
        manager = vim.PerformanceManager
        metric = manager.MetricId(counterId=self.client.ids[counter], instance=instance)
        samples = int(seconds / INTERVAL) if seconds >= INTERVAL else 1
        spec = manager.QuerySpec(
            entity=vm, metricId=[metric], intervalId=INTERVAL, maxSample=samples
        )
        found = {}
        for entity in self.client.content.perfManager.QueryPerf([spec])[:1]:
            for series in entity.value if entity.sampleInfo else []:
                known = [value for value in series.value if value != -1]
                found[series.id.instance] = sum(known) / len(known)
        if instance:
            # Neither the sum over all devices, nor the host's own NICs.
            found = {
                name: mean for name, mean in found.items() if name and not name.startswith("vmnic")
            }
        return found


# What virtmeter asks for: src/vsphere/objects.rs and perf.rs.
OF_VM = (
    *("name", "config.instanceUuid", "config.template", "config.changeVersion"),
    *("config.hardware.numCPU", "config.hardware.memoryMB"),
    *("runtime.powerState", "runtime.host", "runtime.connectionState", "runtime.bootTime"),
)
OF_HOST = (
    *("name", "summary.hardware.uuid", "summary.hardware.numCpuThreads"),
    *("summary.config.product.fullName", "runtime.connectionState"),
)
WHOLE = (
    *(f"cpu.{name}.summation" for name in ("run", "used", "ready", "costop", "wait", "idle")),
    *(f"mem.{name}.average" for name in ("consumed", "active", "vmmemctl")),
    "sys.uptime.latest",
)
EACH = (
    *NICS,
    *(f"net.{name}.summation" for name in ("packetsRx", "packetsTx", "droppedRx", "droppedTx")),
    *(
        f"virtualDisk.{name}.average"
        for name in ("read", "write", "numberReadAveraged", "numberWriteAveraged")
    ),
    *(f"virtualDisk.{name}.average" for name in ("totalReadLatency", "totalWriteLatency")),
)
IN_A_CALL, IN_A_PAGE, IN_FLIGHT, SAMPLES = 100, 600, 4, 3
ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
    '<{0} xmlns="urn:vim25">{1}</{0}></soapenv:Body></soapenv:Envelope>'
)


class Bare:
    """The calls that virtmeter makes in a cycle, as many at a time; their answers are thrown away.

    What that takes is the simulator's time, and that of TLS.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        """Log in, and make the calls ready: not a part of any cycle."""
        self.client = Client(cast("Any", SimpleNamespace(**told)))
        self._port, self._certificate = told["port"], told["certificate"]
        self._collector = self.client.content.propertyCollector
        self._thread = local()
        self._pool = ThreadPoolExecutor(IN_FLIGHT)
        hosts = self.client.properties(vim.VirtualMachine, "runtime.host")
        refs = sorted(hosts, key=lambda ref: str(hosts[ref]["runtime.host"]))
        self._queries = [
            self._query(refs[begin : begin + IN_A_CALL]) for begin in range(0, len(refs), IN_A_CALL)
        ]
        self._properties = self._view()
        self._refs = refs

    def read(self) -> list[str]:
        """Make them, and return whom they are about."""
        answer = self._post(self._properties)
        while token := re.search(rb"<token>(.*?)</token>", gzip.decompress(answer)):
            more = f"{_this(self._collector)}<token>{token[1].decode()}</token>"
            answer = self._post(ENVELOPE.format("ContinueRetrievePropertiesEx", more))
        for _ in self._pool.map(self._post, self._queries):
            pass
        return self._refs

    def _query(self, refs: list[str]) -> str:
        metrics = "".join(
            f"<metricId><counterId>{self.client.ids[counter]}</counterId>"
            f"<instance>{instance}</instance></metricId>"
            for counters, instance in ((WHOLE, ""), (EACH, "*"))
            for counter in counters
        )
        specs = "".join(
            f'<querySpec><entity type="VirtualMachine">{ref}</entity>'
            f"<maxSample>{SAMPLES}</maxSample>{metrics}<intervalId>{INTERVAL}</intervalId>"
            "<format>csv</format></querySpec>"
            for ref in refs
        )
        return ENVELOPE.format("QueryPerf", _this(self.client.content.perfManager) + specs)

    def _view(self) -> str:
        content = self.client.content
        kinds = [vim.VirtualMachine, vim.HostSystem]
        view = content.viewManager.CreateContainerView(content.rootFolder, kinds, True)
        sets = "".join(
            f"<propSet><type>{kind}</type>{''.join(f'<pathSet>{p}</pathSet>' for p in paths)}"
            "</propSet>"
            for kind, paths in (("VirtualMachine", OF_VM), ("HostSystem", OF_HOST))
        )
        objects = (
            f'<objectSet><obj type="ContainerView">{_named(view)[1]}</obj><skip>true</skip>'
            '<selectSet xsi:type="TraversalSpec"><name>view</name><type>ContainerView</type>'
            "<path>view</path><skip>false</skip></selectSet></objectSet>"
        )
        asked = (
            f"{_this(self._collector)}<specSet>{sets}{objects}</specSet>"
            f"<options><maxObjects>{IN_A_PAGE}</maxObjects></options>"
        )
        return ENVELOPE.format("RetrievePropertiesEx", asked)

    def _post(self, body: str) -> bytes:
        connection = getattr(self._thread, "connection", None)
        if connection is None:
            context = ssl.create_default_context(cafile=self._certificate)
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=context)
            self._thread.connection = connection
        headers = {
            "Content-Type": 'text/xml; charset="utf-8"',
            "SOAPAction": '"urn:vim25/6.5"',
            "Accept-Encoding": "gzip",
            "Cookie": self.client.cookie,
        }
        connection.request("POST", "/sdk", body.encode(), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise OSError(f"{response.status}: {answer[:200]!r}")
        return answer


def _named(ref: Any) -> tuple[str, str]:
    """Return the type and the name of a managed object."""
    kind, _, name = str(ref).strip("'").partition(":")
    return kind.rpartition(".")[2], name


def _this(ref: Any) -> str:
    kind, name = _named(ref)
    return f'<_this type="{kind}">{name}</_this>'


PEERS: dict[str, Callable[[dict[str, Any]], Any]] = {CEILOMETER: Ceilometer, BARE: Bare}
