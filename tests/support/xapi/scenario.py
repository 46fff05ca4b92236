"""The records of a recording, as they were when it began, and what happened when."""

from __future__ import annotations

import copy
import json
import re
from functools import partial
from typing import TYPE_CHECKING

from tests.support.xapi.playback import copied
from tests.support.xapi.records import NULL, ApiError, Database, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.xapi.recording import Recording

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CLASSES = (
    "pool",
    "host",
    "host_metrics",
    "VM",
    "VM_metrics",
    "VM_guest_metrics",
    "VIF",
    "VBD",
    "VDI",
)

Tables = dict[str, dict[str, Record]]


def copied_tables(recording: Recording, host: int) -> Tables:
    """Return the records of a host and its VMs, under uuids and names of its own."""
    text = json.dumps(recording.records)
    if host:
        text = UUID.sub(lambda found: copied(found.group(), host), text)
        text = text.replace("aa:bb:cc:", f"aa:bb:{0xCC + host & 0xFF:02x}:")
        text = text.replace("xcp1", f"xcp{host + 1}")
    tables: Tables = json.loads(text)
    if host:
        tables["pool"] = {}
        tables["VM"] = {
            ref: record for ref, record in tables["VM"].items() if not record["is_a_template"]
        }
    return tables


def tables_of(recording: Recording, hosts: int) -> Tables:
    tables: Tables = {name: {} for name in CLASSES}
    for host in range(hosts):
        for name, table in copied_tables(recording, host).items():
            tables[name].update(table)
    return tables


class Scenario:
    """Changes the records as time passes the recorded events, on every host alike."""

    def __init__(self, recording: Recording, hosts: int, database: Database) -> None:
        self._recording = recording
        self._database = database
        self._hosts = hosts
        self._pending: list[tuple[float, Callable[[], None]]] = [
            (time, partial(what, host))
            for time, what in self._happenings()
            for host in range(hosts)
        ]
        self._pending.sort(key=lambda each: each[0])
        for host in range(hosts):
            self._rewind(host)

    def advance(self, now: float) -> None:
        """Let everything happen that is due."""
        while self._pending and self._pending[0][0] <= now:
            self._pending.pop(0)[1]()

    def _happenings(self) -> Iterator[tuple[float, Callable[[int], None]]]:
        what = self._recording.events
        yield what["C starts"], lambda host: self._run(host, "C", 3)
        yield what["D is shut down (its RRD leaves the host)"], lambda host: self._halt(host, "D")
        yield (
            what["E reboots (new domid, counters anew)"],
            lambda host: self._set(host, "E", domid=20),
        )
        yield what["F is paused"], lambda host: self._set(host, "F", power_state="Paused")
        yield what["F resumes"], lambda host: self._set(host, "F", power_state="Running")
        yield what["guest agent of H is gone"], self._end_agent
        yield (
            what["xvde is plugged into A"],
            lambda host: self._plug(host, "A", "VBD", "xvde", True),
        )
        yield (
            what["vif 1 is unplugged from B"],
            lambda host: self._plug(host, "B", "VIF", "1", False),
        )

    def _rewind(self, host: int) -> None:
        """Undo what happened: the recorded records are those of the end."""
        self._halt(host, "C")
        self._run(host, "D", 4)
        self._set(host, "E", domid=5)
        agent = copy.deepcopy(next(iter(self._database.tables["VM_guest_metrics"].values())))
        self._database.add("VM_guest_metrics", self._agent(host), agent)
        self._set(host, "H", guest_metrics=self._agent(host))
        self._plug(host, "A", "VBD", "xvde", False)
        self._plug(host, "B", "VIF", "1", True)

    def _agent(self, host: int) -> str:
        return f"OpaqueRef:{copied('08080808-aaaa-4000-8000-000000000008', host)}"

    def _end_agent(self, host: int) -> None:
        self._set(host, "H", guest_metrics=NULL)
        self._database.remove("VM_guest_metrics", self._agent(host))

    def _ref(self, host: int, letter: str) -> str:
        uuid = copied(self._recording.vms[letter], host)
        return self._database.by_uuid("VM", uuid)

    def _set(self, host: int, letter: str, **fields: object) -> None:
        try:
            ref = self._ref(host, letter)
        except ApiError:  # a test destroyed it
            return
        self._database.update("VM", ref, **fields)

    def _run(self, host: int, letter: str, domid: int) -> None:
        there = list(self._database.tables["host"])[host]
        self._set(host, letter, power_state="Running", domid=domid, resident_on=there)
        self._attach(host, letter, True)

    def _halt(self, host: int, letter: str) -> None:
        self._set(host, letter, power_state="Halted", domid=-1, resident_on=NULL)
        self._attach(host, letter, False)

    def _devices(self, host: int, letter: str, name: str) -> Iterator[tuple[str, Record]]:
        ref = self._ref(host, letter)
        for device, record in self._database.tables[name].items():
            if record["VM"] == ref:
                yield device, record

    def _attach(self, host: int, letter: str, attached: bool) -> None:
        for name in ("VIF", "VBD"):
            for ref, _ in list(self._devices(host, letter, name)):
                self._database.update(name, ref, currently_attached=attached)

    def _plug(self, host: int, letter: str, name: str, device: str, attached: bool) -> None:
        for ref, record in list(self._devices(host, letter, name)):
            if record["device"] == device:
                self._database.update(name, ref, currently_attached=attached)
