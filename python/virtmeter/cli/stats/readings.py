"""One reading of many VMs, several at a time."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, TypeVar

import virtmeter
from virtmeter import InstanceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter import (
        DiskInfo,
        DiskStats,
        Inspector,
        Instance,
        InstanceDetails,
        InterfaceStats,
    )

Value = TypeVar("Value")
NOTHING = InstanceStats()
AWAKE = 0.1


@dataclass
class Reading:
    """What is known of one VM; None is what could not be read, or what a VM that is off has not."""

    instance: Instance
    stats: InstanceStats = NOTHING
    nics: list[InterfaceStats] | None = None
    disks: list[DiskStats] | None = None
    sizes: list[DiskInfo] | None = None
    details: InstanceDetails | None = None
    hung: bool = False
    busy: bool = False
    problem: str | None = None

    @property
    def state(self) -> int:
        """The state when it was read, or else when it was listed; a number of ``PowerState``."""
        state = self.stats.power_state
        return self.instance.state if state is None else state


def read_all(inspector: Inspector, instances: Sequence[Instance], workers: int) -> list[Reading]:
    """Return a reading of each, without those that have gone away meanwhile.

    The inspector can read ahead of a caller only from its second round on, in an order that it
    knows by then. Here is but one round, so there are as many callers as it has workers.
    """
    readings = _in_threads(lambda each: _read(inspector, each), instances, workers)
    health = inspector.health()
    for reading in readings:
        reading.hung = reading.instance.id in health.hung
        reading.busy = reading.instance.id in health.busy
    return readings


def _read(inspector: Inspector, instance: Instance) -> Reading | None:
    """Read one VM, as far as it can be read; None where there is none any more."""
    reading = Reading(instance)

    def what(answer: Callable[[], Value]) -> Value | None:
        try:
            return answer()
        except virtmeter.InstanceShutOffException:
            return None
        except virtmeter.InstanceBusyException:
            return None
        except (virtmeter.InstanceNotFoundException, virtmeter.ConnectionLost):
            raise
        except virtmeter.InspectorException as error:
            reading.problem = reading.problem or str(error)
            return None

    try:
        reading.details = what(lambda: inspector.inspect_details(instance))
        reading.stats = what(lambda: inspector.inspect_instance(instance)) or NOTHING
        reading.nics = what(lambda: list(inspector.inspect_vnics(instance)))
        reading.disks = what(lambda: list(inspector.inspect_disks(instance)))
        reading.sizes = what(lambda: list(inspector.inspect_disk_info(instance)))
    except virtmeter.InstanceNotFoundException:
        return None
    return reading


def _get(answers: queue.SimpleQueue[Value]) -> Value:
    """Wait for an answer; now and then for none, as Python may oversleep a Ctrl-C otherwise."""
    while True:
        with suppress(queue.Empty):
            return answers.get(timeout=AWAKE)


def _start(threads: Iterable[threading.Thread]) -> None:
    """Start as many as this process may have.

    :raises RuntimeError: it may have none.
    """
    started = False
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:
            if not started:
                raise
            return
        started = True


def _in_threads(
    read: Callable[[Instance], Reading | None], instances: Iterable[Instance], threads: int
) -> list[Reading]:
    """Return what comes of all of them, in their order; the first exception is the caller's.

    The threads are daemons, as those of a pool are not: a Ctrl-C waits for none of them.
    """
    to_do = list(enumerate(instances))
    waiting = iter(to_do)
    turn = threading.Lock()
    done: queue.SimpleQueue[tuple[int, Reading | BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            with turn:
                index, instance = next(waiting, (-1, None))
            if instance is None:
                return
            try:
                done.put((index, read(instance)))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                done.put((index, error))

    _start([threading.Thread(target=work, daemon=True) for _ in to_do[:threads]])
    answers: dict[int, Reading] = {}
    for _ in to_do:
        index, answer = _get(done)
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            answers[index] = answer
    return [answers[index] for index in sorted(answers)]
