"""The instances that a command was asked for: by UUID, by name, or by a glob of names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from virtmeter import PowerState
from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter import Instance


def select(
    instances: Iterable[Instance], wanted: Sequence[str], *, stopped: bool
) -> list[Instance]:
    """Return those that were asked for, as ``is_wanted`` tells; none may be asked for in vain."""
    instances = list(instances)
    check(instances, wanted)
    return [each for each in instances if is_wanted(each, wanted, stopped=stopped)]


def check(instances: Sequence[Instance], wanted: Sequence[str]) -> None:
    """See that none is asked for in vain.

    :raises click.UsageError: one is.
    """
    for pattern in wanted:
        if not any(_matches(each, pattern) for each in instances):
            name = printable(pattern)
            raise click.UsageError(
                f"no VM is named '{name}': 'virtmeter stats --all' lists all VMs"
            )


def is_wanted(instance: Instance, wanted: Sequence[str], *, stopped: bool) -> bool:
    """Return whether it was asked for, or nothing in particular was.

    One that is shut off is wanted if ``stopped``, or if it was named itself, not by a glob.
    """
    if stopped or instance.state != PowerState.SHUTOFF:
        return not wanted or any(_matches(instance, pattern) for pattern in wanted)
    return any(_is(instance, pattern) for pattern in wanted)


def _matches(instance: Instance, pattern: str) -> bool:
    return _is(instance, pattern) or fnmatchcase(instance.name, pattern)


def _is(instance: Instance, name: str) -> bool:
    return name == instance.name or name.lower() == instance.id
