"""What pyvmomi, VMware's own client, reads of a vCenter."""

from __future__ import annotations

import contextlib
import ssl
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pyVmomi import SoapStubAdapter, vim, vmodl
from typing_extensions import Self

from tests.support.vcsim.truth import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.vcsim.vcenter import VCenter

#: Samples by time, oldest first if the server is right, of a counter and an instance.
Series = dict[tuple[str, str], dict[int, int]]


class Client:
    """A session with a vCenter."""

    def __init__(
        self, vcenter: VCenter, user: str = "monitor", password: str | None = None
    ) -> None:
        self._stub = SoapStubAdapter(
            host="127.0.0.1",
            port=vcenter.port,
            version="vim.version.version11",  # 6.5
            sslContext=ssl.create_default_context(cafile=str(vcenter.certificate)),
        )
        self._instance = vim.ServiceInstance("ServiceInstance", self._stub)
        try:
            self.content = self._instance.RetrieveContent()
            self.content.sessionManager.Login(
                user, vcenter.password if password is None else password, None
            )
        except BaseException:
            self._stub.DropConnections()
            raise
        counters = self.content.perfManager.perfCounter
        self.ids: dict[str, int] = {
            f"{c.groupInfo.key}.{c.nameInfo.key}.{c.rollupType}": c.key for c in counters
        }
        self._names = {key: name for name, key in self.ids.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out, if there still is a session."""
        with contextlib.suppress(vim.fault.NotAuthenticated):
            self.content.sessionManager.Logout()
        self._stub.DropConnections()

    @property
    def time(self) -> float:
        return float(self._instance.CurrentTime().timestamp())

    @property
    def cookie(self) -> str:
        """What a call of this session has in its header."""
        return str(self._stub.cookie).partition(";")[0]

    def object(self, kind: Any, ref: str) -> Any:
        """Return a managed object by its reference."""
        return kind(ref, self._stub)

    def vm(self, ref: str) -> Any:
        return self.object(vim.VirtualMachine, ref)

    def view(self, kind: Any = vim.VirtualMachine) -> Any:
        manager = self.content.viewManager
        return manager.CreateContainerView(self.content.rootFolder, [kind], True)

    def spec(self, kind: Any, paths: Sequence[str]) -> Any:
        """Return what asks for properties of everything of a kind."""
        collector = vmodl.query.PropertyCollector
        view = collector.TraversalSpec(
            name="v", path="view", skip=False, type=vim.view.ContainerView
        )
        return collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=self.view(kind), skip=True, selectSet=[view])],
            propSet=[collector.PropertySpec(type=kind, pathSet=list(paths))],
        )

    def pages(
        self, kind: Any, paths: Sequence[str], size: int | None = None
    ) -> list[dict[str, dict[str, Any]]]:
        """Return the properties of everything of a kind, by reference, page by page."""
        collector = self.content.propertyCollector
        options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=size)
        answer = collector.RetrievePropertiesEx([self.spec(kind, paths)], options)
        pages = []
        while answer is not None:
            pages.append({o.obj._moId: {p.name: p.val for p in o.propSet} for o in answer.objects})
            if answer.token is None:
                break
            answer = collector.ContinueRetrievePropertiesEx(answer.token)
        return pages

    def properties(self, kind: Any, *paths: str) -> dict[str, dict[str, Any]]:
        """Return the properties of everything of a kind, by reference."""
        return {ref: found for page in self.pages(kind, paths) for ref, found in page.items()}

    def properties_of(self, object_: Any, *paths: str) -> dict[str, Any]:
        """Return properties of one object."""
        collector = vmodl.query.PropertyCollector
        spec = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=object_)],
            propSet=[collector.PropertySpec(type=type(object_), pathSet=list(paths))],
        )
        options = collector.RetrieveOptions()
        answer = self.content.propertyCollector.RetrievePropertiesEx([spec], options)
        return {p.name: p.val for p in answer.objects[0].propSet}

    def specs(
        self,
        refs: Iterable[str],
        counters: Iterable[str] = COUNTERS,
        instance: str = "*",
        **others: Any,
    ) -> list[Any]:
        """Return what QueryPerf is called with."""
        manager = vim.PerformanceManager
        metrics = [manager.MetricId(counterId=self.ids[c], instance=instance) for c in counters]
        given = {"intervalId": 20, "format": "csv", "metricId": metrics, **others}
        return [manager.QuerySpec(entity=self.vm(ref), **given) for ref in refs]

    def query(self, specs: list[Any]) -> dict[str, Series]:
        """Return the samples of VMs, by reference; a VM without any has no series."""
        answer = self.content.perfManager.QueryPerf(specs)
        return {entity.entity._moId: self._series(entity) for entity in answer}

    def samples(self, refs: Iterable[str], *arguments: Any, **others: Any) -> dict[str, Series]:
        return self.query(self.specs(refs, *arguments, **others))

    def _series(self, entity: Any) -> Series:
        times: list[int]
        if isinstance(entity, vim.PerformanceManager.EntityMetricCSV):
            parts = entity.sampleInfoCSV.split(",") if entity.sampleInfoCSV else []
            assert set(parts[::2]) <= {"20"}
            times = [
                _seconds(datetime.fromisoformat(p.replace("Z", "+00:00"))) for p in parts[1::2]
            ]
        else:
            assert {s.interval for s in entity.sampleInfo} <= {20}
            times = [_seconds(s.timestamp) for s in entity.sampleInfo]
        series: Series = {}
        for told in entity.value:
            values = told.value.split(",") if isinstance(told.value, str) else told.value
            key = self._names[told.id.counterId], told.id.instance
            assert key not in series
            series[key] = {t: int(v) for t, v in zip(times, values, strict=True)}
        return series


def _seconds(time: datetime) -> int:
    assert time.tzinfo is not None
    return int(time.timestamp())


def moment(seconds: float) -> datetime:
    """Return a time as pyvmomi sends it."""
    return datetime.fromtimestamp(seconds, timezone.utc)
