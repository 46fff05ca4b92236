"""A pool of simulated hosts."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.xapi import handlers
from tests.support.xapi.certificates import Certificate
from tests.support.xapi.changes import VM
from tests.support.xapi.faults import Fault
from tests.support.xapi.playback import Playback, copied
from tests.support.xapi.recording import recording
from tests.support.xapi.records import Database
from tests.support.xapi.release import Release
from tests.support.xapi.rpc import Rpc
from tests.support.xapi.scenario import Scenario, tables_of
from tests.support.xapi.server import Answer, Server, listen_on_all
from tests.support.xapi.sessions import Account, Sessions
from tests.support.xapi.wire import JsonRpc, XmlRpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from tests.support.xapi.connection import Request, Response
    from tests.support.xapi.metrics import Metrics

PASSWORD = "sésame & <öffne> dich"


class Asked(NamedTuple):
    """A request that came: which host's, what (``GET /rrd_updates``, or a method), and whole."""

    host: int
    name: str
    request: Request


class Host:
    """One host of a pool, and all that can be wrong with it."""

    def __init__(self, pool: Pool, index: int, ref: str, address: str) -> None:
        self._pool = pool
        self.index = index
        self.ref = ref
        self.address = address
        self.certificate = pool.make_certificate(address)
        self.server: Server
        #: By how many seconds its clock is fast: a multiple of 5.
        self.clock = 0
        #: Whether xcp-rrdd runs.
        self.rrdd = True
        #: How many seconds each answer to /rrd_updates takes.
        self.delay = 0.0
        self.is_away = False
        self.faults: list[Fault] = []

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.server.address[1]}"

    @property
    def uuid(self) -> str:
        return str(self._pool.database.tables["host"][self.ref]["uuid"])

    def fail(self, **fault: Any) -> Fault:
        """Let a fault happen from now on: see Fault for what there is."""
        made = Fault(**fault)
        self.faults.append(made)
        return made

    def heal(self) -> None:
        """End all faults."""
        self.faults.clear()
        self.server.plain = self.server.silent = False
        self.rrdd = True
        if self.is_away:
            self.back()

    def away(self) -> None:
        """Refuse connections from now on."""
        self.is_away = True
        self.server.away()

    def back(self) -> None:
        self.server.back()
        self.is_away = False

    def change_certificate(self, name: str | None = None, address: str | None = None) -> None:
        """Show another certificate from now on, for another name and address if they are given."""
        self.certificate = self._pool.make_certificate(address or self.address, name)
        self.server.context = self.certificate.context()

    def live(self, live: bool) -> None:
        """Say in host_metrics whether the host lives."""
        record = self._pool.database.tables["host"][self.ref]
        self._pool.database.update("host_metrics", record["metrics"], live=live)

    def answer(self, request: Request) -> Answer:
        """Answer a request, and say which fault strikes it."""
        rpc: JsonRpc | XmlRpc | None = None
        if request.verb == "POST" and request.path in ("/jsonrpc", "/", "/xmlrpc", "/RPC2"):
            rpc = (JsonRpc if request.path == "/jsonrpc" else XmlRpc)(request.body)
        method = rpc.method if rpc else ""
        self._pool.note(Asked(self.index, method or f"{request.verb} {request.path}", request))
        fault = self._strike(request.path, method)
        response = self._respond(request, rpc, fault.error if fault else ())
        if self.delay and request.path == "/rrd_updates":
            fault = fault or Fault(delay=self.delay)
        return response, fault

    def _respond(
        self, request: Request, rpc: JsonRpc | XmlRpc | None, error: tuple[str, ...]
    ) -> Response:
        self._pool.catch_up()
        if rpc is not None:
            return handlers.call(self._pool, self, request, rpc, error)
        return handlers.get(self._pool, self, request)

    def _strike(self, path: str, method: str) -> Fault | None:
        with self._pool.lock:
            for fault in self.faults:
                if fault.fits(path, method):
                    fault.times -= fault.times > 0
                    fault.happened += 1
                    return fault
        return None


class Pool:
    """Hosts on 127.0.0.1, 127.0.0.2, ..., all on one port; the first is the master.

    Time is `now`: set it, or give a function. It runs from `start` to `end` of a recording (ten
    minutes); what happened in the recording happens by itself as time passes. Use it in a `with`
    statement: leaving it ends all threads and closes all sockets.
    """

    def __init__(
        self,
        data: str = "xapi-26.17_steady",
        *,
        hosts: int = 1,
        now: Callable[[], float] | None = None,
        release: str | None = None,
        parts: tuple[Metrics, Database] | None = None,
    ) -> None:
        self.name = data
        self.lock = threading.Lock()
        self._changing = threading.RLock()
        self._closing = threading.Event()
        self._clock = now
        self._scenario: Scenario | None = None
        if parts is None:
            recorded = recording(data)
            self._now: float = recorded.start
            build = Release.parse(release) if release else recorded.release
            self.metrics: Metrics = Playback(recorded, hosts, build)
            self.database = Database(tables_of(recorded, hosts))
            self._scenario = Scenario(recorded, hosts, self.database)
            self.start, self.end = recorded.start, recorded.end
            self._vms = recorded.vms
        else:
            self._now = time.time()
            self.metrics, self.database = parts
            self._vms = {}
        self.release = self.metrics.release
        #: Which host is the master.
        self.master = 0
        self.sessions = Sessions(
            {
                "root": Account(PASSWORD),
                "monitor": Account(PASSWORD, "read-only"),
                "nobody": Account(PASSWORD, "none"),
            },
            closing=self._closing,
        )
        self.rpc = Rpc(self)
        #: How often what was asked, of which host.
        self.calls: Counter[tuple[int, str]] = Counter()
        #: The latest requests, whole.
        self.requests: deque[Asked] = deque(maxlen=10_000)
        self._directory = tempfile.TemporaryDirectory(prefix="virtmeter-xapi-")
        self._certificates = 0
        self.hosts = [
            Host(self, index, ref, f"127.0.0.{index + 1}")
            for index, ref in enumerate(self.database.tables["host"])
        ]

    def __enter__(self) -> Self:
        listeners = listen_on_all([host.address for host in self.hosts])
        for host, listener in zip(self.hosts, listeners):
            host.server = Server(listener, host.certificate.context(), host.answer)
            record = self.database.tables["host"][host.ref]
            version = {**record["software_version"], "xapi_build": str(self.release)}
            self.database.update("host", host.ref, address=host.address, software_version=version)
        self.catch_up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        for host in self.hosts:
            if not host.is_away:
                host.away()
        self._directory.cleanup()

    def is_closing(self) -> bool:
        return self._closing.is_set()

    def make_certificate(self, address: str, name: str | None = None) -> Certificate:
        with self.lock:
            self._certificates += 1
        path = Path(self._directory.name) / f"{self._certificates}.pem"
        return Certificate(path, address, name or "xapi.example")

    @property
    def url(self) -> str:
        """Return the master's URL."""
        return self.hosts[self.master].url

    def uri(self, host: int | None = None, user: str = "monitor") -> str:
        """Return virtmeter's URI for the pool by the address of a host, with its pin."""
        through = self.hosts[self.master if host is None else host]
        authority = through.url.removeprefix("https://")
        return f"xenserver://{user}@{authority}/?sha256={through.certificate.sha256}"

    @property
    def now(self) -> float:
        return self._now if self._clock is None else self._clock()

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        self.catch_up()

    def catch_up(self) -> None:
        """Let happen what is due by now."""
        if self._scenario is not None:
            with self._changing:
                self._scenario.advance(self.now)

    def vm(self, letter: str, host: int = 0) -> VM:
        """Return a VM of a recording by its letter."""
        uuid = copied(self._vms[letter], host)
        return VM(self.database.by_uuid("VM", uuid), self.database, self.metrics, lambda: self.now)

    def vms(self) -> Iterable[VM]:
        """Return all VMs, with templates, snapshots and the control domains."""
        refs = list(self.database.tables["VM"])
        return [VM(ref, self.database, self.metrics, lambda: self.now) for ref in refs]

    def truth(self, uuid: str, name: str, time: float | None = None) -> float | None:
        """Return what a source really was at a time."""
        return self.metrics.truth(uuid, name, self.now if time is None else time)

    def appoint(self, host: int) -> None:
        """Make another host the master."""
        self.master = host
        for ref in self.database.tables["pool"]:
            self.database.update("pool", ref, master=self.hosts[host].ref)

    def note(self, asked: Asked) -> None:
        with self.lock:
            self.calls[asked.host, asked.name] += 1
            self.requests.append(asked)

    def count(self, name: str, host: int | None = None) -> int:
        """Return how often something was asked, of one host or of all."""
        with self.lock:
            return sum(
                number
                for (where, what), number in self.calls.items()
                if what == name and host in (None, where)
            )

    def forget(self) -> None:
        """Begin to count anew."""
        with self.lock:
            self.calls.clear()
            self.requests.clear()
