"""Ceilometer's own inspector of vSphere over pyvmomi: to be run by the Python of its release.

Releases up to 23 have it. Its arithmetic is the release's own code, from what is asked for to the
records. Only what is below it, oslo.vmware, is replaced: that wants a WSDL, which the simulated
vCenter does not have.

Each line of input is a question: method, instance and duration. Each line of output is the answer:
a list of records, or the name of the exception.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace as Some
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.vcsim.client import Client

UUID = 'config.extraConfig["nvp.vm-uuid"].value'


class Session:
    """``oslo_vmware.api.VMwareAPISession``, as far as the inspector needs it."""

    def __init__(self, client: Client) -> None:
        factory = Some(create=self._create)
        self.vim = Some(client=Some(factory=factory), service_content=client.content)

    def invoke_api(self, module: Any, method: str, *arguments: Any, **named: Any) -> Any:
        if module is not self.vim:
            return getattr(module, method)(*arguments, **named)
        manager, *arguments = arguments  # type: ignore[assignment]
        told = getattr(manager, method)(*arguments, **named)
        return told if method != "QueryPerf" else [self._as_suds(entity) for entity in told]

    @staticmethod
    def _create(name: str) -> Any:
        from pyVmomi import vim

        kinds = {
            "ns0:PerfMetricId": vim.PerformanceManager.MetricId,
            "ns0:PerfQuerySpec": vim.PerformanceManager.QuerySpec,
        }
        return kinds[name]()

    @staticmethod
    def _as_suds(entity: Any) -> Any:
        """Return an entity's samples with None for an instance that is empty."""
        series = [
            Some(value=told.value, id=Some(instance=told.id.instance or None))
            for told in entity.value
        ]
        return Some(sampleInfo=entity.sampleInfo, value=series)


class VimUtil:
    """``oslo_vmware.vim_util``, likewise."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_objects(self, _vim: Any, kind: str, _most: int, paths: list[str], _: bool) -> Any:
        from pyVmomi import vim

        assert (kind, paths) == ("VirtualMachine", [UUID])
        found = self._client.properties(vim.VirtualMachine, "config.extraConfig")
        uuids = {
            ref: [o.value for o in told.get("config.extraConfig", []) if o.key == "nvp.vm-uuid"]
            for ref, told in found.items()
        }
        objects = [
            Some(obj=self._client.vm(ref), propSet=[Some(val=value) for value in values])
            for ref, values in uuids.items()
        ]
        return Some(objects=objects)

    def continue_retrieval(self, _vim: Any, _result: Any) -> None:
        return None

    def get_object_property(self, _vim: Any, object_: Any, path: str) -> Any:
        return self._client.properties_of(object_, path)[path]


def main(packages: str, root: str, port: int, certificate: str, password: str) -> None:
    # Those of the release come first.
    sys.path += [packages, root]
    from ceilometer.compute.virt.vmware import inspector as stock
    from ceilometer.compute.virt.vmware import vsphere_operations

    from tests.support.vcsim.client import Client

    vcenter: Any = Some(port=port, certificate=Path(certificate), password=password)
    with Client(vcenter) as client:
        vsphere_operations.vim_util = VimUtil(client)
        stock.get_api_session = lambda _conf: Session(client)
        inspector = stock.VsphereInspector(None)
        # As it would ask for them by itself.
        inspector._ops._perf_counter_id_lookup_map = {
            name.replace(".", ":"): key for name, key in client.ids.items()
        }
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            method, instance, duration = json.loads(line)
            print(json.dumps(answer(inspector, method, instance, duration)), flush=True)


def answer(inspector: Any, method: str, instance: str, duration: float | None) -> Any:
    try:
        told = getattr(inspector, method)(Some(id=instance), duration)
        if method == "inspect_instance":
            return [{k: v for k, v in vars(told).items() if v is not None}]
        return [record._asdict() for record in told]
    except Exception as error:  # noqa: BLE001 - what an agent would log
        return type(error).__name__


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
