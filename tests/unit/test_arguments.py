"""What callers may hand in, and what they are told when it is something else."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import virtmeter
from tests.support.oracle import METHODS

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


@pytest.fixture(scope="module")
def inspector() -> virtmeter.LibvirtInspector:
    return virtmeter.LibvirtInspector("test:///default")


@pytest.mark.parametrize(
    "instance",
    [
        UUID,
        UUID.upper(),
        UUID.replace("-", ""),
        uuid.UUID(UUID),
        SimpleNamespace(id=UUID),
        SimpleNamespace(id=uuid.UUID(UUID)),
        SimpleNamespace(id=UUID, **{"OS-EXT-SRV-ATTR:instance_name": None}),
        virtmeter.Instance(UUID, "test", 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", METHODS)
def test_an_instance_is_named_in_many_ways(
    inspector: virtmeter.LibvirtInspector, method: str, instance: Any
) -> None:
    assert getattr(inspector, method)(instance) is not None
    assert getattr(inspector, method)(instance, 60) is not None
    assert getattr(inspector, method)(instance=instance, duration=object()) is not None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("instance", "error", "words"),
    [
        (None, TypeError, "UUID string.*NoneType"),
        (42, TypeError, "UUID string.*int"),
        (UUID.encode(), TypeError, "UUID string.*bytes"),
        (SimpleNamespace(name="x"), TypeError, "an `id`"),
        (SimpleNamespace(id=None), TypeError, "`id`.*NoneType"),
        pytest.param(mock.Mock(), TypeError, "`id`.*Mock", id="Mock"),  # its repr is never the same
        ("", ValueError, "not an instance's UUID"),
        ("instance-0000002a", ValueError, "'?instance-0000002a.*list_instances"),
        (UUID[:-1], ValueError, "not an instance's UUID"),
        (UUID + "\0", ValueError, "not an instance's UUID"),
        ("\ud800", ValueError, "not an instance's UUID"),
        (SimpleNamespace(id="x"), ValueError, "not an instance's UUID"),
    ],
    ids=repr,
)
def test_what_names_no_instance_is_the_callers_mistake(
    inspector: virtmeter.LibvirtInspector,
    method: str,
    instance: Any,
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        getattr(inspector, method)(instance)


def test_an_error_of_the_callers_own_object_comes_through(
    inspector: virtmeter.LibvirtInspector,
) -> None:
    class Broken:
        @property
        def id(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        inspector.inspect_instance(Broken())


@pytest.mark.parametrize("uri", [None, 1, b"test:///default"])
def test_a_uri_is_a_string(uri: Any) -> None:
    with pytest.raises(TypeError):
        virtmeter.LibvirtInspector(uri)


def test_a_uri_has_no_nul() -> None:
    with pytest.raises(ValueError, match=r"NUL.*qemu:///system"):
        virtmeter.LibvirtInspector("test:///\0default")
    with pytest.raises(ValueError, match=r"u:\*\*\*@h") as caught:
        virtmeter.LibvirtInspector("qemu+tcp://u:s3cret@h/sys\0tem")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["foo:///system", "foo+unix:///", "qemu+tcp://[::1", ":", " :"])
def test_an_unknown_scheme_is_the_callers_mistake(uri: str) -> None:
    inspector = virtmeter.LibvirtInspector(uri)
    with pytest.raises(ValueError, match=r"libvirt error \d+.*use one like qemu:///system"):
        inspector.inspect_instance(UUID)
    assert not inspector.connected


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        virtmeter.LibvirtInspector("test:////nowhere/at/all.xml").list_instances()


@pytest.mark.parametrize(
    ("limit", "allowed", "refused"),
    [
        (
            "timeout",
            (0.01, 86400),
            (0, 0.0099, -1, 86401, 1e300, 10**400, -(10**400), math.inf, math.nan),
        ),
        ("max_age", (0, 86400), (-1, -0.001, 86401, math.inf, -math.inf, math.nan)),
        ("workers", (1, 1000), (0, -1, 1001, 2**63 - 1, 10**20)),
        ("read_ahead", (0, 1000), (-1, 1001, -(2**63), -(10**20))),
        ("max_stuck", (0, 1000), (-1, 1001)),
    ],
)
def test_limits_that_nobody_could_keep(
    limit: str, allowed: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for given in allowed:
        virtmeter.LibvirtInspector("test:///default", **{limit: given})  # type: ignore[arg-type]
    for given in refused:
        with pytest.raises(ValueError, match=rf"{limit} must be from \S+ to \d+.*, not \S+$"):
            virtmeter.LibvirtInspector("test:///default", **{limit: given})  # type: ignore[arg-type]


class Interrupted(int):
    """A number too large for any limit; Ctrl-C comes while it is looked at."""

    def __lt__(self, other: object) -> bool:
        raise KeyboardInterrupt


class Bare:
    """A number that lets itself be compared with none."""

    def __index__(self) -> int:
        return -(10**20)


class Nameless(type):
    """A class that Ctrl-C keeps from telling its name."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


class Unnamed(metaclass=Nameless):
    pass


@pytest.mark.parametrize("limit", ["timeout", "max_age", "workers", "read_ahead", "max_stuck"])
def test_what_a_number_raises_is_the_callers_to_hear_of(limit: str) -> None:
    for new in (virtmeter.Inspector, virtmeter.LibvirtInspector):
        with pytest.raises(KeyboardInterrupt):
            new("test:///default", **{limit: Interrupted(10**400)})  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=limit):
            new("test:///default", **{limit: Bare()})  # type: ignore[arg-type]


def test_what_a_class_raises_is_the_callers_to_hear_of(
    inspector: virtmeter.LibvirtInspector,
) -> None:
    for instance in (Unnamed(), SimpleNamespace(id=Unnamed())):
        with pytest.raises(KeyboardInterrupt):
            inspector.inspect_instance(instance)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        inspector.list_servers(Unnamed())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        virtmeter.Inspector("test:///default", password=Unnamed())  # type: ignore[arg-type]


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        virtmeter.LibvirtInspector("test:///default", True)  # type: ignore[call-arg]


class Boastful(list[str]):
    """Says that it has more than there is memory for."""

    def __len__(self) -> int:
        return 2**62


class Unmeasured:
    """Has instances, and cannot say how many."""

    def __getitem__(self, index: int) -> str:
        return (UUID,)[index]

    def __len__(self) -> int:
        raise ZeroDivisionError


Sequence.register(Unmeasured)


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        (UUID, "sequence of instances.*str"),
        (UUID.encode(), "UUID string.*int"),
        (42, "sequence of instances.*int"),
        (iter([UUID]), "sequence of instances.*iterator"),
        ([UUID, None], "UUID string.*NoneType"),
        (range(10**11), "UUID string.*int"),
        (range(10**18), "UUID string.*int"),
    ],
)
def test_what_are_no_instances_is_the_callers_mistake(
    inspector: virtmeter.LibvirtInspector, instances: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        inspector.list_servers(instances)


def test_room_is_made_for_the_instances_that_there_are(
    inspector: virtmeter.LibvirtInspector,
) -> None:
    assert inspector.list_servers(Boastful([UUID])) == []
    assert inspector.list_servers(Unmeasured()) == []  # type: ignore[arg-type]
    assert inspector.list_servers((UUID, uuid.UUID(UUID))) == []
