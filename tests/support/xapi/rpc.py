"""The methods of XAPI that the pool knows."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from tests.support.xapi.records import ApiError, Record

if TYPE_CHECKING:
    from tests.support.xapi.pool import Host, Pool

# Classes that clients look for and of which the pool has no objects.
EMPTY = ("task", "SR", "network", "PIF", "message")
METHODS = (
    "event.from",
    "event.get_current_id",
    "event.inject",
    "event.next",
    "event.register",
    "event.unregister",
    "host.get_server_certificate",
    "host.get_servertime",
    "session.get_this_host",
    "session.login_with_password",
    "session.logout",
    "system.listMethods",
    "task.create",
    "task.destroy",
    "VM.get_data_sources",
    "VM.query_data_source",
    "VM.record_data_source",
)
GETTERS = ("get_all", "get_all_records", "get_by_uuid", "get_record")
WRITES = ("event.inject", "task.create", "task.destroy", "VM.record_data_source")


class Rpc:
    """Answers calls as xapi does. Any ``CLASS.get_FIELD`` is answered from the records."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def call(self, host: Host, method: str, params: list[Any]) -> Any:
        """Return a call's result, or raise ApiError."""
        if method == "system.listMethods":
            return self._methods()
        if host.index != self._pool.master:
            raise ApiError("HOST_IS_SLAVE", self._pool.hosts[self._pool.master].address)
        if method in ("session.login_with_password", "session.slave_local_login_with_password"):
            if len(params) < 2:
                raise ApiError("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "2", str(len(params)))
            return self._pool.sessions.login(params[0], params[1])
        if not params:
            raise ApiError("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "1", "0")
        session, *rest = params
        self._pool.sessions.check(session, method, writes=self._writes(method))
        if method == "session.logout":
            self._pool.sessions.logout(session)
            return ""
        special = getattr(self, "_" + method.replace(".", "_").lower(), None)
        if special is not None:
            return special(host, *rest)
        return self._get(method, rest)

    @staticmethod
    def _writes(method: str) -> bool:
        name = method.rpartition(".")[2]
        readers = ("get_", "query_", "from", "next", "register", "unregister", "logout")
        return method in WRITES or not name.startswith(readers)

    def _methods(self) -> list[str]:
        tables = self._pool.database.tables
        getters = [f"{name}.{getter}" for name in (*tables, *EMPTY) for getter in GETTERS]
        return sorted((*METHODS, *getters))

    def _get(self, method: str, rest: list[Any]) -> Any:
        name, _, getter = method.partition(".")
        database = self._pool.database
        with database.changed:
            table = {} if name in EMPTY else database.table(name)
            if getter == "get_all":
                return list(table)
            if getter == "get_all_records":
                return {ref: dict(record) for ref, record in table.items()}
            if getter == "get_by_uuid":
                return database.by_uuid(name, rest[0])
            if getter == "get_by_name_label":
                return [ref for ref, record in table.items() if record["name_label"] == rest[0]]
            if not getter.startswith("get_"):
                raise ApiError("MESSAGE_METHOD_UNKNOWN", method)
            record = database.find(name, rest[0])
            if getter == "get_record":
                return dict(record)
            if getter[4:] not in record:
                raise ApiError("MESSAGE_METHOD_UNKNOWN", method)
            return record[getter[4:]]

    def _event_from(self, _: Host, classes: list[str], token: str, timeout: object) -> Record:
        pool = self._pool
        deadline = time.monotonic() + float(str(timeout))
        while True:
            pool.catch_up()
            left = deadline - time.monotonic()
            # Now and then, for what happens by itself as time passes.
            answer = pool.database.events(classes, token, min(left, 0.2))
            if answer["events"] or left <= 0 or pool.is_closing():
                return answer

    def _event_register(self, _: Host, *__: object) -> str:
        return ""

    _event_unregister = _event_register

    def _event_next(self, _: Host) -> list[Record]:
        # Of the old interface: real hosts wait here for ever.
        return []

    def _event_get_current_id(self, _: Host) -> int:
        return int(self._pool.database.token().split(",")[0])

    def _event_inject(self, _: Host, name: str, ref: str) -> str:
        """Say that an object changed, and return the token that this has."""
        self._pool.database.find(name, ref)
        self._pool.database.update(
            next(known for known in self._pool.database.tables if known.lower() == name.lower()),
            ref,
        )
        return self._pool.database.token()

    def _task_create(self, _: Host, *__: object) -> str:
        return f"OpaqueRef:{uuid.uuid4()}"

    def _task_destroy(self, _: Host, *__: object) -> str:
        return ""

    def _session_get_this_host(self, host: Host, *_: object) -> str:
        return host.ref

    def _host_get_servertime(self, _: Host, ref: str) -> str:
        host = next(each for each in self._pool.hosts if each.ref == ref)
        return time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(self._pool.now + host.clock))

    def _host_get_server_certificate(self, _: Host, ref: str) -> str:
        for host in self._pool.hosts:
            if host.ref == ref:
                return host.certificate.pem
        raise ApiError("HANDLE_INVALID", "host", ref)

    def _vm_query_data_source(self, _: Host, ref: str, name: str) -> float:
        record = self._pool.database.find("VM", ref)
        if record["power_state"] != "Running":
            raise ApiError("VM_BAD_POWER_STATE", ref, "Running", record["power_state"])
        return self._pool.metrics.newest(record["uuid"], name, self._pool.now)

    def _vm_get_data_sources(self, _: Host, ref: str) -> list[Record]:
        record = self._pool.database.find("VM", ref)
        rrd = self._pool.metrics.rrd(record["uuid"], self._pool.now)
        return [
            {
                "name_label": source.name,
                "name_description": "",
                "enabled": True,
                "standard": True,
                "units": "",
                "min": 0.0,
                "max": float(source.maximum),
                "value": 0.0,
            }
            for source in (rrd.sources if rrd else [])
        ]

    def _vm_record_data_source(self, _: Host, *__: object) -> str:
        return ""
