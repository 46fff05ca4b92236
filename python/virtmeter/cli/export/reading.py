"""Reads all VMs, one pass after the other, for all who ask at a time."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import virtmeter
from virtmeter import PowerState
from virtmeter.cli import about, kinds, session
from virtmeter.cli.connection import is_away
from virtmeter.cli.export.choice import Choice
from virtmeter.cli.export.created import Created
from virtmeter.cli.export.known import Known
from virtmeter.cli.export.seen import Seen
from virtmeter.cli.export.workers import Workers
from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from virtmeter.cli.export.created import Key

METADATA_AGE = 300.0
"""Seconds for which what Nova says of its instances is good, unless there is a new one."""

RECENT = 0.5
"""Seconds from its beginning for which a pass serves who asks after its end: however many ask, no
more passes begin, and no more texts are made of them."""

METADATA_RETRY = 30.0
"""Seconds for which it is good when some could not be read."""

GLANCE = 0.25
"""Seconds after which who waits looks whether the client is there still."""

Answer = Union["Sequence[Any]", virtmeter.InspectorException]
"""The records that a method has returned, or what it has raised."""

LOG = logging.getLogger(__name__)


def failures(answers: Iterable[tuple[virtmeter.Instance, Answer]]) -> int:
    """Return how many were refused, or not given by a VM or its host: not those that are busy."""
    return sum(
        isinstance(answer, virtmeter.InspectorException)
        and not isinstance(answer, virtmeter.InstanceBusyException)
        for _, answer in answers
    )


class Pass:
    """What one pass over the host has read so far. Only the reading thread writes to it."""

    def __init__(self, hypervisor: str = kinds.LIBVIRT, before: Pass | None = None) -> None:
        """Begin with nothing.

        :param hypervisor: which kind is read.
        :param before: the pass before this one.
        """
        self.hypervisor = hypervisor
        self.began = self.asked = time.monotonic()
        """When it began, and when it was last asked for."""
        self.between: float | None = None
        """In the middle between the last scrape of the pass before and this one, seconds since the
        epoch: the clocks of who scrapes may differ from this one a little."""
        if before is not None:
            self.between = time.time() - (self.began - before.asked) / 2
        self.is_shared = False
        """Whether it may have to wait for a thread, as others are read by the same ones."""
        self.was_away: bool = before is not None and not before.reached
        """Whether the hypervisor did not answer the last time; so it is away until it does."""
        self.started: float | None = None
        """When it got a thread."""
        self.reached: bool = False
        """Whether the hypervisor has answered, and no connection was lost since."""
        self.hosts: list[virtmeter.Host] = []
        """Those of a pool."""
        self.instances: list[virtmeter.Instance] = []
        self.answers: list[tuple[virtmeter.Instance, Answer]] = []
        self.described: set[str] = set()
        """The VMs of which it is known whether they are Nova's."""
        self.servers: dict[str, virtmeter.Server] = {}
        self.known: dict[str, Known] = {}
        """What each VM was when it last told."""
        self.created: dict[Key, float] = {}
        """When counters began, of those of which that was seen."""
        self.complete = False
        """Whether every VM was asked for everything."""
        self.failure: BaseException | None = None
        """Why it ended early."""
        self.ended = False
        self.took = 0.0
        """Seconds, once it has ended."""
        self.vms: int | None = None
        """How many were listed that are wanted, if they were."""

    def is_recent(self) -> bool:
        """Return whether it serves who asks now, though it has ended."""
        return self.began >= time.monotonic() - RECENT

    def is_unknown(self) -> bool:
        """Return whether there is no reason yet to take the hypervisor for away.

        It has not answered, but had less time for that than went by before there was a thread.
        """
        if not self.is_shared or self.was_away or self.reached or self.ended:
            return False
        return time.monotonic() - self.began < 2 * self.waited()

    def waited(self) -> float:
        """Return for how many seconds it has waited for a thread, or had to."""
        started = time.monotonic() if self.started is None else self.started
        return started - self.began

    def forgotten(self) -> Pass:
        """Return when it was and how it went, without what was read."""
        rest = Pass(self.hypervisor)
        rest.began, rest.asked, rest.took = self.began, self.asked, self.took
        rest.reached, rest.complete, rest.vms = self.reached, self.complete, self.vms
        rest.ended = True
        return rest

    def snapshot(self) -> Snapshot:
        """Return what it has read by now."""
        # At first whether there will be more: an answer may come between the two.
        complete, final = self.complete, self.complete or self.ended
        answers = tuple(self.answers)
        return Snapshot(
            *(self.hypervisor, self.began, self.reached, complete, final),
            *(self.hosts, self.instances, answers, self.described),
            *(self.servers, self.known, self.created),
        )


class Snapshot(NamedTuple):
    """What a pass had read at a moment, named as there; it does not change any more."""

    hypervisor: str
    began: float
    reached: bool
    complete: bool
    final: bool
    """Whether the pass has read no more after that."""
    hosts: Sequence[virtmeter.Host]
    instances: Sequence[virtmeter.Instance]
    answers: Sequence[tuple[virtmeter.Instance, Answer]]
    described: AbstractSet[str]
    servers: Mapping[str, virtmeter.Server]
    known: Mapping[str, Known]
    created: Mapping[Key, float]


class Reader:
    """Begins a pass when somebody asks and none is under way, or has just been.

    Whoever asks meanwhile shares it.

    All readings of a pass are taken by one thread in one order, so that the inspector knows what
    comes next and takes it ahead, several at a time.
    """

    def __init__(
        self,
        inspector: virtmeter.Inspector,
        choice: Choice | None = None,
        workers: Workers | None = None,
        target: str = "",
        *,
        once: bool = False,
    ) -> None:
        """Begin to wait for the first who asks.

        :param choice: what to read; all that is read by default if there is none.
        :param workers: whose threads read; one of its own if there are none.
        :param target: the name of what is read, for the log, where there are many.
        :param once: whether nobody asks a second time.
        :raises RuntimeError: there can be no thread.
        """
        self._inspector = inspector
        self._hypervisor = kinds.kind(inspector.uri)
        self._choice = choice or Choice()
        self._missing: set[str] = set()
        self._workers, self._target = workers or Workers(1), target
        self._has_own = workers is None
        self._reading = threading.Lock()
        """Held by the thread that reads."""
        self._stopped = False
        self._changed = threading.Condition()
        self._pass: Pass | None = None
        self._last: Pass | None = None
        """The last that has ended; once it is forgotten, only when that was and how it went."""
        self._metadata_read = float("-inf")
        self._metadata_asked: set[str] = set()
        self._described: set[str] = set()
        self._servers: dict[str, virtmeter.Server] = {}
        self._known: dict[str, Known] = {}
        self._created = Created()
        self._seen = Seen() if self._hypervisor == kinds.XENSERVER and not once else None

    def read(
        self,
        time_left: Callable[[Pass], float],
        check: Callable[[], object] = lambda: None,
    ) -> Pass:
        """Return the pass that is under way or recent, or a new one, as far as it has come by then.

        :param time_left: how many seconds the caller can still wait.
        :param check: raises what is to be raised when nobody wants it any more.
        """
        check()
        with self._changed:
            current = self._begin()
            current.asked = time.monotonic()
            while not current.ended and (left := time_left(current)) > 0:
                self._changed.wait(min(left, GLANCE))
                check()
            return current

    def tell_unread(self, why: str) -> None:
        """Say why a pass has waited for a thread in vain."""
        with about.target(self._target):
            LOG.warning("not read in time: %s", why)

    def begin(self) -> None:
        """Have everything read, which nobody waits for: the inspector adds up what it is told."""
        with self._changed:
            self._begin()

    def last(self) -> Pass | None:
        """Return the last pass that has ended, if there was one."""
        return self._last

    def health(self) -> virtmeter.Health:
        """Return the inspector's health; what it logs by then is about the target."""
        with about.target(self._target):
            return self._inspector.health()

    def is_reading(self) -> bool:
        """Return whether a pass is under way."""
        current = self._pass
        return current is not None and not current.ended

    def stop(self) -> None:
        """Read nothing any more."""
        self._stopped = True

    def settle(self, until: float) -> None:
        """Wait for what is being read from a pool or vCenter: after its closing, that would log in.

        :param until: when no longer, by the monotonic clock.
        """
        if self._hypervisor != kinds.LIBVIRT:
            left = max(0.0, until - time.monotonic())
            if self._reading.acquire(timeout=left):
                self._reading.release()

    def forget(self) -> None:
        """Hold nothing of a pass that serves nobody any more."""
        with self._changed:
            if self._pass is not None and self._pass.ended and not self._pass.is_recent():
                self._last = self._pass.forgotten()
                self._pass = None

    def _begin(self) -> Pass:
        """Return the pass that is under way or recent, or begin one. The lock is held."""
        before = self._pass or self._last
        if self._pass is None or (self._pass.ended and not self._pass.is_recent()):
            current = Pass(self._hypervisor, before)
            current.is_shared = not self._has_own
            doubtful = before is not None and not before.complete
            self._workers.begin(lambda: self._run(current), doubtful=doubtful)
            self._pass = current  # it is under way: there was memory for that
        return self._pass

    def _run(self, current: Pass) -> None:
        try:
            with self._reading, about.target(self._target):
                current.started = time.monotonic()
                if not self._stopped:
                    self._read(current)
        finally:  # whatever fails, as a log does without memory: no other begins before
            with self._changed:
                current.took = time.monotonic() - current.began
                current.ended = True
                self._last = current
                self._changed.notify_all()

    def _read(self, current: Pass) -> None:
        try:
            self._fill(current)
        # The next pass may do better, after a panic of the core as well, which is no Exception.
        except BaseException as error:  # noqa: BLE001
            error.__traceback__ = None  # it would hold this reader, and what that reads
            current.failure = error
            if isinstance(error, virtmeter.ConnectionLost):
                current.reached = False  # which the inspector logs
            else:
                LOG.warning("not all VMs could be read: %s", error)

    def _fill(self, current: Pass) -> None:
        try:
            listed = sorted(self._inspector.list_instances())
        except virtmeter.InspectorException:
            current.reached = True  # it answers, but with no list; unless the connection is lost
            raise
        current.reached = True
        current.servers, current.described = self._servers, self._described
        session.tell(self._inspector.uri, listed)
        self._created.list(listed, current.between)
        if self._seen:
            self._seen.keep({each.id for each in listed if each.state != PowerState.SHUTOFF})
        self._tell_missing(listed)
        if self._hypervisor != kinds.LIBVIRT:
            current.hosts = self._inspector.list_hosts()  # all at once, and their VMs with them
        instances = [each for each in listed if self._choice.wants(each)]
        current.instances, current.vms = instances, len(instances)
        ids = {each.id for each in instances}
        current.known = {id_: known for id_, known in self._known.items() if id_ in ids}
        alike = {each: each for each in current.known.values()}
        self._known = current.known
        running = [each for each in instances if each.state != PowerState.SHUTOFF]
        for method in self._choice.methods():
            if method == "list_servers":
                self._read_metadata(current)
                continue
            for instance in instances if method == "inspect_details" else running:
                self._ask(current, method, instance, alike)
        current.servers, current.described = self._servers, self._described
        current.complete = True

    def _ask(
        self,
        current: Pass,
        method: str,
        instance: virtmeter.Instance,
        alike: dict[Known, Known],
    ) -> None:
        try:
            answer = getattr(self._inspector, method)(instance)
        except (virtmeter.InstanceNotFoundException, virtmeter.InstanceShutOffException):
            return  # it has ended since the list was read
        except NotImplementedError:
            return  # a hypervisor of this kind never tells it
        except virtmeter.InspectorException as error:
            if is_away(self._inspector, error):
                raise
            error.__traceback__ = None  # it would hold the pass, which holds it
            current.answers.append((instance, error))
        else:
            records = self._choice.records(method, answer)
            before = current.known.get(instance.id)
            seen = (method, answer, records, current.between, before)
            began = dict(self._created.read(instance, *seen))
            current.created.update(began)
            if self._seen:
                records = self._seen.since(instance.id, records, began)
            if isinstance(answer, virtmeter.InstanceDetails):
                known = Known.of(answer)
                if known != before:
                    current.known[instance.id] = alike.setdefault(known, known)
            current.answers.append((instance, records))

    def _tell_missing(self, listed: Sequence[virtmeter.Instance]) -> None:
        """Say which names are no VM's: it may come later, or the name is wrong."""
        missing = self._choice.missing(listed)
        for name in sorted(missing - self._missing):
            LOG.warning("no VM is named '%s'; it will be read once there is one", printable(name))
        self._missing = missing

    def _read_metadata(self, current: Pass) -> None:
        """Read what Nova says, when it is old or an instance is new."""
        ids, now = {instance.id for instance in current.instances}, time.monotonic()
        good_for = METADATA_AGE if ids <= self._described else METADATA_RETRY
        if ids <= self._metadata_asked and now - self._metadata_read <= good_for:
            return
        read = self._inspector.list_servers(current.instances)
        servers = {server.id: server for server in read}
        # Who is not among them is not Nova's, or was not read: what was known of those stays.
        unread = {
            instance.id
            for instance, answer in current.answers
            if isinstance(answer, virtmeter.InspectorException) and instance.id not in servers
        }
        known = unread & self._described
        servers.update((id_, self._servers[id_]) for id_ in known & self._servers.keys())
        self._servers, self._described = servers, ids - unread | known
        self._metadata_asked, self._metadata_read = ids, now
