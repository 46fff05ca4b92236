"""What several files of faults begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import sample

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon
    from tests.support.procedures import Domain


@pytest.fixture
def domains(daemon: Daemon) -> list[Domain]:
    domains = [sample.domain(number, bulk=True) for number in range(1, 6)]
    daemon.add(*domains)
    return domains
