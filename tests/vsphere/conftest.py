"""Simulated vCenters, and inspectors over them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import virtmeter
from tests.support.vcsim import PASSWORD, VCenter, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Opens(Protocol):
    """Opens an inspector over a vCenter, which is closed when the test ends."""

    def __call__(self, vcenter: VCenter, **options: Any) -> virtmeter.Inspector: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Go and govmomi there is no vCenter."""
    reason = unavailable()
    if reason is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    """Two hosts with eight VMs that are on, and one each that is off, suspended and a template."""
    with VCenter(off=1, suspended=1, templates=1) as vcenter:
        yield vcenter


@pytest.fixture
def opens() -> Iterator[Opens]:
    """Inspectors that read anew whenever they are asked, unless told otherwise."""
    with ExitStack() as stack:

        def opens(vcenter: VCenter, **options: Any) -> virtmeter.Inspector:
            uri = options.pop("uri", None) or vcenter.uri
            options = {"password": lambda: PASSWORD, "max_age": 0.0, "timeout": 30.0, **options}
            return stack.enter_context(virtmeter.Inspector(uri, **options))

        yield opens
