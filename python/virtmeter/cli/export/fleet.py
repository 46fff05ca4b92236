"""Many targets: each is opened when somebody asks for it, and closed when nobody does any more."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import virtmeter
from virtmeter.cli import about, certificates, connection, kinds, targets
from virtmeter.cli.export.messages import RefusalError
from virtmeter.cli.export.reading import Reader
from virtmeter.cli.export.rendering import Renderer
from virtmeter.cli.export.server import LEAST
from virtmeter.cli.export.texts import Texts
from virtmeter.cli.export.workers import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import NoReturn

    from virtmeter.cli.export.workers import Workers
    from virtmeter.cli.targets import Target

LOG = logging.getLogger(__name__)

KEPT = 3600.0
"""Seconds for which a target stays open that nobody asks for."""

PACE = {kinds.XENSERVER: 240.0, kinds.VSPHERE: 1500.0}
"""Seconds after which one of these is read without being asked: less than half of the time that its
hosts remember, so that a reading may fail and nothing is lost."""

LOOKED = 3600.0
"""Seconds for which it is known how long a certificate is good."""

ROUND = 2.0
"""Seconds between two looks at all targets."""

MOST_CONNECTED = 256
"""Targets of libvirt's that are open at a time: it has a thread and a connection for each."""

SETTLING = 1.0
"""Seconds at most that the end waits for readings."""
LAST = 2.0
"""Seconds that all have together to log out at the end."""
LEAVING = 32
"""How many do at a time."""


class Opened(NamedTuple):
    """What reads a target."""

    inspector: virtmeter.Inspector
    reader: Reader
    renderer: Renderer


class Entry:
    """A target, and what is known of it."""

    def __init__(self, target: Target) -> None:
        """Begin without asking it anything."""
        self.target = target
        self.lock = threading.Lock()
        self.opened: Opened | None = None
        self.asked = 0.0
        """When somebody last asked for it, by the monotonic clock."""
        self.scrapes = 0
        self.expires: float | None = None
        """When its certificate does, seconds since the epoch, if that matters and is known."""
        self.looked: float | None = None
        """When that was looked at, by the monotonic clock."""


def _most_workers(read: Iterable[Target]) -> int:
    """Return the most that one of libvirt's has; 0 if there is none."""
    return max((each.workers for each in read if each.kind == kinds.LIBVIRT), default=0)


def _is_other(target: Target) -> bool:
    """Return whether it is a pool or a vCenter."""
    return target.kind != kinds.LIBVIRT


class Fleet:
    """The targets of a file, and what reads those that are asked for."""

    def __init__(
        self, file: Path, defaults: targets.Defaults, workers: Workers, descriptors: int
    ) -> None:
        """Read the file; connect to nothing yet.

        :param workers: whose threads read all of them.
        :param descriptors: how many there are for connections to hypervisors.
        :raises ValueError: there is a mistake in it.
        :raises click.ClickException: there are too few descriptors.
        """
        self.file, self._defaults, self._workers = file, defaults, workers
        self._descriptors = descriptors
        self._of_others = workers.bounded(descriptors // 2 // connection.OF_OTHERS)
        """Those who read pools and vCenters: with few descriptors, fewer at a time."""
        self.clients = LEAST
        """How many clients there may be, with a descriptor each."""
        self._texts = Texts()
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self.taken = 0
        """How often the targets were taken from the file."""
        self.take(self.read())

    def read(self) -> dict[str, Target]:
        """Return what the file says now.

        :raises ValueError: there is a mistake in it.
        :raises click.ClickException: there are too few descriptors.
        """
        read = targets.read(self.file, self._defaults)
        # One of libvirt's can be read whatever clients come, and so can some of the others.
        more = self.clients + self._others_take(read.values())
        connection.descriptors(_most_workers(read.values()), more)
        return read

    def take(self, read: Mapping[str, Target]) -> None:
        """Go on with these; those that did not change keep their sessions and counters."""
        with self._lock:
            entries = {}
            for name, target in read.items():
                entry = self._entries.get(name)
                if entry is None or _reads(entry.target) != _reads(target):
                    entry = Entry(target)
                entry.target = target
                entries[name] = entry
            self._entries = entries  # at once: who asks meanwhile is to find all of them
            self.taken += 1
        # What nobody has any more closes behind our backs.
        others, most = sum(map(_is_other, read.values())), self._of_others.threads
        if others > most and self._of_others is not self._workers:
            LOG.warning(
                "up to %d of %d pools and vCenters are read at a time; raise the limit on "
                "descriptors (systemd's LimitNOFILE=) to read more",
                most,
                others,
            )

    def entries(self) -> list[Entry]:
        """Return all targets, in the order of the file."""
        return list(self._entries.values())

    def one_takes(self) -> int:
        """Return how many descriptors a target of libvirt's may take; 0 if there is none."""
        workers = _most_workers(each.target for each in self.entries())
        return connection.libvirts(workers) if workers else 0

    def others_take(self) -> int:
        """Return how many descriptors those pools and vCenters may take that are read at a time."""
        return self._others_take(each.target for each in self.entries())

    def _others_take(self, read: Iterable[Target]) -> int:
        others = sum(map(_is_other, read))
        return connection.OF_OTHERS * min(others, self._of_others.threads)

    def open(self, name: str) -> Opened:
        """Return what reads a target, and note that somebody asks.

        :raises KeyError: there is no such target.
        :raises RefusalError: it cannot be read now.
        """
        entry = self._entries[name]
        with entry.lock:
            entry.asked = time.monotonic()
            entry.scrapes += 1
            opened = entry.opened  # which others may close meanwhile
            if opened is None:
                opened = entry.opened = self._opened(entry.target)
            return opened

    def _opened(self, target: Target) -> Opened:
        if target.kind == kinds.LIBVIRT:
            self._make_room()
        try:
            inspector = connection.opened(
                *(target.uri, target.timeout, target.workers),
                reckon_sizes=not target.ask_sizes,
            )
        except (ImportError, ValueError, virtmeter.InspectorException) as error:
            with about.target(target.name):
                LOG.warning("it cannot be read: %s", error)
            raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None
        workers = self._of_others if _is_other(target) else self._workers
        reader = Reader(inspector, target.choice, workers, target.name)
        return Opened(inspector, reader, Renderer(reader.health, self._texts))

    def _make_room(self) -> None:
        """Close a target of libvirt's that is not read now, if there are as many as may be.

        Nothing is lost by that: their counters are the hypervisor's own.
        """
        is_open = [
            each
            for each in self.entries()
            if each.target.kind == kinds.LIBVIRT and each.opened is not None
        ]
        fit = max(1, (self._descriptors - self.others_take()) // self.one_takes())
        most = min(MOST_CONNECTED, fit)
        too_many = len(is_open) + 1 - most
        for each in sorted(is_open, key=lambda each: each.asked) if too_many > 0 else ():
            # No more of them are asked than have to be closed.
            if (now := each.opened) and _can_be_closed(now.reader):
                each.opened = None
                too_many -= 1
                if not too_many:
                    break
        if too_many > 0:
            LOG.warning(
                "no other target of libvirt's can be read now: all that may be connected (%d) are "
                "being read or hang%s",
                most,
                "; raise the limit on descriptors (systemd's LimitNOFILE=) to connect more"
                if fit < MOST_CONNECTED
                else "",
            )
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many targets are being read; try again.",
                ("Retry-After", "1"),
            )

    def look_after_all(self) -> NoReturn:
        """Look after all targets for ever."""
        while True:
            time.sleep(ROUND)
            try:
                self.look_after(time.monotonic())
            except Exception as error:  # noqa: BLE001 - the next round may do better
                with suppress(MemoryError):
                    LOG.warning("the targets could not be looked after: %s", error)

    def look_after(self, now: float) -> None:
        """Close what nobody asks for, and read what would be lost if nobody did."""
        for entry in self.entries():
            opened = entry.opened
            if opened is None:
                continue
            if now - entry.asked > KEPT:
                with entry.lock:
                    if now - entry.asked > KEPT and _can_be_closed(opened.reader):
                        entry.opened = entry.expires = entry.looked = None
                continue
            opened.reader.forget()
            last, pace = opened.reader.last(), PACE.get(entry.target.kind)
            if pace and last and now - last.began > pace:
                opened.reader.begin()
            known = entry.looked is not None and now - entry.looked <= LOOKED
            if pace and last and last.reached and not known:
                entry.looked = now
                self._workers.begin(_looked(entry), doubtful=True)

    def close(self) -> None:
        """Log out of all, as far as that takes no longer than a moment."""
        opened = [each.opened for each in self.entries() if each.opened]
        if not opened:
            return
        for each in opened:
            each.reader.stop()
        until = time.monotonic() + SETTLING
        for each in opened:
            each.reader.settle(until)
        left: SimpleQueue[None] = SimpleQueue()

        def leave(inspector: virtmeter.Inspector) -> None:
            with suppress(Exception):  # it ends by itself
                inspector.close()
            left.put(None)

        until = time.monotonic() + LAST
        # There may be no threads, or not be enough time; sessions end by themselves.
        with suppress(RuntimeError, MemoryError, Empty):
            leaving = Pool(min(LEAVING, len(opened)))
            for each in opened:
                leaving.begin(partial(leave, each.inspector))
            for _ in opened:
                left.get(timeout=max(0.0, until - time.monotonic()))


def _reads(target: Target) -> Target:
    """Return what of it matters to who reads it."""
    return target._replace(labels={})


def _can_be_closed(reader: Reader) -> bool:
    """Return whether nothing is left behind when it is closed, nor lost by that.

    A call of libvirt's that does not return keeps its thread and connection in any case, and there
    would be more of them each time that the target is opened. A pool or vCenter that was not
    reached has no session, but knows the password that was refused.
    """
    if reader.is_reading() or reader.health().stuck:
        return False
    last = reader.last()
    return last is None or last.reached or last.hypervisor == kinds.LIBVIRT


def _looked(entry: Entry) -> Callable[[], None]:
    """Return what looks at a target's certificate, where one matters that expires."""
    target = entry.target

    def look() -> None:
        entry.expires = certificates.expires(target.uri, target.timeout)

    return look
