"""The records of a pool, and their changes as event.from tells them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Record = dict[str, Any]
NULL = "OpaqueRef:NULL"


class ApiError(Exception):
    """An error of XAPI: its code and its parameters."""

    def __init__(self, code: str, *data: str) -> None:
        super().__init__(code, *data)
        self.code = code
        self.data = list(data)


class Database:
    """Tables of records by class and reference. Every change gets a number, which tokens carry.

    A change replaces fields as a whole, so that a copy of a record need not be a deep one.
    """

    def __init__(self, tables: dict[str, dict[str, Record]]) -> None:
        self.tables = tables
        self.changed = threading.Condition()
        self._number = 1000
        #: By class and reference: when it was created, when changed, and when deleted (or 0).
        self._history: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._lost_before = 0
        for name, table in tables.items():
            for ref in table:
                self._history[name, ref] = (self._number, self._number, 0)

    def add(self, name: str, ref: str, record: Record) -> None:
        with self.changed:
            self._number += 1
            self.tables[name][ref] = record
            self._history[name, ref] = (self._number, self._number, 0)
            self.changed.notify_all()

    def update(self, name: str, ref: str, **fields: Any) -> None:
        with self.changed:
            self._number += 1
            self.tables[name][ref].update(fields)
            created, _, _ = self._history[name, ref]
            self._history[name, ref] = (created, self._number, 0)
            self.changed.notify_all()

    def remove(self, name: str, ref: str) -> None:
        with self.changed:
            self._number += 1
            del self.tables[name][ref]
            created, _, _ = self._history[name, ref]
            self._history[name, ref] = (created, self._number, self._number)
            self.changed.notify_all()

    def lose_events(self) -> None:
        """Answer EVENTS_LOST to every token that was given out until now."""
        with self.changed:
            self._number += 1
            self._lost_before = self._number

    def table(self, name: str) -> dict[str, Record]:
        """Return the table of a class, which may be written in any case."""
        for known, table in self.tables.items():
            if known.lower() == name.lower():
                return table
        raise ApiError("MESSAGE_METHOD_UNKNOWN", name)

    def find(self, name: str, ref: str) -> Record:
        if (record := self.table(name).get(ref)) is None:
            raise ApiError("HANDLE_INVALID", name, ref)
        return record

    def by_uuid(self, name: str, uuid: str) -> str:
        for ref, record in self.table(name).items():
            if record["uuid"] == uuid:
                return ref
        raise ApiError("UUID_INVALID", name, uuid)

    def token(self) -> str:
        return f"{self._number:020},{0:020}"

    def events(self, classes: Iterable[str], token: str, timeout: float) -> Record:
        """Answer event.from, at the latest after a timeout in seconds."""
        seen = self._parse(token)
        wanted = {name.split("/")[0].lower() for name in classes}
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                if seen and seen < self._lost_before:
                    raise ApiError("EVENTS_LOST")
                events = list(self._events(wanted, seen))
                left = deadline - time.monotonic()
                if events or left <= 0:
                    break
                self.changed.wait(left)
            counts = {
                name.lower(): len(table)
                for name, table in self.tables.items()
                if "*" in wanted or name.lower() in wanted
            }
            return {"events": events, "valid_ref_counts": counts, "token": self.token()}

    @staticmethod
    def _parse(token: str) -> int:
        if not token:
            return 0
        numbers = token.split(",")
        if len(numbers) != 2 or not all(part.isdigit() for part in numbers):
            raise ApiError("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
        return int(numbers[0])

    def _events(self, wanted: set[str], seen: int) -> Iterable[Record]:
        for (name, ref), (created, changed, deleted) in self._history.items():
            if changed <= seen or ("*" not in wanted and name.lower() not in wanted):
                continue
            if deleted:
                if created > seen:
                    continue  # came and went between two calls
                operation = "del"
            else:
                operation = "add" if created > seen else "mod"
            event: Record = {
                "id": str(changed),
                "timestamp": "0.0",
                "class": name.lower(),
                "operation": operation,
                "ref": ref,
            }
            if not deleted:
                # Encoding takes place later: what is told must not change until then.
                event["snapshot"] = dict(self.tables[name][ref])
            yield event
