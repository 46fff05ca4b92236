"""What ends with the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent import releases

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """End what forks for the releases."""
    yield
    while releases.servers:
        releases.servers.popitem()[1].close()
