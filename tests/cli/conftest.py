"""What tests of several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.libvirtd import Answer, Daemon


@pytest.fixture
def asked(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """Return all that the calls to the daemon mention, UUIDs above all."""
    mentioned: set[object] = set()
    arrived = daemon.arrived

    def noted(call: Any) -> Answer | None:
        mentioned.update(call.mentioned())
        return arrived(call)

    monkeypatch.setattr(daemon, "arrived", noted)
    return mentioned
