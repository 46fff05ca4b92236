"""What happens to the VMs of a pool: the records change, and so does what the hosts measure."""

from __future__ import annotations

import copy
import time
import uuid as uuids
from typing import TYPE_CHECKING

from tests.support.xapi.metrics import Guest
from tests.support.xapi.records import NULL, Database, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.xapi.metrics import Metrics


class VM:
    """One VM, with what an administrator can do to it. Each doing takes place at the pool's now."""

    def __init__(
        self, ref: str, database: Database, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self.ref = ref
        self._database = database
        self._metrics = metrics
        self._now = now

    @property
    def record(self) -> Record:
        return self._database.tables["VM"][self.ref]

    @property
    def uuid(self) -> str:
        return str(self.record["uuid"])

    @property
    def guest(self) -> Guest:
        return self._metrics.guests[self.uuid]

    def set(self, **fields: object) -> None:
        """Change fields of the record, and nothing else."""
        self._database.update("VM", self.ref, **fields)

    def _hosts(self) -> list[str]:
        return list(self._database.tables["host"])

    def _next_domid(self) -> int:
        domids = [record["domid"] for record in self._database.tables["VM"].values()]
        return int(max(domids)) + 1

    def _attach(self, attached: bool) -> None:
        """Attach or detach all devices but empty drives."""
        for name in ("VIF", "VBD"):
            for ref in self.record[f"{name}s"]:
                if not self._database.tables[name][ref].get("empty", False):
                    self._database.update(name, ref, currently_attached=attached)

    def _booted(self) -> None:
        at = time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(self._now()))
        self._database.update("VM_metrics", self.record["metrics"], start_time=at)

    def start(self, host: int = 0) -> None:
        self.guest.since = self._now()
        self.migrate(host)
        self._booted()

    def stop(self, state: str = "Halted") -> None:
        self.guest.host = None
        self._attach(False)
        self.set(power_state=state, domid=-1, resident_on=NULL)

    def suspend(self) -> None:
        self.stop("Suspended")

    def reboot(self) -> None:
        self.guest.begin(self._now())
        self.set(domid=self._next_domid())
        self._booted()

    def start_with_its_host(self) -> None:
        """Reboot together with the host, which numbers its domains as before."""
        self.guest.begin(self._now())
        self._booted()

    def pause(self) -> None:
        self.guest.pauses.append((self._now(), None))
        self.set(power_state="Paused")

    def resume(self) -> None:
        paused, _ = self.guest.pauses.pop()
        self.guest.pauses.append((paused, self._now()))
        self.set(power_state="Running")

    def migrate(self, host: int) -> None:
        """Move to another host: a new domain there, whose counters begin at 0."""
        ref = self._hosts()[host]
        self.guest.begin(self._now())
        self.guest.host = host
        self._attach(True)
        self.set(power_state="Running", domid=self._next_domid(), resident_on=ref)

    def _device(self, name: str, device: str) -> tuple[str, Record]:
        """Return the reference and the record of a device that the VM has."""
        for ref in self.record[f"{name}s"]:
            record = self._database.tables[name][ref]
            if record["device"] == device:
                return ref, record
        message = f"{self.record['name_label']} has no {name} {device}"
        raise LookupError(message)

    def unplug(self, name: str, device: str) -> None:
        """Unplug a ``VIF`` or ``VBD``; its columns stay and read 0."""
        ref, _ = self._device(name, device)
        self.guest.unplugged[f"{name.lower()}_{device}"] = self._now()
        self._database.update(name, ref, currently_attached=False)

    def plug(self, name: str, device: str) -> None:
        """Plug in again what was unplugged; its counters begin at 0."""
        ref, _ = self._device(name, device)
        self.guest.unplugged.pop(f"{name.lower()}_{device}", None)
        self.guest.plugged[f"{name.lower()}_{device}"] = self._now()
        self._database.update(name, ref, currently_attached=True)

    def _copy(self, name: str, **fields: object) -> VM:
        """Make a halted copy with devices of its own."""
        uuid = str(uuids.uuid4())
        ref = f"OpaqueRef:{uuid}"
        record = copy.deepcopy(self.record)
        record.update(uuid=uuid, name_label=name, power_state="Halted", domid=-1)
        record.update(resident_on=NULL, **fields)
        for kind in ("VIF", "VBD"):
            record[f"{kind}s"] = []
            for old in self.record[f"{kind}s"]:
                device = copy.deepcopy(self._database.tables[kind][old])
                device.update(uuid=str(uuids.uuid4()), VM=ref, currently_attached=False)
                new = f"OpaqueRef:{uuids.uuid4()}"
                record[f"{kind}s"].append(new)
                self._database.add(kind, new, device)
        metrics = f"OpaqueRef:{uuids.uuid4()}"
        old_metrics = self._database.tables["VM_metrics"][self.record["metrics"]]
        self._database.add("VM_metrics", metrics, copy.deepcopy(old_metrics))
        record.update(metrics=metrics, guest_metrics=NULL)
        self._metrics.guests[uuid] = Guest(uuid, self.guest.source, None)
        self._database.add("VM", ref, record)
        return VM(ref, self._database, self._metrics, self._now)

    def clone(self, name: str) -> VM:
        """Make a halted copy; started, it does what its original does."""
        return self._copy(name)

    def snapshot(self, name: str) -> VM:
        return self._copy(name, is_a_template=True, is_a_snapshot=True, snapshot_of=self.ref)

    def make_template(self) -> None:
        self.stop()
        self.set(is_a_template=True)

    def destroy(self) -> None:
        self.guest.host = None
        for name in ("VIF", "VBD"):
            for ref in self.record[f"{name}s"]:
                self._database.remove(name, ref)
        self._database.remove("VM", self.ref)
