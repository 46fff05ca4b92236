"""The exceptions: their family, their details, and that they travel."""

from __future__ import annotations

import copy
import pickle

import pytest

import virtmeter


def test_the_family() -> None:
    for child in (
        virtmeter.InstanceNotFoundException,
        virtmeter.InstanceShutOffException,
        virtmeter.NoDataException,
    ):
        assert child.__bases__ == (virtmeter.InspectorException,)
    assert virtmeter.ConnectionLost.__bases__ == (virtmeter.NoDataException,)
    assert virtmeter.InspectorException.__bases__ == (Exception,)


def test_details_survive_copy_and_pickle() -> None:
    error = virtmeter.ConnectionLost("gone", instance_id="x", error_code=38, error_domain=7)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is virtmeter.ConnectionLost
        assert str(twin) == "gone"
        assert (twin.instance_id, twin.error_code, twin.error_domain) == ("x", 38, 7)


def test_a_message_is_enough() -> None:
    error = virtmeter.NoDataException("why")
    assert (error.instance_id, error.error_code, error.error_domain) == (None, None, None)


def test_an_unknown_instance_is_told_in_full() -> None:
    class Server:
        id = "11111111-2222-3333-4444-555555555555"

    setattr(Server, "OS-EXT-SRV-ATTR:instance_name", "instance-0000002a")
    inspector = virtmeter.LibvirtInspector("test:///default")
    with pytest.raises(virtmeter.InstanceNotFoundException) as caught:
        inspector.inspect_instance(Server())
    assert caught.value.instance_id == Server.id
    assert caught.value.error_code == 42
    assert caught.value.error_domain == 12
    for part in ("instance-0000002a", Server.id, "42", "Domain not found"):
        assert part in str(caught.value)
