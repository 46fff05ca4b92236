"""The exceptions: their family, their details, and that they travel."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.procedures import VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, Error
from virtmeter.cli.text import printable

if TYPE_CHECKING:
    from tests.support.libvirtd import Daemon

EVIL = "a\x1b[2J\r\n\t\x9b\u202e\U000e0001 \u00fc\u2603e\u0301'\"\\"


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


def test_texts_from_outside_are_printable_in_exceptions_and_in_the_log(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    class Server:
        id = sample.UUID

    setattr(Server, "OS-EXT-SRV-ATTR:instance_name", EVIL)
    domain = sample.domain(uuid=sample.UUID)
    domain.name = EVIL
    daemon.add(domain)
    shown = printable(EVIL)
    refused = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, EVIL)
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        assert [each.name for each in inspector.list_instances()] == [EVIL], "records have it whole"
        daemon.on("DOMAIN_BLOCK_STATS", refused)
        assert list(inspector.inspect_disks(Server())) == []
        [line] = caplog.messages
        assert line.count(shown) == 2
        assert line.isprintable()
        daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", refused)
        with pytest.raises(virtmeter.NoDataException) as caught:
            inspector.inspect_instance(Server())
    assert str(caught.value).count(shown) == 2
    assert str(caught.value).isprintable()


def test_a_uri_is_printable_in_exceptions() -> None:
    with pytest.raises(ValueError, match="cannot open the URI") as caught:
        virtmeter.LibvirtInspector(f"nothing:///{EVIL}").list_instances()
    assert printable(EVIL) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("uri", ["qemu+tcp://u:hunter2@127.0.0.1:1/system", "x://u:hunter2@[::1/"])
def test_the_password_in_a_uri_is_in_no_message(uri: str) -> None:
    inspector = virtmeter.LibvirtInspector(uri)
    with pytest.raises((virtmeter.ConnectionLost, ValueError)) as raised:
        inspector.list_instances()
    for text in (str(raised.value), repr(raised.value), repr(inspector)):
        assert "u:***@" in text
        assert "hunter2" not in text
