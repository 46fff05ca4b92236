"""What calls wait for inside of libvirtd: a worker, the lock of a domain, the job of a domain.

As in libvirt 9.0 with QEMU. Whoever asks QEMU something has the domain's job meanwhile, and keeps
it for as long as QEMU says nothing. The lock is held for moments; but somebody who destroys the
domain, or opens a file of its on storage that is gone, holds it until that is done. A call that
waits has one of the workers.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.procedures import BULK, VIR_DOMAIN_SHUTOFF, Domain, DomainRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Those of our procedures whose @priority is "high" in src/remote/remote_protocol.x.
PRIORITY = {
    *("CONNECT_OPEN", "CONNECT_CLOSE", "CONNECT_GET_TYPE", "CONNECT_GET_VERSION", "NODE_GET_INFO"),
    *("DOMAIN_LOOKUP_BY_ID", "DOMAIN_LOOKUP_BY_NAME", "DOMAIN_LOOKUP_BY_UUID"),
    *("CONNECT_GET_HOSTNAME", "CONNECT_SUPPORTS_FEATURE", "DOMAIN_INTERFACE_STATS", "AUTH_LIST"),
    *("CONNECT_GET_URI", "CONNECT_GET_LIB_VERSION", "DOMAIN_GET_STATE", "DOMAIN_GET_CONTROL_INFO"),
    *("CONNECT_LIST_ALL_DOMAINS", "CONNECT_REGISTER_CLOSE_CALLBACK"),
    "CONNECT_UNREGISTER_CLOSE_CALLBACK",
}
NEEDS_JOB = {
    *("DOMAIN_MEMORY_STATS", "DOMAIN_BLOCK_STATS", "DOMAIN_BLOCK_STATS_FLAGS"),
    "DOMAIN_GET_BLOCK_INFO",
}
# They take the locks of all domains, one after the other.
OF_ALL = {"CONNECT_LIST_ALL_DOMAINS", "DOMAIN_LOOKUP_BY_ID", BULK}

POLLING = 0.01  # seconds: tests change domains at any time, and tell nobody


class Waits:
    """The workers of one daemon, and the domains' locks and jobs.

    ``workers``: how many calls may be executed at once; libvirtd has 20, this one has no limit.
    ``priority_workers``: how many more of them if they are priority calls.
    ``job_timeout``: seconds after which a call that waits for a job gets an error, or, a bulk one,
    goes on without.
    ``most_busy``: how many workers were ever busy at once, for longer than a moment.
    """

    def __init__(self) -> None:
        self.workers: int | None = None
        self.priority_workers = 5
        self.job_timeout = 30.0
        self.most_busy = 0
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    def may_have_to(self, name: str, domains: Iterable[Domain]) -> bool:
        """Whether a call of this procedure about these domains would have to wait now."""
        return any(domain.locked or domain.hung or domain.job for domain in domains) or (
            self._free_worker(name) is None
        )

    @contextmanager
    def worker(self, name: str, stopped: threading.Event) -> Iterator[bool]:
        """Have a worker for a call of this procedure; False where the daemon stops before."""
        while (kind := self._take_worker(name)) is None:
            if stopped.wait(POLLING):
                yield False
                return
        try:
            yield True
        finally:
            with self._lock:
                self._busy[kind] -= 1

    def for_locks(self, domains: Iterable[Domain], stopped: threading.Event) -> None:
        """Wait until nobody holds the lock of one of these domains."""
        for domain in domains:
            while domain.locked and not stopped.wait(POLLING):
                pass

    @contextmanager
    def job(self, domain: Domain, stopped: threading.Event, *, wait: bool = True) -> Iterator[bool]:
        """Have a domain's job, and answers of its QEMU; False where the job is not to be had."""
        if domain.state == VIR_DOMAIN_SHUTOFF:
            yield True
            return
        deadline = time.monotonic() + self.job_timeout
        taken = self._take_job(domain)
        asks = taken or wait
        self._count(domain, asks)
        try:
            while not taken and wait and time.monotonic() < deadline and not stopped.wait(POLLING):
                taken = self._take_job(domain)
            while taken and domain.hung and not stopped.wait(POLLING):
                pass
            yield taken
        finally:
            domain.taken &= not taken
            self._count(domain, -asks)

    def _take_job(self, domain: Domain) -> bool:
        with self._lock:
            if domain.taken or domain.job:
                return False
            domain.taken = True
            return True

    def _count(self, domain: Domain, more: int) -> None:
        with self._lock:
            domain.asking += more
            domain.most_asking = max(domain.most_asking, domain.asking)

    def _take_worker(self, name: str) -> str | None:
        with self._lock:
            kind = self._free_worker(name)
            if kind:
                self._busy[kind] += 1
                self.most_busy = max(self.most_busy, self._busy.total())
            return kind

    def _free_worker(self, name: str) -> str | None:
        """The kind of worker that would execute a call of this procedure now."""
        if self.workers is None or self._busy["ordinary"] < self.workers:
            return "ordinary"
        if name in PRIORITY and self._busy["priority"] < self.priority_workers:
            return "priority"
        return None


def involved(domains: dict[str, Domain], name: str, args: list[Any]) -> list[Domain]:
    """The domains whose locks a call takes."""
    first = args[0] if args else None
    uuids: list[str]
    if isinstance(first, DomainRef):
        uuids = [first.uuid]
    elif name == "DOMAIN_LOOKUP_BY_UUID":
        uuids = [str(first)]
    elif name == "DOMAIN_LOOKUP_BY_NAME":
        return [domain for domain in list(domains.values()) if domain.name == first]
    elif name in OF_ALL:
        uuids = [ref.uuid for ref in first] if name == BULK and first else list(domains)
    else:
        return []
    return [domain for uuid in uuids if (domain := domains.get(uuid))]
