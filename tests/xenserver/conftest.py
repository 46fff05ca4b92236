"""Simulated pools, and inspectors over them."""

from __future__ import annotations

from contextlib import ExitStack
from shutil import which
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import virtmeter
from tests.support.xapi import PASSWORD, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

TRUE = ("xapi-1.249_8.2_drift", "xapi-24.19_drift", "xapi-26.17_steady")


class Opens(Protocol):
    """Opens an inspector over a pool, which is closed when the test ends."""

    def __call__(self, pool: Pool, **options: Any) -> virtmeter.Inspector: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without openssl, there are no certificates for the pool."""
    if which("openssl") is None:
        for item in items:
            if "tests/xenserver" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="there is no openssl"))


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Two hosts of a release whose rows are true."""
    with Pool("xapi-26.17_steady", hosts=2) as pool:
        yield pool


@pytest.fixture
def old_pool() -> Iterator[Pool]:
    """Two hosts of a release without a self-check."""
    with Pool("xapi-24.19_drift", hosts=2) as pool:
        yield pool


@pytest.fixture
def opens() -> Iterator[Opens]:
    """Inspectors that read anew whenever they are asked, unless told otherwise."""
    with ExitStack() as stack:

        def opens(pool: Pool, **options: Any) -> virtmeter.Inspector:
            uri = options.pop("uri", None) or pool.uri()
            options = {"password": lambda: PASSWORD, "max_age": 0.0, "timeout": 30.0, **options}
            return stack.enter_context(virtmeter.Inspector(uri, **options))

        yield opens
