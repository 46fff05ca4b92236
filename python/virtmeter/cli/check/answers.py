"""What an inspector says when it is asked something: records, an exception, or nothing at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import virtmeter

if TYPE_CHECKING:
    from virtmeter import Inspector, Instance

METHODS = ("inspect_instance", "inspect_vnics", "inspect_disks", "inspect_disk_info")


class Answer(NamedTuple):
    """What came of one question."""

    records: tuple[dict[str, Any], ...] = ()
    raised: str | None = None
    """The name of the exception that came instead."""
    seconds: float = 0.0
    silent: bool = False
    """Whether nothing came in time."""


def ours(inspector: Inspector, method: str, instance: Instance) -> Answer:
    """Ask virtmeter.

    :raises virtmeter.ConnectionLost: libvirt is away.
    """
    began = time.perf_counter()
    try:
        said: Any = getattr(inspector, method)(instance)
        records = [said] if method == "inspect_instance" else list(said)
    except virtmeter.ConnectionLost:
        raise
    except virtmeter.InspectionTimeout:
        return Answer(silent=True)
    except virtmeter.InspectorException as error:
        return Answer(raised=type(error).__name__, seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    return Answer(tuple(record._asdict() for record in records), seconds=seconds)
