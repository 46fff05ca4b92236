"""The file that names many hypervisors: where each is, its labels, and what is read of it."""

from __future__ import annotations

import difflib
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import virtmeter
from virtmeter.cli import kinds
from virtmeter.cli.connection import LONGEST_TIMEOUT, MOST_WORKERS
from virtmeter.cli.export.choice import PARTS, Choice
from virtmeter.cli.export.tables import LABELS
from virtmeter.cli.files import content
from virtmeter.cli.text import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
"""Of a target: it stands in URLs, labels and tables."""
LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
"""Of those, Prometheus keeps the ones with two underscores to itself."""
ITS_OWN = frozenset(("instance", "job", "target"))
"""Labels that every series of a target has anyway."""
URI = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
OPTIONS = ("uri", "labels", "timeout", "workers", "ask_sizes", "vms", "collect", "no_collect")
LIBVIRTS = ("workers", "ask_sizes")
"""Those that mean nothing elsewhere."""


class Target(NamedTuple):
    """One hypervisor, as the file has it."""

    name: str
    uri: str
    labels: Mapping[str, str]
    """The operator's own, for Prometheus to add."""
    timeout: float
    """Seconds that a VM or a host has to answer."""
    workers: int
    """libvirt: how many connections."""
    ask_sizes: bool
    choice: Choice
    """What is read of it."""

    @property
    def kind(self) -> str:
        """What reads it: ``xenserver``, ``vsphere`` or ``libvirt``."""
        return kinds.kind(self.uri)


class Defaults(NamedTuple):
    """What the command line says of all targets, where the file says nothing of one."""

    timeout: float = 5.0
    workers: int = 4
    ask_sizes: bool = False
    choice: Choice = Choice()


def read(path: Path, defaults: Defaults = Defaults()) -> dict[str, Target]:  # noqa: B008
    """Return the targets by their names, in the order of the file.

    :raises ValueError: there is a mistake in it; the message says where.
    """
    if path.exists() and not path.is_file():  # a pipe may never come to its end
        raise ValueError(f"{path} is not a regular file")
    try:
        text = content(path).decode("utf-8-sig")
        found = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:  # with the line
        raise ValueError(f"{path}: {error}") from None
    except ValueError as error:  # it is too long, or Python reads no number that is
        message = str(error)
        raise ValueError(
            message if str(path) in message else f"{path}: a number has thousands of digits"
        ) from None
    except RecursionError:
        raise ValueError(f"{path}: its tables or lists are nested too deeply") from None
    try:
        return _targets(found, defaults)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _targets(found: Mapping[str, Any], defaults: Defaults) -> dict[str, Target]:
    if unknown := sorted(found.keys() - {"targets"}):
        name = escaped(unknown[0])
        raise ValueError(f"'{name}' is not known: everything belongs in a table [targets.NAME]")
    tables = found.get("targets", {})
    if not isinstance(tables, dict) or not tables:
        raise ValueError("there is no target: each is a table [targets.NAME] with a uri")
    return {name: _target(name, table, defaults) for name, table in tables.items()}


def _target(name: str, table: Any, defaults: Defaults) -> Target:  # noqa: ANN401
    try:
        return _checked(name, table, defaults)
    except ValueError as error:
        raise ValueError(f"in [targets.{_quoted(name)}]: {error}") from None


def _quoted(name: str) -> str:
    """Return the name as it stands in TOML."""
    name = escaped(name)
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _checked(name: str, table: Any, defaults: Defaults) -> Target:  # noqa: ANN401
    if not NAME.fullmatch(name):
        raise ValueError(
            "a name has letters, digits, '.', '_', ':' and '-', begins with a letter or digit, and "
            "is no longer than 128 characters"
        )
    if not isinstance(table, dict):
        raise ValueError("this is a table, with a uri in it")
    for key in table:
        if key not in OPTIONS:
            raise ValueError(_unknown(name, key, table[key]))
    uri = _uri(table)
    for key in LIBVIRTS:
        if key in table and not kinds.is_libvirt(uri):
            raise ValueError(f"{key} is for libvirt only")
    more, less = _parts(table, "collect"), _parts(table, "no_collect")
    if both := sorted(more & less):
        raise ValueError(f"collect and no_collect both name {', '.join(both)}")
    vms = tuple(_texts(table, "vms")) or defaults.choice.vms
    parts = defaults.choice.parts.union(more).difference(less)
    target = Target(
        *(name, uri, _labels(table)),
        _number(table, "timeout", defaults.timeout, 0.01, LONGEST_TIMEOUT),
        int(_number(table, "workers", defaults.workers, 1, MOST_WORKERS, whole=True)),
        _yes(table, "ask_sizes", default=defaults.ask_sizes),
        Choice(parts, vms),
    )
    if not kinds.is_libvirt(uri):
        virtmeter.Inspector(uri)  # which connects to nothing yet, and says what is wrong with a URI
    return target


def _unknown(name: str, key: str, value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return (
            f"'{escaped(key)}' is no option; a name with dots needs quotes: "
            f'[targets."{escaped(name)}.{escaped(key)}"]'
        )
    close = difflib.get_close_matches(key, OPTIONS, 1)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTIONS)}"
    return f"'{escaped(key)}' is no option: {meant}"


def _uri(table: Mapping[str, Any]) -> str:
    uri = table.get("uri")
    if not isinstance(uri, str) or not uri:
        raise ValueError("uri is missing: it says what to read, as qemu+ssh://host/system does")
    if not uri.isprintable() or not URI.match(uri):
        # Not what it is: there may be a password in it.
        raise ValueError("uri is no URI: it begins with a scheme, as qemu+ssh://host/system does")
    if not kinds.is_libvirt(uri) and "password_file=" not in uri.partition("?")[2]:
        raise ValueError(
            "uri has no password_file=FILE: each target has its own, and the environment's "
            "VIRTMETER_PASSWORD is sent to none of them"
        )
    return uri


def _labels(table: Mapping[str, Any]) -> dict[str, str]:
    labels = table.get("labels", {})
    if not isinstance(labels, dict):
        raise ValueError('labels is a table, as in labels = { site = "berlin" }')
    for name, value in labels.items():
        if not LABEL.fullmatch(name):
            raise ValueError(
                f"'{escaped(name)}' is no name of a label: letters, digits and '_', not beginning "
                "with a digit nor with '__'"
            )
        if name in ITS_OWN or name in LABELS:
            raise ValueError(f"label '{name}' is one of the metrics' own: choose another name")
        if not isinstance(value, str):
            raise ValueError(f'label {name} is not text: put its value between quotes ("…")')
    return dict(labels)


def _texts(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f'{key} is a list of texts, as in {key} = ["…"]')
    return value


def _parts(table: Mapping[str, Any], key: str) -> set[str]:
    parts = set(_texts(table, key))
    if wrong := sorted(parts - PARTS.keys()):
        raise ValueError(f"{key}: '{escaped(wrong[0])}' is none of {', '.join(PARTS)}")
    return parts


def _number(
    table: Mapping[str, Any],
    key: str,
    default: float,
    least: float,
    most: float,
    *,
    whole: bool = False,
) -> float:
    value = table.get(key, default)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # NaN is out of every range
        what = "a whole number" if whole else "a number of seconds"
        raise ValueError(f"{key} is {what} from {least:g} to {most:g}")
    return value  # type: ignore[no-any-return]


def _yes(table: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is true or false")
    return value
