"""The instances that a command was asked for: by UUID, by name, or by a glob of names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from virtmeter import PowerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from virtmeter import Instance


def select(
    instances: Iterable[Instance], wanted: Sequence[str], *, stopped: bool
) -> list[Instance]:
    """Return those that were asked for, or all; those that are shut off only if ``stopped``.

    An instance that was named itself, not by a glob, is returned even when it is shut off.
    """
    instances = list(instances)
    chosen = {}
    for pattern in wanted:
        matching = [each for each in instances if _matches(each, pattern)]
        if not matching:
            raise click.UsageError(
                f"no VM here is called '{pattern}': 'virtmeter stats --all' lists them all"
            )
        for each in matching:
            if stopped or pattern.lower() in (each.id, each.name.lower()) or _runs(each):
                chosen[each.id] = each
    if wanted:
        return list(chosen.values())
    return [each for each in instances if stopped or _runs(each)]


def _matches(instance: Instance, pattern: str) -> bool:
    return pattern.lower() == instance.id or fnmatchcase(instance.name, pattern)


def _runs(instance: Instance) -> bool:
    return instance.state != PowerState.SHUTOFF
