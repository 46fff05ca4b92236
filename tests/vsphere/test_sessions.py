"""Sessions of a vCenter: one for all, and none that is left; and that no secret is shown."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.cli.exporter import Exporter
from tests.support import cli
from tests.support.remote import (
    ENDS,
    Bad,
    ends_without_close,
    eventually,
    failure,
    is_closed_before_the_password_is_told,
    tells,
    usages_in_a_child,
)
from tests.support.vcsim import PASSWORD
from tests.vsphere.test_faults import ALWAYS, ANSWERS
from tests.vsphere.wellness import ALL, count, is_well, soap_fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.vcsim import VCenter
    from tests.vsphere.conftest import Opens

OPTIONS: dict[str, Any] = {"password": lambda: PASSWORD}

READS_AND_WAITS = """
import sys, virtmeter
inspector = virtmeter.Inspector(sys.argv[1])
print(len(inspector.usage_all()), flush=True)
sys.stdin.read()
"""


#: A session that is over at once is renewed no more often than that, seconds.
PAUSE = 10


def test_sessions_that_are_over_at_once_are_not_renewed_each_time(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    began = time.monotonic()
    body = soap_fault("NotAuthenticated")
    vcenter.fail("QueryPerf", times=ALWAYS, status=500, body=body)
    for _ in range(20):
        assert count(inspector) == 0
        time.sleep(0.5)
    assert vcenter.logins() <= 2 + (time.monotonic() - began) / PAUSE
    # Nor is one left behind of which the server only says so.
    assert len(vcenter.sessions()) == 1
    vcenter.fail(times=0)
    vcenter.expire_sessions()
    eventually(lambda: is_well(inspector))


def test_a_session_whose_view_is_gone_is_closed(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    body = soap_fault("ManagedObjectNotFound", inside="{view}")
    vcenter.fail("RetrievePropertiesEx", status=500, body=body)
    assert count(inspector) == ALL
    assert vcenter.logins() == 2
    assert len(vcenter.sessions()) == 1


@pytest.mark.parametrize("method", ["Login", "CreateContainerView"])
def test_a_login_that_is_refused_in_a_reading_has_nothing_to_do_with_a_vm(
    opens: Opens, vcenter: VCenter, method: str
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    vcenter.fail("QueryPerf", expire=True)
    vcenter.fail(method, status=500, body=soap_fault("NoPermission"))
    assert count(inspector) in (0, ALL)
    eventually(lambda: is_well(inspector))
    # Nobody has asked about some of the VMs, for which the next login would have done.
    assert {query["entities"] for query in vcenter.queries()} == {ALL}
    # One in place of the session that is over, and one when all are asked about again.
    assert vcenter.logins() == 3
    assert len(vcenter.sessions()) == 1


@pytest.mark.parametrize(
    "method", ["RetrieveServiceContent", "CreateContainerView", "RetrievePropertiesEx"]
)
def test_only_a_login_says_that_the_password_is_wrong(
    opens: Opens, vcenter: VCenter, method: str
) -> None:
    vcenter.fail(method, status=500, body=soap_fault("InvalidLogin"))
    inspector = opens(vcenter)
    assert count(inspector) == 0
    eventually(lambda: is_well(inspector))
    assert len(vcenter.sessions()) == 1


def test_a_wrong_password_that_is_refused_late_goes_out_once(
    opens: Opens, vcenter: VCenter
) -> None:
    # Directories are asked that take their time.
    vcenter.fail("Login", times=ALWAYS, delay=25)
    inspector = opens(vcenter, password=lambda: "wrong horse", timeout=0.5)
    eventually(lambda: "wrong user name or password" in failure(inspector.usage_all))
    assert vcenter.logins() == 1


def test_who_leaves_logs_out(vcenter: VCenter) -> None:
    with virtmeter.Inspector(vcenter.uri, **OPTIONS) as inspector:
        inspector.list_instances()
        (session,) = vcenter.sessions()
        assert session["user"] == "monitor"
        assert inspector.connected
    assert vcenter.sessions() == []
    inspector.close()
    assert not inspector.connected
    dropped = virtmeter.Inspector(vcenter.uri, **OPTIONS)
    dropped.list_instances()
    assert len(vcenter.sessions()) == 1
    del dropped
    gc.collect()
    eventually(lambda: not vcenter.sessions())


def test_whoever_asks_again_after_close_logs_in_again(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    inspector.close()
    assert vcenter.sessions() == []
    assert count(inspector) == ALL
    assert vcenter.logins() == 2
    assert len(vcenter.sessions()) == 1


def test_a_hundred_inspectors_leave_none(vcenter: VCenter) -> None:
    for _ in range(100):
        with virtmeter.Inspector(vcenter.uri, **OPTIONS) as inspector:
            assert len(inspector.list_instances()) == ALL + 2
    assert vcenter.logins() == 100
    assert vcenter.sessions() == []


def test_a_close_that_is_not_answered_is_not_waited_for(vcenter: VCenter) -> None:
    inspector = virtmeter.Inspector(vcenter.uri, **OPTIONS)
    inspector.list_instances()
    vcenter.fail("Logout", times=ALWAYS, delay=600)
    closing = threading.Thread(target=inspector.close)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert vcenter.calls()["Logout"] == 1
    vcenter.fail(times=0)


def test_many_threads_share_one(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter, max_age=3600.0)
    with ThreadPoolExecutor(16) as threads:
        all_told = list(threads.map(lambda _: count(inspector), range(64)))
    assert all_told == [ALL] * 64
    assert vcenter.logins() == 1
    assert vcenter.calls()["QueryPerf"] == 1
    # It is renewed once for all as well.
    inspector = opens(vcenter)
    for logins in (3, 4):
        with ThreadPoolExecutor(8) as threads:
            all_told = list(threads.map(lambda _: count(inspector), range(32)))
        assert all_told == [ALL] * 32
        assert vcenter.logins() == logins - 1
        vcenter.expire_sessions()


def test_a_login_that_begins_after_close_is_none(opens: Opens, vcenter: VCenter) -> None:
    inspector = is_closed_before_the_password_is_told(partial(opens, vcenter), PASSWORD)
    assert vcenter.logins() == 0
    assert is_well(inspector)


def test_a_close_in_the_middle_is_felt_by_nobody(opens: Opens, vcenter: VCenter) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    with ThreadPoolExecutor(3) as threads:
        all_told = threads.map(lambda _: count(inspector), range(300))
        for _ in range(20):
            time.sleep(0.05)
            inspector.close()
            assert len(inspector.list_instances()) == ALL + 2
    assert list(all_told) == [ALL] * 300


def test_a_child_logs_in_by_itself_and_leaves_its_parents_session(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    mine = vcenter.sessions()
    assert usages_in_a_child(inspector) == ALL
    assert vcenter.logins() == 2
    assert vcenter.sessions() == mine
    vcenter.step(20)
    assert count(inspector) == ALL
    assert vcenter.logins() == 2


def test_a_child_that_does_nothing_leaves_its_parents_session(
    opens: Opens, vcenter: VCenter
) -> None:
    inspector = opens(vcenter)
    assert count(inspector) == ALL
    child = os.fork()
    if child == 0:
        try:
            inspector.close()
            del inspector
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(vcenter.sessions()) == 1
    vcenter.step(20)
    assert count(inspector) == ALL
    assert vcenter.logins() == 1


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_a_signal_ends_logs_out(
    vcenter: VCenter, password_file: Path, ends: signal.Signals
) -> None:
    uri = f"{vcenter.uri}&password_file={password_file}"
    done = cli.interrupted(
        *("stats", "--interval", "600", "--uri", uri),
        when=lambda: "QueryPerf" in vcenter.calls(),
        number=ends,
    )
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr + done.stdout
    assert vcenter.logins() == 1
    assert vcenter.sessions() == []


def test_an_exporter_that_is_ended_logs_out(vcenter: VCenter, password_file: Path) -> None:
    with Exporter(f"{vcenter.uri}&password_file={password_file}") as exporter:
        assert exporter.scrape()
        assert len(vcenter.sessions()) == 1
    assert PASSWORD not in exporter.said
    assert vcenter.sessions() == []


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_without_close_logs_out(vcenter: VCenter, end: str) -> None:
    ends_without_close(vcenter.uri, PASSWORD, end)
    assert vcenter.logins() == 1 + (end == "child")
    assert vcenter.sessions() == []


@pytest.mark.parametrize("end", ["thread", "dropped"])
def test_a_program_whose_logout_is_not_answered_ends(vcenter: VCenter, end: str) -> None:
    vcenter.fail("Logout", times=ALWAYS, delay=600)
    ends_without_close(vcenter.uri, PASSWORD, end)
    assert vcenter.calls()["Logout"] == 1
    vcenter.fail(times=0)


def test_a_process_that_is_killed_leaves_its_session(vcenter: VCenter, password_file: Path) -> None:
    uri = f"{vcenter.uri}&password_file={password_file}"
    with subprocess.Popen(
        [sys.executable, "-c", READS_AND_WAITS, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == f"{ALL}\n".encode()
            process.kill()
            process.communicate(timeout=60)
        finally:
            process.kill()
    # Nobody can log out after a SIGKILL: vCenter ends it after half an hour.
    (session,) = vcenter.sessions()
    assert "virtmeter" in session["agent"]


def test_no_secret_is_shown(vcenter: VCenter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    sessions: set[str] = set()
    options = {**OPTIONS, "max_age": 0.0}
    with virtmeter.Inspector(vcenter.uri, **options) as inspector:
        shown += [repr(inspector), inspector.uri]
        methods = ["QueryPerf", "RetrievePropertiesEx", "Login"]
        for n, (fault, _) in enumerate(ANSWERS.values()):
            assert count(inspector) == ALL
            sessions.update(session["key"] for session in vcenter.sessions())
            vcenter.expire_sessions()
            vcenter.fail(methods[n % 3], times=ALWAYS, **fault)
            vm = vcenter.vms()[0]
            shown.append(failure(inspector.usage_all))
            shown.append(failure(lambda uuid=vm.uuid: inspector.usage(uuid)))  # type: ignore[misc]
            shown.append(repr(inspector.health()) + repr(inspector))
            vcenter.fail(times=0)
            eventually(lambda: is_well(inspector))
    shown += [record.getMessage() for record in caplog.records]
    assert len(sessions) >= len(ANSWERS)
    for text in shown:
        for secret in (PASSWORD, *sessions):
            assert secret not in text


def test_a_server_that_quotes_the_password_is_not_quoted(
    opens: Opens, vcenter: VCenter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "open sesame"
    for status in (200, 500):
        inspector = opens(vcenter, password=lambda: secret)
        for kind in ("InvalidLogin", "SystemError"):
            body = soap_fault(kind, f"cannot log in with {secret}", f"<user>{secret}</user>")
            vcenter.fail("Login", times=1, status=status, body=body)
            said = failure(inspector.usage_all) + repr(inspector.health())
            assert "InspectorException" in said or "ConnectionLost" in said
            assert secret not in said
    assert secret not in caplog.text


def test_what_a_password_function_raises_is_not_shown(
    opens: Opens, vcenter: VCenter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = Bad(PASSWORD)
    inspector = opens(vcenter, password=password)
    for what in Bad.SAID:
        said = tells(inspector.usage_all, f"the function that returns the password has {what}")
        assert "secret" not in said
        assert inspector.health().outage
        password.answers.pop(0)
    eventually(lambda: is_well(inspector))
    assert "secret" not in caplog.text
    assert vcenter.logins() == 1


def test_a_password_file_that_is_not_there_is_named_and_nobody_is_asked(
    opens: Opens, vcenter: VCenter, tmp_path: Path
) -> None:
    file = tmp_path / "later"
    inspector = opens(vcenter, uri=f"{vcenter.uri}&password_file={file}", password=None)
    for prepare in (lambda: None, file.mkdir, file.rmdir, lambda: file.write_text("")):
        prepare()
        time.sleep(0.6)
        assert str(file) in failure(inspector.usage_all)
    assert vcenter.calls() == {}
    file.write_text(PASSWORD)
    file.chmod(0o600)
    eventually(lambda: is_well(inspector))
