"""Sessions of the simulated vCenter, and all that goes wrong with it, as pyvmomi meets it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from pyVmomi import vim, vmodl

from tests.support.vcsim import PASSWORD, START, VCenter, unavailable
from tests.support.vcsim.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
RUN = "cpu.run.summation"
PLAIN = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope'
    ' xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
    '<RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance'
    "</_this></RetrieveServiceContent></soapenv:Body></soapenv:Envelope>"
)


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter(vms=4) as vcenter:
        yield vcenter


def ask(vcenter: VCenter, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Call the one method that needs no session, without any library's help."""
    context = ssl.create_default_context(cafile=str(vcenter.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", vcenter.port, context=context, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/sdk", PLAIN, headers)
        response = connection.getresponse()
        return response, response.read()


def test_the_uri_has_all_but_the_password(vcenter: VCenter) -> None:
    uri = urlsplit(vcenter.uri)
    assert (uri.scheme, uri.username, uri.password) == ("vsphere", "monitor", None)
    assert (uri.hostname, uri.port) == ("127.0.0.1", vcenter.port)
    assert uri.query == f"sha256={vcenter.sha256}"
    with socket.create_connection(("127.0.0.1", vcenter.port)) as plain:
        context = ssl.create_default_context(cafile=str(vcenter.certificate))
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
            assert encrypted.version() == "TLSv1.3"


def test_logins_are_counted_and_checked(vcenter: VCenter) -> None:
    for user, password in (("monitor", "wrong"), ("monitor", ""), ("stranger", PASSWORD)):
        with pytest.raises(vim.fault.InvalidLogin):
            Client(vcenter, user, password)
    assert (vcenter.logins(), vcenter.sessions()) == (3, [])
    with Client(vcenter) as client, Client(vcenter, "root"):
        assert sorted(session["user"] for session in vcenter.sessions()) == ["monitor", "root"]
        assert all(session["agent"].startswith("pyvmomi") for session in vcenter.sessions())
        with pytest.raises(vim.fault.InvalidLogin):
            client.content.sessionManager.Login("monitor", PASSWORD, None)
    assert (vcenter.logins(), vcenter.sessions()) == (6, [])
    assert vcenter.calls()["Logout"] == 2
    vcenter.forget_calls()
    assert vcenter.calls() == {}


def test_a_session_that_is_over_is_not_authenticated(vcenter: VCenter) -> None:
    with Client(vcenter) as client:
        ref = vcenter.vm("vm-0000").ref
        view = client.view()
        spec = client.spec(vim.VirtualMachine, ["name"])
        assert vcenter.expire_sessions() == 1
        assert vcenter.sessions() == []
        options = vmodl.query.PropertyCollector.RetrieveOptions()
        with pytest.raises(vim.fault.NotAuthenticated):
            client.content.propertyCollector.RetrievePropertiesEx([spec], options)
        with pytest.raises(vim.fault.NotAuthenticated):
            client.query(client.specs([ref]))
        client.content.sessionManager.Login("monitor", PASSWORD, None)
        assert list(client.samples([ref])) == [ref]
        # Views are those of a session.
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            view.DestroyView()


def test_an_idle_session_ends_by_the_clock(vcenter: VCenter) -> None:
    with Client(vcenter) as client:
        for seconds in (1700, 1700, 1800):
            vcenter.step(seconds)
            assert client.time == vcenter.now
        vcenter.step(1801)
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = client.time
    with Client(vcenter) as client:
        vcenter.idle(0)
        vcenter.step(1e6)
        assert client.time == vcenter.now


def test_who_has_no_rights_sees_nothing(vcenter: VCenter) -> None:
    with Client(vcenter, "nobody") as client:
        assert client.properties(vim.VirtualMachine, "name") == {}
        assert client.properties(vim.HostSystem, "name") == {}
        assert client.properties_of(client.view(), "view") == {"view": []}
        with pytest.raises(vim.fault.NoPermission) as refused:
            client.samples([vcenter.vm("vm-0000").ref])
        assert not isinstance(refused.value, vim.fault.NotAuthenticated)
        assert refused.value.privilegeId == "System.View"


def test_calls_fail_as_often_as_wanted(vcenter: VCenter) -> None:
    with Client(vcenter) as client:
        ref = vcenter.vm("vm-0000").ref
        vcenter.fail("QueryPerf", times=2, status=503, body="no")
        for _ in range(2):
            with pytest.raises(http.client.HTTPException, match="503"):
                client.samples([ref], [RUN])
        assert list(client.samples([ref], [RUN])) == [ref]
        vcenter.fail("CurrentTime", expire=True)
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = client.time
    for fault, error in (
        ({"reset": True}, (http.client.RemoteDisconnected, OSError)),
        ({"cut": True}, (http.client.IncompleteRead, OSError)),
    ):
        vcenter.fail("RetrieveServiceContent", **fault)
        with pytest.raises(error):
            ask(vcenter)
    vcenter.fail("RetrieveServiceContent", status=200, body="<!DOCTYPE x>")
    assert ask(vcenter)[1] == b"<!DOCTYPE x>"
    vcenter.fail("RetrieveServiceContent", bomb=10)
    response, body = ask(vcenter)
    assert response.headers["Content-Encoding"] == "gzip"
    assert 1000 < len(body) < 1 << 20
    vcenter.fail(status=503, about="what is in no call")
    assert ask(vcenter)[0].status == 200
    vcenter.fail(status=503)
    vcenter.fail(times=0)
    assert ask(vcenter)[0].status == 200


def test_answers_are_compressed_for_who_likes_that(vcenter: VCenter) -> None:
    response, plain = ask(vcenter)
    assert response.headers["Content-Encoding"] is None
    assert b"RetrieveServiceContentResponse" in plain
    response, packed = ask(vcenter, **{"Accept-Encoding": "gzip, deflate"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(plain)
    vcenter.style(gzip=False)
    assert ask(vcenter, **{"Accept-Encoding": "gzip"})[1] == plain


def test_a_restart_ends_sessions_and_keeps_the_inventory(vcenter: VCenter) -> None:
    ref = vcenter.vm("vm-0000").ref
    port, pin = vcenter.port, vcenter.sha256
    with Client(vcenter) as client:
        vcenter.restart()
        assert vcenter.port == port
        assert vcenter.sessions() == []
        with pytest.raises((vim.fault.NotAuthenticated, OSError, http.client.HTTPException)):
            client.samples([ref])
    with Client(vcenter) as client:
        assert max(client.samples([ref], [RUN])[ref][RUN, ""]) == START
    former = vcenter.certificate
    vcenter.restart(other_certificate=True)
    assert vcenter.sha256 != pin
    vcenter.certificate, latter = former, vcenter.certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(vcenter)
    vcenter.certificate = latter
    assert ask(vcenter)[0].status == 200


def test_control_refuses_what_it_does_not_know(vcenter: VCenter) -> None:
    with pytest.raises(ValueError, match="there is no VM"):
        vcenter.power_off("none")
    with pytest.raises(ValueError, match="there is no host 7"):
        vcenter.migrate("vm-0000", 7)
    with pytest.raises(ValueError, match="InvalidPowerState"):
        vcenter.power_on("vm-0000")
    with pytest.raises(ValueError, match='no "scsi5:0"'):
        vcenter.remove("vm-0000", "scsi5:0")
    with pytest.raises(ValueError, match="there is no /nothing"):
        vcenter.control("nothing")
