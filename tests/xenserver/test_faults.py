"""What callers see of a pool in which something is wrong, and that it ends when that does."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.faults.test_engine import reading_threads
from tests.support.remote import (
    Bad,
    RungError,
    at_rest,
    each_asks_once,
    eventually,
    failure,
    interrupted_and_closed,
    is_closed_before_the_password_is_told,
    is_told_although_it_is_closed,
    tells,
    told_by_a_stopped_process,
    told_of_a_silent_server,
)
from tests.support.users import within_limits
from tests.support.xapi import PASSWORD, Pool, synthetic
from virtmeter import ConnectionLost, NoDataException

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.xapi import Fault
    from tests.xenserver.conftest import Opens
    from virtmeter import Inspector

ALL = 14  # VMs that run on two hosts


def count(inspector: Inspector) -> int:
    try:
        return len(inspector.usage_all())
    except ConnectionLost:
        return 0


def is_well(inspector: Inspector) -> bool:
    """Say whether all VMs are read again."""
    return count(inspector) == ALL and not inspector.health().away and not inspector.health().outage


def refuse_certificates(pool: Pool) -> Fault:
    """Have the master pass on what hosts say that cannot ask it whether a session is valid."""
    error = ("SESSION_INVALID", "OpaqueRef:of-the-master")
    return pool.hosts[0].fail(method="host.get_server_certificate", error=error)


def end(thread: threading.Thread) -> None:
    thread.join(60)
    assert not thread.is_alive()


#: Faults of a member: what it does, and what is said of it.
OF_A_MEMBER: dict[str, tuple[Callable[[Pool], object], str]] = {
    "away": (lambda pool: pool.hosts[1].away(), "refuses connections"),
    "rrdd is away": (lambda pool: setattr(pool.hosts[1], "rrdd", False), "xcp-rrdd"),
    "401": (
        lambda pool: pool.hosts[1].fail(path="/rrd", status=401),
        "does not accept the session",
    ),
    "403": (lambda pool: pool.hosts[1].fail(path="/rrd", status=403), "role of this user"),
    "500": (lambda pool: pool.hosts[1].fail(path="/rrd", status=500), "HTTP status 500"),
    "302": (
        lambda pool: pool.hosts[1].fail(path="/rrd", status=302, headers={"Location": "/"}),
        "another host",
    ),
    "garbage": (lambda pool: pool.hosts[1].fail(path="/rrd", body=b"\0\xff<"), "cannot be read"),
    "nothing": (lambda pool: pool.hosts[1].fail(path="/rrd", body=b""), "cannot be read"),
    "no HTTP": (lambda pool: pool.hosts[1].fail(path="/rrd", raw=b"hello\r\n\r\n"), "HTTP/1."),
    "cut": (lambda pool: pool.hosts[1].fail(path="/rrd", cut=1000), "before its answer was"),
    "reset": (lambda pool: pool.hosts[1].fail(path="/rrd", reset=True), "closed the connection"),
    "too short": (lambda pool: pool.hosts[1].fail(path="/rrd", length=-50), "cannot be read"),
    "endless": (lambda pool: pool.hosts[1].fail(path="/rrd", endless=True), "longer answer than"),
    "not live": (lambda pool: pool.hosts[1].live(False), "does not hear of it"),
    "no TLS": (lambda pool: setattr(pool.hosts[1].server, "plain", True), "TLS"),
    "no address": (
        lambda pool: pool.database.update("host", pool.hosts[1].ref, address=""),
        "no address",
    ),
}


@pytest.mark.parametrize("fault", OF_A_MEMBER)
def test_a_member_costs_its_own_vms_and_no_others(opens: Opens, pool: Pool, fault: str) -> None:
    happens, said = OF_A_MEMBER[fault]
    inspector = opens(pool)
    assert count(inspector) == ALL
    happens(pool)
    pool.now += 10
    there, away = pool.vm("A").uuid, pool.vm("A", 1).uuid
    for _ in range(3):
        usages = inspector.usage_all()
        assert len(usages) == ALL // 2
        assert away not in {usage.id for usage in usages}
        assert inspector.usage(there).id == there
        assert list(inspector.inspect_vnics(there))
        for ask in (inspector.usage, inspector.inspect_instance, inspector.inspect_vnics):
            with pytest.raises(NoDataException, match=said) as caught:
                ask(away)
            assert type(caught.value) is NoDataException
        # What the inventory knows is told.
        assert list(inspector.inspect_disk_info(away))
    ((name, (why, _)),) = inspector.health().away.items()
    assert name == "xcp2"
    assert said in why
    pool.hosts[1].heal()
    pool.hosts[1].live(True)
    pool.database.update("host", pool.hosts[1].ref, address=pool.hosts[1].address)
    eventually(lambda: is_well(inspector))


def test_hosts_of_one_name_are_told_apart(opens: Opens) -> None:
    with Pool(hosts=4) as pool:
        for host, name in zip(pool.hosts, ["xenserver", "xenserver", "xenserver", ""]):
            pool.database.update("host", host.ref, name_label=name)
        inspector = opens(pool)
        inspector.list_instances()
        for host in pool.hosts[1:]:
            host.away()
        names = {str(host.id): host.name for host in inspector.list_hosts()}
        ids = [host.uuid for host in pool.hosts]
        assert names == {
            **{uuid: f"xenserver ({uuid})" for uuid in ids[:3]},
            ids[3]: ids[3],
        }
        assert set(inspector.health().away) == {names[uuid] for uuid in ids[1:]}


@pytest.mark.parametrize("how", ["head", "body", "drip", "silent"])
def test_a_member_that_hangs_is_waited_for_once(opens: Opens, pool: Pool, how: str) -> None:
    inspector = opens(pool, timeout=2.0)
    assert count(inspector) == ALL
    if how == "silent":
        pool.hosts[1].server.silent = True
    elif how == "drip":
        pool.hosts[1].fail(path="/rrd", drip=1, pause=0.2)
    else:
        pool.hosts[1].fail(path="/rrd", hang=how)
    pool.forget()
    assert count(inspector) == ALL // 2
    waited = inspector.health().timeouts
    for _ in range(30):
        with pytest.raises(NoDataException, match=r"in time|no answer within"):
            inspector.usage(pool.vm("B", 1).uuid)
    assert inspector.health().timeouts == waited <= 1
    assert list(inspector.health().away) == ["xcp2"]
    pool.hosts[1].heal()
    eventually(lambda: is_well(inspector))


def test_interrupted_and_closed_again_and_again_over_a_member_that_hangs(
    opens: Opens, pool: Pool
) -> None:
    inspector = opens(pool, timeout=3.0)
    assert count(inspector) == ALL
    pool.hosts[1].fail(path="/rrd", hang="head")
    told = [interrupted_and_closed(inspector, 2.0) for _ in range(10)]
    assert ALL // 2 in told
    assert list(inspector.health().away) == ["xcp2"]
    pool.hosts[1].heal()
    eventually(lambda: is_well(inspector))


def test_a_check_of_rows_that_hangs_costs_no_vm(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, timeout=2.0)
    pool.hosts[1].fail(path="/vm_rrd", hang="head")
    for cycles in range(1, 10):
        assert count(inspector) == ALL
        assert pool.count("GET /rrd_updates", 1) == cycles
        if cycles in (1, 7):
            at_rest(inspector)
        pool.now += 10
    assert inspector.health().timeouts == 0
    # Two VMs are tried again, but not at each reading.
    assert pool.count("GET /vm_rrd", 1) == 4
    pool.hosts[1].heal()
    for later in (60, 70, 10):
        pool.now += later
        inspector.usage_all()
        at_rest(inspector)
    (host,) = [host for host in inspector.list_hosts() if host.name == "xcp2"]
    assert host.compared


def test_rows_are_checked_again_once_their_host_tells_of_single_vms(
    opens: Opens, pool: Pool
) -> None:
    inspector = opens(pool, timeout=2.0)
    assert count(inspector) == ALL
    at_rest(inspector)
    pool.hosts[1].fail(path="/vm_rrd", hang="head")
    # It is waited for, and what it counted since its start is not known.
    assert not list(inspector.inspect_vnics(pool.vm("B", 1).uuid))
    pool.hosts[1].heal()
    at_rest(inspector)
    pool.forget()
    pool.now += 70

    def is_checked() -> bool:
        # By those who go over all VMs alone.
        assert count(inspector) == ALL
        return pool.count("GET /vm_rrd", 1) > 0

    eventually(is_checked)


def test_who_asks_again_after_close_is_told_all_though_rows_are_fresh(
    opens: Opens, pool: Pool
) -> None:
    inspector = opens(pool, max_age=600.0)
    assert count(inspector) == ALL
    at_rest(inspector)
    inspector.close()
    for letter in "ABDEFG":
        assert list(inspector.inspect_vnics(pool.vm(letter).uuid)), letter
    assert pool.sessions.logins == 2


def test_nobody_waits_for_a_check_of_rows(
    opens: Opens, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, rrd = threading.Event(), pool.metrics.rrd
    was_answered: list[bool] = []

    def held(uuid: str, now: float) -> Any:
        # A caller who waits for it anyway gets an answer in the end.
        was_answered.append(answered.wait(20))
        return rrd(uuid, now)

    monkeypatch.setattr(pool.metrics, "rrd", held)
    inspector = opens(pool, timeout=120.0)
    for _ in range(2):
        answered.clear()
        was_answered.clear()
        assert count(inspector) == ALL
        answered.set()
        eventually(lambda: len(was_answered) == 4)
        assert all(was_answered), "usage_all has waited for it"
        at_rest(inspector)
        pool.now += 70
    assert count(inspector) == ALL
    assert all(host.compared for host in inspector.list_hosts())


def test_who_closes_while_rows_are_checked_logs_out(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, timeout=2.0)
    faults = [host.fail(path="/vm_rrd", hang="head") for host in pool.hosts]
    assert count(inspector) == ALL
    eventually(lambda: all(fault.happened for fault in faults))
    inspector.close()
    assert not pool.sessions.open
    at_rest(inspector)
    assert not pool.sessions.open
    assert pool.sessions.logins == 1


#: Faults of the master: what it does, and what is said of it.
OF_THE_MASTER: dict[str, tuple[Callable[[Pool], object], str]] = {
    "away": (lambda pool: pool.hosts[0].away(), "refuses connections"),
    "no TLS": (lambda pool: setattr(pool.hosts[0].server, "plain", True), "TLS"),
    "404": (
        lambda pool: pool.hosts[0].fail(method="event.from", status=404),
        "no XAPI at /jsonrpc",
    ),
    "500": (lambda pool: pool.hosts[0].fail(method="event.from", status=500), "HTTP status 500"),
    "garbage": (lambda pool: pool.hosts[0].fail(method="event.from", body=b"\0{"), "no JSON"),
    "null": (lambda pool: pool.hosts[0].fail(method="event.from", body=b"null"), "no JSON"),
    "cut": (lambda pool: pool.hosts[0].fail(method="event.from", cut=100), "before its answer"),
    "endless": (lambda pool: pool.hosts[0].fail(method="event.from", endless=True), "longer"),
    "an error": (
        lambda pool: pool.hosts[0].fail(method="event.from", error=("INTERNAL_ERROR", "Db")),
        "INTERNAL_ERROR",
    ),
}


@pytest.mark.parametrize("fault", OF_THE_MASTER)
def test_without_a_master_there_is_nothing(opens: Opens, pool: Pool, fault: str) -> None:
    happens, said = OF_THE_MASTER[fault]
    inspector = opens(pool)
    assert count(inspector) == ALL
    happens(pool)
    for _ in range(3):
        with pytest.raises(ConnectionLost, match=said):
            inspector.usage_all()
        with pytest.raises(ConnectionLost, match=said) as caught:
            inspector.inspect_vnics(pool.vm("A", 1).uuid)
        assert caught.value.instance_id == pool.vm("A", 1).uuid
    assert said in (inspector.health().outage or ("", 0))[0]
    pool.hosts[0].heal()
    eventually(lambda: is_well(inspector))


def test_a_master_that_hangs_is_waited_for_once(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, timeout=2.0)
    assert count(inspector) == ALL
    pool.hosts[0].fail(method="event.from", hang="head")
    for _ in range(10):
        with pytest.raises(ConnectionLost):
            inspector.usage_all()
    assert inspector.health().timeouts <= 1
    pool.hosts[0].heal()
    eventually(lambda: is_well(inspector))


def test_a_master_that_is_not_reached_is_told_as_such_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    why = "did not complete the TLS handshake in time"
    assert why in told_of_a_silent_server("xenserver")
    assert why in caplog.text


def test_a_server_that_is_silent_from_the_start_is_told_to_who_closes_each_time() -> None:
    is_told_although_it_is_closed("xenserver")


def test_a_login_that_hangs_is_waited_for_once_and_not_by_close(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, timeout=0.5)
    hangs = pool.hosts[0].fail(method="session.login_with_password", hang="head")
    for _ in range(10):
        with pytest.raises(ConnectionLost, match="no answer within"):
            inspector.usage_all()
    assert inspector.health().timeouts == 1
    assert inspector.health().outage
    assert not inspector.connected
    # The login is still under way, and neither of these waits for it.
    inspector.close()
    assert hangs.happened == 1
    assert pool.count("session.login_with_password") == 1


def test_the_count_of_logins_does_not_fall_while_there_is_one(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    pool.sessions.expire()
    pool.sessions.delay = 1.0
    seen = set()
    asking = threading.Thread(target=inspector.usage_all)
    asking.start()
    while asking.is_alive():
        seen.add(inspector.health().opened)
        time.sleep(0.01)
    end(asking)
    assert min(seen) == 1
    assert inspector.health().opened == 2


def test_a_session_that_is_over_costs_one_login(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    # What goes on behind our backs may renew it, too, and find that one over in turn.
    at_rest(inspector)
    for logins in (2, 3):
        pool.sessions.expire()
        assert count(inspector) == ALL
        assert pool.sessions.logins == logins
    # Others have logged in, and this session was the oldest.
    pool.sessions.most = 1
    with virtmeter.Inspector(pool.uri(), password=lambda: PASSWORD) as other:
        other.list_instances()
        pool.now += 10
        assert count(inspector) == ALL
    assert pool.sessions.logins == 5
    assert inspector.health().away == {}


def test_sessions_that_are_over_at_once_are_not_renewed_each_time(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    began = time.monotonic()
    refused = pool.hosts[0].fail(method="event.from", error=("SESSION_INVALID", "OpaqueRef:x"))
    for _ in range(20):
        assert count(inspector) == 0
        time.sleep(0.5)
    assert refused.happened >= 3
    # One every 10 s, as with vSphere.
    assert pool.sessions.logins <= 2 + (time.monotonic() - began) / 10
    pool.hosts[0].heal()
    eventually(lambda: is_well(inspector))


def test_hosts_that_accept_no_session_cost_no_login(opens: Opens) -> None:
    with Pool(hosts=3) as pool:
        inspector = opens(pool)
        everything = count(inspector)
        for _ in range(3):
            faults = [host.fail(path="/rrd", status=401) for host in pool.hosts[1:]]
            refuse_certificates(pool)
            assert count(inspector) == everything // 3
            assert all(fault.happened for fault in faults)
            for host in pool.hosts:
                host.heal()
            eventually(lambda: count(inspector) == everything)
        # The master takes it still, and would keep one that is forgotten for a day.
        assert pool.sessions.logins == len(pool.sessions.open) == 1
        inspector.close()
        assert not pool.sessions.open


def test_a_host_that_accepts_no_session_from_the_start_costs_no_login(
    opens: Opens, pool: Pool
) -> None:
    refused = refuse_certificates(pool)
    inspector = opens(pool)
    eventually(lambda: count(inspector) and refused.happened >= 3)
    assert pool.sessions.logins == len(pool.sessions.open) == 1
    [(why, _)] = inspector.health().away.values()
    assert "does not accept the session" in why
    pool.hosts[0].heal()
    eventually(lambda: is_well(inspector))
    assert pool.sessions.logins == 1


def test_a_wrong_password_is_tried_once_until_it_is_another(
    opens: Opens, pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    file.write_text("wrong horse\n")
    file.chmod(0o600)
    pool.sessions.penalty = 2.0
    inspector = opens(pool, uri=f"{pool.uri()}&password_file={file}", password=None, timeout=0.5)
    for _ in range(20):
        with pytest.raises(ConnectionLost, match="wrong user name or password"):
            inspector.usage_all()
        with pytest.raises(ConnectionLost, match="wrong user name or password"):
            inspector.usage(pool.vm("A").uuid)
        with pytest.raises(ConnectionLost):
            inspector.list_hosts()
    assert pool.sessions.logins == 1
    # Whatever is due by then is not tried.
    time.sleep(1.5)
    with pytest.raises(ConnectionLost):
        inspector.usage_all()
    assert pool.sessions.logins == 1
    file.write_text(PASSWORD + "\n")
    eventually(lambda: is_well(inspector))
    assert pool.sessions.logins == 2
    assert "wrong horse" not in caplog.text


def test_a_wrong_password_that_is_refused_late_goes_out_once(opens: Opens, pool: Pool) -> None:
    # Directories are asked that take their time.
    pool.sessions.penalty = 25.0
    inspector = opens(pool, password=lambda: "wrong horse", timeout=0.5)
    eventually(lambda: "wrong user name or password" in failure(inspector.usage_all))
    assert pool.sessions.logins == 1


def test_an_inspector_for_each_question_tries_a_wrong_password_once(
    opens: Opens, pool: Pool
) -> None:
    for said in each_asks_once(pool.uri(), "wrong horse", 5, timeout=10.0):
        assert "wrong user name or password" in said
    assert pool.sessions.logins == 1
    # It is about that password only.
    assert count(opens(pool)) == ALL
    assert pool.sessions.logins == 2


def test_an_inspector_for_each_question_leaves_one_login_that_hangs(pool: Pool) -> None:
    pool.hosts[0].fail(method="session.login_with_password", hang="head")
    threads = len(reading_threads("virtmeter-sweep"))
    for said in each_asks_once(pool.uri(), PASSWORD, 10, timeout=0.5):
        assert "no answer within" in said or "still being logged in to" in said
    assert pool.count("session.login_with_password") == 1
    eventually(lambda: len(reading_threads("virtmeter-sweep")) <= threads + 1)


def test_a_login_that_ends_after_close_leaves_no_session(opens: Opens, pool: Pool) -> None:
    # Longer than anybody waits who would want another one.
    pool.sessions.delay = 12.0
    inspector = opens(pool, timeout=0.5)
    assert "no answer within" in failure(inspector.usage_all)
    inspector.close()
    eventually(lambda: pool.count("session.logout"))
    assert pool.sessions.logins == 1
    eventually(lambda: not pool.sessions.open)
    assert not inspector.connected


def test_ctrl_c_ends_its_call_however_many_lines_are_left(opens: Opens) -> None:
    """A handler may be slow, as over a network: the lines that are left are for the next calls."""

    class Interrupting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            raise KeyboardInterrupt

    said: list[str] = []
    with synthetic(hosts=6, vms=1) as pool:
        inspector = opens(pool, max_age=0)
        assert len(inspector.usage_all()) == 6
        for host in pool.hosts[1:]:
            host.fail(path="/rrd_updates", status=500)
        logging.getLogger("virtmeter").addHandler(handler := Interrupting())
        try:
            for lines in range(1, 6):
                with pytest.raises(KeyboardInterrupt):
                    eventually(lambda: not inspector.usage_all())
                assert len(said) == lines
            assert len(inspector.usage_all()) == 1
        finally:
            logging.getLogger("virtmeter").removeHandler(handler)
        assert len(said) == len(set(said)) == 5, "none is lost, and none told twice"
        inspector.close()


def test_who_is_interrupted_while_it_waits_logs_nothing_more(opens: Opens) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            raise ZeroDivisionError

    def interrupted(*_: object) -> None:
        raise RungError

    said: list[str] = []
    with synthetic(hosts=3, vms=1) as pool:
        inspector = opens(pool, max_age=0)
        assert len(inspector.usage_all()) == 3
        pool.hosts[1].fail(path="/rrd_updates", status=500)
        pool.hosts[2].fail(path="/rrd_updates", delay=20.0, status=500)
        before = signal.signal(signal.SIGALRM, interrupted)
        logging.getLogger("virtmeter").addHandler(handler := Raising())
        signal.setitimer(signal.ITIMER_REAL, 1.5)  # one has failed by then, the other has not
        try:
            with pytest.raises(RungError):
                inspector.usage_all()
            assert said == []
            with pytest.raises(ZeroDivisionError):
                inspector.list_hosts()
        finally:
            signal.signal(signal.SIGALRM, before)
            logging.getLogger("virtmeter").removeHandler(handler)
        assert len(said) == 1
        inspector.close()


def test_a_close_in_which_a_log_handler_raises_is_one(
    opens: Opens, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object) -> None:
        raise RungError

    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            said.append(record.getMessage())
            raise RungError(record.getMessage())

    said: list[str] = []
    caplog.set_level("DEBUG", "virtmeter")
    inspector = opens(pool)
    eventually(lambda: is_well(inspector))
    # By the time it fails, its caller has gone: its line waits for the next call.
    pool.hosts[1].fail(path="/rrd_updates", delay=3.0, status=500)
    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(RungError):
            inspector.usage_all()
    finally:
        signal.signal(signal.SIGALRM, before)
    eventually(lambda: not reading_threads("virtmeter-sweep"))
    logging.getLogger("virtmeter").addHandler(handler := Raising())
    try:
        with pytest.raises(RungError, match="HTTP status 500"):
            inspector.close()
    finally:
        logging.getLogger("virtmeter").removeHandler(handler)
    assert not inspector.connected
    assert len(said) == 1, "what is said of the host, and not that the session was not closed"


def test_a_login_that_begins_after_close_is_none(opens: Opens, pool: Pool) -> None:
    inspector = is_closed_before_the_password_is_told(partial(opens, pool), PASSWORD)
    assert pool.sessions.logins == 0
    assert is_well(inspector)


def test_a_password_file_that_is_not_there_or_cannot_be_used(
    opens: Opens, pool: Pool, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    inspector = opens(pool, uri=f"{pool.uri()}&password_file={file}", password=None)
    for prepare in (lambda: None, file.mkdir, file.rmdir, lambda: file.write_text("")):
        prepare()
        time.sleep(0.6)
        with pytest.raises(ConnectionLost, match=str(file)):
            inspector.usage_all()
    assert pool.sessions.logins == 0
    file.write_text(PASSWORD)
    file.chmod(0o600)
    eventually(lambda: is_well(inspector))


def test_what_a_password_function_raises_is_not_shown(
    opens: Opens, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = Bad(PASSWORD)
    inspector = opens(pool, password=password)
    for what in Bad.SAID:
        said = tells(inspector.usage_all, f"the function that returns the password has {what}")
        assert "secret" not in said
        password.answers.pop(0)
    eventually(lambda: is_well(inspector))
    assert "secret" not in caplog.text


@pytest.mark.parametrize("blocked", [set(), {signal.SIGUSR1, signal.SIGPROF}])
def test_a_password_function_has_the_signals_of_its_program(
    opens: Opens, pool: Pool, blocked: set[signal.Signals]
) -> None:
    """It may start a process, which inherits them."""
    found = []

    def password() -> str:
        found.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return PASSWORD

    inspector = opens(pool, password=password)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        inspector.list_instances()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert found == [blocked]


def test_a_password_function_that_is_slow_is_not_called_twice(opens: Opens, pool: Pool) -> None:
    known, called = threading.Event(), []

    def password() -> str:
        called.append(threading.current_thread())
        known.wait(60)
        return PASSWORD

    inspector = opens(pool, password=password, timeout=0.3)
    for _ in range(3):
        late = failure(inspector.list_instances)
        assert "the function that returns the password has not returned within 300ms" in late
        assert not inspector.connected
        time.sleep(0.6)
    known.set()
    eventually(lambda: is_well(inspector))
    assert len(called) == pool.sessions.logins == 1


def test_the_master_is_found_through_a_member_where_it_can_be_trusted(opens: Opens) -> None:
    with Pool("xapi-24.19_drift", hosts=2) as pool:
        inspector = opens(pool, uri=pool.uri(1))
        assert count(inspector) == ALL
        assert [pool.count("session.login_with_password", host) for host in (0, 1)] == [1, 1]
        assert pool.sessions.logins == 1
    with Pool("xapi-1.249_8.2_drift", hosts=2) as pool:
        # It does not tell the master's certificate: nobody is told the password then.
        inspector = opens(pool, uri=pool.uri(1))
        with pytest.raises(ConnectionLost, match=r"is not the master of its pool, 127\.0\.0\.1 is"):
            inspector.usage_all()
        assert pool.count("session.login_with_password", 0) == 0
        insecure = pool.uri(1).partition("?")[0] + "?insecure=1"
        assert count(opens(pool, uri=insecure)) == ALL


def test_another_host_becomes_the_master(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    pool.appoint(1)
    pool.now += 10
    assert count(inspector) == ALL
    pool.appoint(0)
    pool.now += 10
    assert count(inspector) == ALL
    assert inspector.health().outage is None


@pytest.mark.parametrize("first", [0, 2])
def test_the_master_that_a_member_has_named_is_gone(opens: Opens, first: int) -> None:
    with Pool("xapi-24.19_drift", hosts=3) as pool:
        pool.appoint(first)
        inspector = opens(pool, uri=pool.uri(1))
        everything = count(inspector)
        pool.hosts[first].away()
        with pytest.raises(ConnectionLost, match="refuses connections"):
            inspector.usage_all()
        # The host of the URI becomes the master, or another one does.
        pool.appoint(1 if first else 2)
        eventually(lambda: count(inspector) == everything * 2 // 3)
        assert inspector.health().outage is None


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 503}, {"hang": "head"}])
@pytest.mark.parametrize("next_one", [1, 2])
def test_the_master_that_a_member_has_named_is_broken(
    opens: Opens, fault: dict[str, Any], next_one: int
) -> None:
    with Pool("xapi-24.19_drift", hosts=3) as pool:
        inspector = opens(pool, uri=pool.uri(1), timeout=2.0)
        everything = count(inspector)
        pool.hosts[0].fail(**fault)
        # The member says that it is still the master, and nobody logs in to it in vain.
        eventually(lambda: count(inspector) == 0 and pool.count("pool.get_all", 1) > 1)
        assert pool.sessions.logins == len(pool.sessions.open) == 1
        pool.appoint(next_one)
        eventually(lambda: count(inspector) == everything * 2 // 3)
        assert inspector.health().outage is None
        pool.hosts[0].heal()
        eventually(lambda: count(inspector) == everything)


def test_rows_of_another_host_are_not_taken(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, max_age=1.0)
    assert count(inspector) == ALL
    time.sleep(1.1)
    pool.now += 20
    inspector.list_instances()
    # As the inventory is known, the new master is asked for the rows of the former one.
    pool.appoint(1)
    pool.sessions.expire()
    told: Counter[str] = Counter()

    def is_all_told() -> bool:
        for usage in inspector.usage_all():
            told[usage.id] += round(usage.cpu_interval or 0)
        return list(told.values()) == [20] * ALL

    eventually(is_all_told)


def test_the_master_that_a_member_has_named_renews_its_certificate(opens: Opens) -> None:
    with Pool("xapi-24.19_drift", hosts=2) as pool:
        inspector = opens(pool, uri=pool.uri(1))
        assert count(inspector) == ALL
        pool.hosts[0].change_certificate()
        pool.now += 10
        assert count(inspector) == ALL
        assert pool.sessions.logins == 2


def test_a_master_that_is_away_for_a_moment_keeps_one_session(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool, uri=pool.uri(1))
    assert count(inspector) == ALL
    for _ in range(3):
        pool.hosts[0].away()
        with pytest.raises(ConnectionLost, match="refuses connections"):
            inspector.usage_all()
        pool.hosts[0].back()
        eventually(lambda: is_well(inspector))
        assert len(pool.sessions.open) == 1
    pool.hosts[0].away()
    with pytest.raises(ConnectionLost, match="refuses connections"):
        inspector.usage_all()
    pool.hosts[0].back()
    inspector.close()
    eventually(lambda: not pool.sessions.open)


def test_a_login_through_a_member_that_takes_all_the_time_is_the_only_one(
    opens: Opens, pool: Pool
) -> None:
    pool.sessions.delay = 1.5
    inspector = opens(pool, uri=pool.uri(1), timeout=1.0)
    eventually(lambda: is_well(inspector))
    assert pool.sessions.logins == len(pool.sessions.open) == 1


def test_a_member_renews_its_certificate(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    pool.hosts[1].change_certificate()
    pool.now += 10
    pool.forget()
    assert count(inspector) == ALL
    assert pool.count("host.get_server_certificate") == 1


def test_something_else_answers_in_place_of_a_member(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    # The master still tells the old one.
    known = pool.hosts[1].certificate
    pool.hosts[1].change_certificate()
    pool.hosts[1].certificate = known
    pool.forget()
    assert count(inspector) == ALL // 2
    with pytest.raises(NoDataException, match="not the certificate that the pool's master knows"):
        inspector.usage(pool.vm("A", 1).uuid)
    assert pool.count("GET /rrd_updates", 1) == 0
    pool.hosts[1].server.context = known.context()
    eventually(lambda: is_well(inspector))


def test_a_master_that_is_not_trusted_through_a_member(opens: Opens, pool: Pool) -> None:
    certificate = pool.make_certificate("127.0.0.1")
    pool.hosts[0].server.context = certificate.context()
    # What the URI says of certificates is the member's, and right.
    said = r"127\.0\.0\.1 is, .* put the master into the URI, and sha256="
    with pytest.raises(ConnectionLost, match=said) as caught:
        opens(pool, uri=pool.uri(host=1)).usage_all()
    digits = str(caught.value).partition("sha256=")[2].partition(" ")[0].replace(":", "")
    assert digits.lower() == certificate.sha256.replace(":", "").lower()
    assert pool.sessions.logins == 0
    changed = opens(pool, uri=f"{pool.uri().partition('?')[0]}?sha256={digits}")
    assert count(changed) == ALL


def test_something_else_answers_in_place_of_the_master(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    context = pool.hosts[0].server.context
    pool.hosts[0].change_certificate()
    pool.forget()
    with pytest.raises(ConnectionLost, match="has not the certificate that was expected"):
        inspector.usage_all()
    assert not pool.calls
    pool.hosts[0].server.context = context
    eventually(lambda: is_well(inspector))


def test_a_certificate_for_another_name(opens: Opens, pool: Pool, tmp_path: Path) -> None:
    pool.hosts[0].change_certificate(name="elsewhere.example", address="127.0.0.9")
    file = tmp_path / "ca.pem"
    file.write_text(pool.hosts[0].certificate.pem)
    uri = pool.uri().partition("?")[0] + f"?ca_file={file}"
    with pytest.raises(ConnectionLost, match="certificate"):
        opens(pool, uri=uri).usage_all()
    assert not pool.calls


@pytest.mark.parametrize("by", [-3600, 3600])
def test_the_clock_of_a_host_is_set(opens: Opens, old_pool: Pool, by: int) -> None:
    pool = old_pool
    inspector = opens(pool)
    assert count(inspector) == ALL
    told = 0.0
    for step in range(12):
        if step == 4:
            pool.hosts[1].clock = by
        if step == 8:
            pool.hosts[1].clock = 0
        pool.now += 10
        usages = {usage.id: usage for usage in inspector.usage_all()}
        assert len(usages) == ALL
        usage = usages[pool.vm("A", 1).uuid]
        for share in (usage.cpu_utilization, usage.host_cpu_utilization):
            assert share is None or 0 <= share <= 100
        # A simulated host whose clock goes forward has rows of the time that it leaves out, where a
        # real one has NaN.
        if usage.network_interval and usage.network_interval < 20:
            told += (usage.network_read_kib or 0) * 1024
    uuid = pool.vm("A").uuid
    names = ("vif_0_rx", "vif_2_rx")
    grown = [[pool.truth(uuid, name, time) for name in names] for time in (pool.start, pool.now)]
    begin, end = (sum(value for value in values if value is not None) for values in grown)
    # Two intervals of twelve are not known.
    assert 0.7 * (end - begin) < told < 1.2 * (end - begin)


@pytest.mark.parametrize("data", ["xapi-24.19_drift", "xapi-26.17_steady", "xapi-26.17_boundary"])
def test_counters_since_the_start_outlive_a_clock_that_goes_back(
    opens: Opens, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Pool(data) as pool:
        inspector = opens(pool)
        pool.hosts[0].clock = 3600
        while pool.now < pool.start + 500:
            pool.now += 20
            usages = inspector.usage_all()
            assert all(0 <= (usage.cpu_utilization or 0) <= 101 for usage in usages)
            # At the boundary, rows are wrong until that is found, soon or late.
            is_boundary = data.endswith("boundary")
            is_right = not is_boundary or "differ from its counters" in caplog.text
            for letter in "AGH" if is_right else "":
                vm = pool.vm(letter)
                for nic in inspector.inspect_vnics(vm.uuid):
                    name = f"vif_{nic.name.rpartition('.')[2]}_rx"
                    least = pool.truth(vm.uuid, name, pool.now - 12) or 0
                    most = pool.truth(vm.uuid, name) or 0
                    if nic.rx_bytes == -1:
                        assert (letter, pool.now) == ("G", pool.start + 260), "only after its start"
                    else:
                        assert least * 0.99999 - 4096 <= nic.rx_bytes <= most * 1.00001 + 4096
            if pool.now == pool.start + 240 and not is_boundary:
                pool.vm("G").reboot()
            if pool.now == pool.start + 360:
                pool.hosts[0].clock = 0
        assert is_right, "the wrong rows were never found"


@pytest.mark.parametrize("error", ["EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"])
def test_events_that_are_lost_are_read_anew(opens: Opens, pool: Pool, error: str) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    fault = pool.hosts[0].fail(method="event.from", error=(error, "x"), times=1)
    pool.vm("A").set(name_label="renamed")
    assert count(inspector) == ALL
    assert fault.happened == 1
    names = {instance.name for instance in inspector.list_instances()}
    assert "renamed" in names
    pool.database.lose_events()
    assert count(inspector) == ALL
    assert inspector.health().outage is None


@pytest.mark.parametrize("error", ["EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"])
def test_an_inventory_that_cannot_be_read_anew_is_not_told(
    opens: Opens, pool: Pool, error: str
) -> None:
    pool.hosts[0].fail(method="event.from", error=(error, "x"))
    inspector = opens(pool)
    for _ in range(2):
        for ask in (inspector.list_instances, lambda: inspector.usage(pool.vm("A").uuid)):
            with pytest.raises(ConnectionLost, match="the inventory is read anew"):
                ask()
        assert inspector.health().outage
        pool.hosts[0].heal()
        eventually(lambda: is_well(inspector))
        # Nor is an old one told in its place.
        pool.hosts[0].fail(method="event.from", error=(error, "x"))


def test_a_host_that_is_away_comes_back_without_vms_or_leaves(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    pool.hosts[1].away()
    assert count(inspector) == ALL // 2
    for letter in "ABDEFGH":
        pool.vm(letter, 1).migrate(0)
    pool.now += 30
    assert count(inspector) == ALL
    assert list(inspector.health().away) == ["xcp2"]
    pool.hosts[1].back()
    eventually(lambda: is_well(inspector))
    pool.hosts[1].away()
    inspector.list_hosts()
    assert list(inspector.health().away) == ["xcp2"]
    record = pool.database.tables["host"][pool.hosts[1].ref]
    pool.database.remove("host_metrics", record["metrics"])
    pool.database.remove("host", pool.hosts[1].ref)
    eventually(lambda: is_well(inspector))


def test_no_secret_is_shown(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    sessions: set[str] = set()
    with virtmeter.Inspector(pool.uri(), password=lambda: PASSWORD, max_age=0.0) as inspector:
        shown.append(repr(inspector))
        shown.append(inspector.uri)
        for happens, _ in (*OF_A_MEMBER.values(), *OF_THE_MASTER.values()):
            inspector.usage_all()
            sessions.update(pool.sessions.open)
            happens(pool)
            shown.append(failure(inspector.usage_all))
            shown.append(failure(lambda: inspector.usage(pool.vm("A", 1).uuid)))
            shown.append(repr(inspector.health()) + repr(inspector))
            pool.sessions.expire()
            for host in pool.hosts:
                host.heal()
            pool.hosts[1].live(True)
            pool.database.update("host", pool.hosts[1].ref, address=pool.hosts[1].address)
            eventually(lambda: is_well(inspector))
    shown += [record.getMessage() for record in caplog.records]
    assert sessions
    for text in shown:
        for secret in (PASSWORD, *sessions):
            assert secret not in text
            assert secret.encode().hex() not in text
    in_cookies = 0
    for asked in pool.requests:
        assert "session" not in asked.request.target
        assert "password" not in asked.request.target
        assert not any(session in asked.request.target for session in sessions)
        if asked.request.verb == "GET":
            in_cookies += asked.request.headers["cookie"].startswith("session_id=OpaqueRef:")
            assert not asked.request.body
            assert set(asked.request.headers) <= {
                "host",
                "user-agent",
                "accept",
                "cookie",
                "connection",
            } | {"accept-encoding"}
    assert in_cookies


SHORT_OF_THREADS = """
import logging, os, resource, sys, time
import virtmeter

inspector = virtmeter.Inspector(
    sys.argv[1], password=lambda: sys.argv[2], max_age=0, timeout=1
)
inspector.list_instances()
while inspector.health().threads:
    time.sleep(0.05)
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("virtmeter").addHandler(handler)
resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
if os.geteuid() == 0:
    os.setuid(65534)  # root has no limit
for _ in range(3):
    try:
        inspector.list_instances()
        print("read")
    except virtmeter.ConnectionLost as error:
        print("lost" if "cannot start a thread: " in str(error) else error)
print(*lines, sep="\\n")
"""


@within_limits
def test_that_no_thread_can_be_started_is_said_once(pool: Pool) -> None:
    command = [sys.executable, "-W", "error", "-c", SHORT_OF_THREADS, pool.uri(), PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *lost, line = done.stdout.splitlines()
    assert lost == ["lost"] * 3
    assert line.startswith("cannot start another thread: ")
    assert "; nothing is read until one can be started. " in line
    assert line.endswith("Check the limits of this process (ulimit -u, TasksMax)")


SHORT_OF_THREADS_IN_AN_OUTAGE = """
import os, resource, sys, time
import virtmeter

def asked():
    try:
        inspector.list_instances()
        return "read"
    except virtmeter.ConnectionLost:
        return "lost"

inspector = virtmeter.Inspector(sys.argv[1], password=lambda: sys.argv[2], max_age=0, timeout=1)
print(asked())
while inspector.health().threads:
    time.sleep(0.05)
_, most = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (0, most))
if os.geteuid() == 0:
    os.setuid(65534)  # root has no limit
for _ in range(3):
    time.sleep(0.6)  # it is tried again by now
    print(asked())
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
end = time.monotonic() + 30
while asked() == "lost" and time.monotonic() < end:
    time.sleep(0.1)
print(asked())
"""


@within_limits
def test_an_outage_in_which_no_thread_can_be_started_ends(pool: Pool) -> None:
    pool.hosts[0].fail(method="event.from", times=1, error=("INTERNAL_ERROR", "x"))
    script = SHORT_OF_THREADS_IN_AN_OUTAGE
    command = [sys.executable, "-W", "error", "-c", script, pool.uri(), PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["lost"] * 4 + ["read"]


def test_an_inventory_without_a_host_forgets_nothing(opens: Opens, pool: Pool) -> None:
    inspector = opens(pool)
    assert count(inspector) == ALL
    pool.now += 10
    assert count(inspector) == ALL
    nothing = b'{"jsonrpc":"2.0","id":0,"result":{"token":"1","events":[]}}'
    pool.hosts[0].fail(method="event.from", times=1, error=("EVENTS_LOST", "x"))
    pool.hosts[0].fail(method="event.from", times=1, body=nothing)
    pool.now += 10
    with pytest.raises(ConnectionLost, match="no host"):
        inspector.usage_all()
    eventually(lambda: is_well(inspector))
    pool.now += 10
    assert all(usage.interval for usage in inspector.usage_all())


@pytest.mark.parametrize(
    ("host", "what"), [(0, {"method": "event.from"}), (1, {"path": "/rrd_updates"})]
)
def test_a_process_that_was_stopped_blames_nobody(
    pool: Pool, host: int, what: dict[str, str]
) -> None:
    asked = pool.hosts[host].fail(**what, hang="head", times=1)
    told = told_by_a_stopped_process(pool.uri(), PASSWORD, lambda: asked.happened == 1)
    assert told == f"{ALL} {{}} None\n"
