"""The inspector's life: connections, context, representation."""

from __future__ import annotations

import ctypes
import gc
import signal
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.support.remote import RungError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


def test_it_connects_at_the_first_use_and_not_before() -> None:
    inspector = virtmeter.LibvirtInspector("test:///default")
    assert not inspector.connected
    assert inspector.list_instances()
    assert inspector.connected


def test_the_default_is_the_system_qemu() -> None:
    inspector = virtmeter.LibvirtInspector()
    assert inspector.uri == "qemu:///system"
    assert not inspector.connected


def test_it_is_a_context_and_can_be_used_again_after_it() -> None:
    with virtmeter.LibvirtInspector("test:///default") as inspector:
        assert inspector.list_instances()
    assert not inspector.connected
    inspector.close()
    assert inspector.list_instances()


def test_its_representation_tells_where_and_whether() -> None:
    inspector = virtmeter.LibvirtInspector("test:///default", report_stopped=True)
    expected = '<virtmeter.LibvirtInspector("test:///default", report_stopped=True), {}>'
    assert repr(inspector) == expected.format("not connected")
    inspector.list_instances()
    assert repr(inspector) == expected.format("connected")


def test_what_a_signal_raises_is_not_lost_around_a_call() -> None:
    def ring(*_: object) -> None:
        raise RungError

    inspector = virtmeter.LibvirtInspector("test:///default")
    send = getattr(ctypes.CDLL(None), "raise")

    def show(how: Callable[[Any], object], what: object) -> None:
        # All of it in C, so that Python calls the handler at the end, or when our function looks.
        with suppress(TypeError):
            list(zip(map(send, [signal.SIGUSR1]), map(how, [what]), strict=True))
        str(what)

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(RungError):
            show(type(inspector).__repr__, inspector)
        with pytest.raises(RungError):
            show(inspector.usage, 7)
        # Whether it is a sequence, Python code says.
        with pytest.raises(RungError):
            show(inspector.list_servers, deque([UUID]))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_lists_are_iterators() -> None:
    inspector = virtmeter.LibvirtInspector("test:///default")
    names = "vnics", "disks", "disk_info", "vnic_rates", "disk_rates"
    for method in (getattr(inspector, f"inspect_{name}") for name in names):
        assert isinstance(method(UUID), Iterator)


def test_it_can_be_referred_to_weakly_and_goes_with_its_last_reference() -> None:
    inspector = virtmeter.LibvirtInspector("test:///default")
    inspector.list_instances()
    reference = weakref.ref(inspector)
    del inspector
    assert reference() is None


def test_one_that_its_owner_gives_a_password_goes_with_its_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self.inspector = virtmeter.Inspector("xenserver://u@host/", password=self.password)

        def password(self) -> str:
            return "a secret"

    owner = weakref.ref(Owner())
    gc.collect()
    assert owner() is None


@pytest.mark.parametrize("uri", ["xenserver://u@host/", "test:///default"])
def test_a_password_that_is_no_function_is_refused_and_not_shown(uri: str) -> None:
    given: Any = "a secret"
    expected = "^password must be a function that returns it, not str$"
    with pytest.raises(TypeError, match=expected):
        virtmeter.Inspector(uri, password=given)


@pytest.mark.parametrize("uri", ["xenserver:", "xenserver:host", "XenServer:/u@host"])
def test_libvirt_is_not_blamed_for_half_a_uri_of_another(uri: str) -> None:
    with pytest.raises(ValueError, match="xenserver://USER@HOST/"):
        virtmeter.Inspector(uri)


def test_an_own_test_hypervisor(tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(
        """<node><domain type='test'><name>one</name><memory>2048</memory><vcpu>3</vcpu>
        <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><os><type>hvm</type></os></domain></node>"""
    )
    with virtmeter.LibvirtInspector(f"test://{node}") as inspector:
        [instance] = inspector.list_instances()
        assert instance.name == "one"
        assert list(inspector.inspect_disks(instance)) == []
        assert list(inspector.inspect_vnics(instance)) == []


def test_the_version_is_the_packages() -> None:
    from importlib import metadata

    assert metadata.version("virtmeter") == virtmeter.__version__


@pytest.mark.parametrize("name", virtmeter.__all__)
def test_everything_public_is_documented(name: str) -> None:
    assert name == "__version__" or getattr(virtmeter, name).__doc__
