"""What virtmeter does to the process it runs in: forks, threads, memory, descriptors, stderr."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import virtmeter
from tests.support import sample
from tests.support.libvirtd import Daemon, Late, Never, Then
from tests.support.oracle import METHODS
from tests.support.procedures import VIR_FROM_QEMU, Error
from tests.support.qemu import wait_for
from tests.support.users import as_nobody, within_limits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.procedures import Domain


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python of its own, which knows virtmeter and nothing of libvirt-python."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script that does something more when it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(completed: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a script printed, if all was well with it."""
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    return completed.stdout.splitlines()


FAILING = """
    import sys, virtmeter
    for uri in sys.argv[1:]:
        inspector = virtmeter.LibvirtInspector(uri)
        for method in (inspector.inspect_instance, inspector.inspect_vnics,
                       inspector.inspect_disks, inspector.inspect_disk_info):
            try:
                print(len(list(method("6695eb01-0000-0000-0000-97f2502e193f"))))
            except (virtmeter.InspectorException, ValueError) as error:
                print(type(error).__name__)
"""


def test_nothing_on_stderr_whatever_fails(daemon: Daemon, tmp_path: Path) -> None:
    domain = sample.domain(uuid="6695eb01-0000-0000-0000-97f2502e193f")
    domain.disks, domain.interfaces = {}, {}
    daemon.add(domain)
    unknown = "test:///default"
    down = f"qemu+unix:///system?socket={tmp_path}/none"
    counts = [str(len(virtmeter.InstanceStats._fields)), "0", "0", "0"]
    not_found, lost = ["InstanceNotFoundException"] * 4, ["ConnectionLost"] * 4
    printed = lines(run(FAILING, unknown, down, "foo:///bar", daemon.uri))
    assert printed == [*not_found, *lost, *["ValueError"] * 4, *counts]


@as_nobody
def test_a_socket_without_permission(daemon: Daemon) -> None:
    daemon.socket_path.parent.chmod(0o755)
    daemon.socket_path.chmod(0o600)
    script = """
        import os, sys, virtmeter
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            virtmeter.LibvirtInspector(sys.argv[1]).list_instances()
        except virtmeter.ConnectionLost as error:
            print(error)
    """
    [printed] = lines(run(script, daemon.uri))
    assert "Permission denied" in printed
    assert "group libvirt" in printed


ANOTHER_USER_OF_LIBVIRT = """
    import sys
    heard = []
    first, uri = sys.argv[1:]
    if first == "libvirt":
        import libvirt
        if uri.startswith("handled"):
            libvirt.registerErrorHandler(lambda _, error: heard.append(error), None)
    import virtmeter
    import libvirt
    try:
        virtmeter.LibvirtInspector("test:///default").inspect_instance(
            "6695eb01-0000-0000-0000-97f2502e193f")
    except virtmeter.InstanceNotFoundException:
        pass
    if first != "libvirt":
        try:
            virtmeter.LibvirtInspector("qemu+unix:///system?socket=/nowhere").list_instances()
        except virtmeter.ConnectionLost:
            pass
    assert heard == []
    try:
        libvirt.open("test:///default").lookupByName("nobody")
    except libvirt.libvirtError:
        print(len(heard))
"""


@pytest.mark.parametrize("first", ["libvirt", "virtmeter"])
def test_another_user_of_libvirt_still_sees_its_own_errors_on_stderr(first: str) -> None:
    completed = run(ANOTHER_USER_OF_LIBVIRT, first, "default")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout == "0\n"
    [printed] = completed.stderr.splitlines()
    assert printed.startswith("libvirt:")


def test_a_handler_that_libvirt_pythons_user_has_set_stays() -> None:
    completed = run(ANOTHER_USER_OF_LIBVIRT, "libvirt", "handled")
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "1\n", "")


def test_warnings_reach_logging_and_its_levels_are_obeyed(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.add(domain := sample.domain(uuid=sample.UUID))
    domain.disks = {}
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    assert list(inspector.inspect_disks(sample.UUID)) == []
    [record] = caplog.records
    assert record.name.split(".")[0] == "virtmeter"
    caplog.clear()
    with caplog.at_level("ERROR", logger="virtmeter"):
        assert list(inspector.inspect_disks(sample.UUID)) == []
    assert caplog.records == []


def test_what_a_logging_handler_raises_comes_out_of_the_call(daemon: Daemon) -> None:
    class Interrupted(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise KeyboardInterrupt(record.getMessage())

    daemon.add(domain := sample.domain(uuid=sample.UUID))
    domain.disks = {}
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    handler = Interrupted()
    logging.getLogger("virtmeter").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="vda"):
            inspector.inspect_disks(sample.UUID)
    finally:
        logging.getLogger("virtmeter").removeHandler(handler)
    assert list(inspector.inspect_disks(sample.UUID)) == []


def test_a_finalizer_within_a_logging_handler_may_call(daemon: Daemon) -> None:
    told: list[object] = []

    class HeldError(Exception):
        def __del__(self) -> None:
            try:
                told.append(inspector.health())
            except BaseException as error:  # noqa: BLE001 - a panic is no Exception
                told.append(error)

    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            HeldError()  # Which goes while the line is logged.
            raise HeldError(record.getMessage())

    daemon.add(*(sample.domain(number) for number in (1, 2, 3)))
    daemon.on("DOMAIN_GET_XML_DESC", Error(1, VIR_FROM_QEMU), repeat=True)
    handler = Raising()
    logging.getLogger("virtmeter").addHandler(handler)
    try:
        with virtmeter.LibvirtInspector(daemon.uri) as inspector:
            # One line for each, and so each call ends with one.
            for number in (1, 2, 3):
                with pytest.raises(HeldError, match=f"sample-{number}"):
                    inspector.list_servers()
            # One goes while each line is logged, and one once its call has ended.
            assert len(told) == 6
            assert all(isinstance(each, virtmeter.Health) for each in told), told
    finally:
        logging.getLogger("virtmeter").removeHandler(handler)


def test_a_signal_is_seen_to_while_a_call_waits(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    daemon.on("DOMAIN_MEMORY_STATS", Never())
    script = """
        import sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=100)
        try:
            inspector.inspect_instance(sys.argv[2])
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = start(script, daemon.uri, sample.UUID)
    assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_MEMORY_STATS"] == 1, timeout=30)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("interrupted\n", "")
    assert process.returncode == 0


def test_a_signal_is_seen_to_while_others_have_their_answers(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID), other := sample.domain(2))
    daemon.on("DOMAIN_MEMORY_STATS", Never(), uuid=sample.UUID)
    script = """
        import sys, threading, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=100)
        def poll():
            while True:
                inspector.inspect_vnics(sys.argv[3])
        for _ in range(2):
            threading.Thread(target=poll, daemon=True).start()
        try:
            inspector.inspect_instance(sys.argv[2])
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = start(script, daemon.uri, sample.UUID, other.uuid)
    assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_MEMORY_STATS"] == 1, timeout=30)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("interrupted\n", "")


@pytest.mark.parametrize("answer", [Never(), Late(0.05)], ids=["while one hangs", "between two"])
def test_a_signal_ends_a_whole_pass_over_the_host(daemon: Daemon, answer: Never | Late) -> None:
    daemon.add(*(sample.domain(number, bulk=True) for number in range(1, 201)))
    for uuid in daemon.domains:
        daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", answer, uuid=uuid, repeat=True)
    script = """
        import sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=100)
        try:
            inspector.usage_all()
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = start(script, daemon.uri)
    # The first one lists them.
    asked = "CONNECT_GET_ALL_DOMAIN_STATS"
    assert daemon.wait_until(lambda daemon: daemon.calls[asked] > 1, timeout=30)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("interrupted\n", "")
    assert daemon.calls[asked] < 200


@pytest.mark.parametrize("call", ["inspect_disks", "usage_all"])
def test_a_process_that_was_stopped_blames_nobody(daemon: Daemon, call: str) -> None:
    """As by Ctrl-Z, or in a container that was paused."""
    daemon.add(*(sample.domain(number, bulk=True) for number in (1, 2, 3)))
    go_on = threading.Event()
    asked = "CONNECT_GET_ALL_DOMAIN_STATS"
    for uuid in daemon.domains:
        daemon.on(asked, Then(lambda _: go_on.wait(60)), uuid=uuid)
    script = """
        import logging, sys, virtmeter
        logging.basicConfig(level="INFO", stream=sys.stdout)
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=3)
        call = getattr(inspector, sys.argv[2])
        print(len(list(call(*sys.argv[3:]))), inspector.health().hung)
    """
    instance = list(daemon.domains)[:1] if call == "inspect_disks" else []
    begun = 0 if instance else 1  # the first one lists them
    with start(script, daemon.uri, call, *instance) as process:
        assert daemon.wait_until(lambda daemon: daemon.calls[asked] > begun, timeout=30)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.5)  # longer than the timeout
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # it has had time to blame somebody
        go_on.set()
        output, errors = process.communicate(timeout=30)
    found = 1 if instance else 3
    assert (process.returncode, output, errors) == (0, f"{found} {{}}\n", "")


def test_what_was_read_before_the_process_was_stopped_is_read_anew(daemon: Daemon) -> None:
    """Else it would date from after that, and rates would have a gap and a peak."""
    daemon.add(domain := sample.domain(uuid=sample.UUID, bulk=True))
    go_on = threading.Event()
    asked = "CONNECT_GET_ALL_DOMAIN_STATS"
    daemon.on(asked, Then(lambda _: go_on.wait(60)), uuid=sample.UUID)
    script = """
        import sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=3)
        print(next(inspector.inspect_vnics(sys.argv[2])).rx_bytes)
    """
    with start(script, daemon.uri, sample.UUID) as process:
        assert daemon.wait_until(lambda daemon: daemon.calls[asked] == 1, timeout=30)
        process.send_signal(signal.SIGSTOP)
        go_on.set()
        time.sleep(1.5)  # less than the timeout
        domain.interfaces = {"tap1": (1000, 0, 0, 0, 0, 0, 0, 0)}
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=30) == ("1000\n", "")


def test_dropping_an_inspector_neither_waits_nor_logs(daemon: Daemon) -> None:
    daemon.on("CONNECT_CLOSE", Never(), repeat=True)
    script = """
        import logging, sys, virtmeter
        inspectors = [virtmeter.LibvirtInspector(sys.argv[1]) for _ in range(20)]
        for inspector in inspectors:
            inspector.list_instances()
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logging.getLogger("virtmeter").addHandler(handler)
        del inspector, inspectors
        print(lines)
    """
    assert lines(run(script, daemon.uri)) == ["[]"]


def test_an_exception_outlives_the_inspector_that_raised_it(daemon: Daemon) -> None:
    """A temporary inspector is dropped while its exception is on the way to its handler."""
    daemon.on("CONNECT_CLOSE", Never(), repeat=True)
    script = """
        import gc, logging, sys, virtmeter
        logging.basicConfig(level="DEBUG", stream=open("/dev/null", "w"))
        uuid = "6695eb01-0000-0000-0000-97f2502e193f"
        try:
            virtmeter.LibvirtInspector(sys.argv[1]).inspect_instance(uuid)
        except virtmeter.InstanceNotFoundException as error:
            print(error.instance_id == uuid)
        class Holder:
            def __init__(self):
                self.inspector, self.holder = virtmeter.LibvirtInspector(sys.argv[1]), self
                self.inspector.list_instances()
        Holder()
        gc.collect()
        print("collected")
    """
    assert lines(run(script, daemon.uri)) == ["True", "collected"]


def test_what_health_raises_is_not_left_to_the_next_call() -> None:
    """What a log handler raises, a Ctrl-C say, comes out of the call that has logged."""

    class Interrupted(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise KeyboardInterrupt(record.getMessage())

    logger, handler = logging.getLogger("virtmeter"), Interrupted()
    with Daemon() as daemon:
        inspector = virtmeter.LibvirtInspector(daemon.uri)
        daemon.stop()
        with pytest.raises(virtmeter.ConnectionLost):
            inspector.list_instances()
        daemon.start()
        # The probing thread leaves a line to the next caller.
        wait_for(lambda: inspector.connected, "it is reached again")
        logger.addHandler(handler)
        logger.setLevel("INFO")
        try:
            with pytest.raises(KeyboardInterrupt, match="connected to"):
                inspector.health()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
        assert inspector.list_instances() == []


def test_no_signal_is_delivered_to_a_thread_of_the_core(daemon: Daemon) -> None:
    """It would not interrupt what the main thread waits for."""
    daemon.add(sample.domain(uuid=sample.UUID))
    daemon.on("DOMAIN_MEMORY_STATS", Never(), repeat=True)
    script = """
        import os, pathlib, signal, sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=0.5)
        try:
            inspector.inspect_instance(sys.argv[2])
        except virtmeter.InspectionTimeout:
            pass
        wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD}
        about_a_thread = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGPROF}
        found = set()
        for status in pathlib.Path("/proc/self/task").glob("*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue  # it has ended
            fields = dict(line.split(":", 1) for line in text.splitlines())
            mask = int(fields["SigBlk"], 16)
            blocked = {each for each in signal.Signals if mask >> each - 1 & 1}
            name = fields["Name"].strip()
            if name.startswith("virtmeter-"):
                found.add((name, blocked >= wanted, not blocked & about_a_thread))
            elif status.parent.name == str(os.getpid()):
                assert not blocked, (name, blocked)
        print(sorted(found))
    """
    all_of_them = [("virtmeter-probe", True, True), ("virtmeter-read", True, True)]
    assert lines(run(script, daemon.uri, sample.UUID)) == [str(all_of_them)]


def test_a_forked_child_gets_a_connection_of_its_own(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    script = """
        import os, sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], read_ahead=0)
        def read():
            return repr([list(method(sys.argv[2])) for method in (
                inspector.inspect_instance, inspector.inspect_vnics,
                inspector.inspect_disks, inspector.inspect_disk_info)])
        before = read()
        child = os.fork()
        if child == 0:
            if inspector.connected:
                os._exit(2)
            status = 0 if read() == before and inspector.connected else 3
            del inspector
            os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert inspector.connected
        assert read() == before
        print("same")
    """
    assert lines(run(script, daemon.uri, sample.UUID)) == ["same"]
    assert daemon.connections == 2, "the parent's connection has survived the child's end"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
def test_a_child_with_its_parents_pid(daemon: Daemon) -> None:
    """Both are the first of their pid namespace, as in containers."""
    daemon.add(sample.domain(uuid=sample.UUID))
    script = """
        import ctypes, os, sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        before = inspector.inspect_instance(sys.argv[2])
        CLONE_NEWPID = 0x20000000
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) == 0
        child = os.fork()
        if child == 0:
            if os.getpid() != 1 or inspector.connected or inspector.health().calls["open"]:
                os._exit(2)
            os._exit(0 if inspector.inspect_instance(sys.argv[2]) == before else 3)
        assert os.getpid() == 1
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), inspector.connected)
        assert inspector.inspect_instance(sys.argv[2]) == before
    """
    completed = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            sys.executable,
            "-c",
            textwrap.dedent(script),
            daemon.uri,
            sample.UUID,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert lines(completed) == ["0 True"]


def test_a_fork_while_other_threads_hold_every_lock(daemon: Daemon) -> None:
    """All its threads are in calls or wait for one: the child must not wait for any of them."""
    daemon.add(sample.domain(uuid=sample.UUID))
    # Two workers open, and the probe. Once all have sent their calls, none of them is in a part of
    # libvirt whose locks a child would find taken, against which nothing helps.
    daemon.on("CONNECT_OPEN", Never(), Never(), Never())
    script = """
        import os, sys, threading, virtmeter
        inspector = virtmeter.LibvirtInspector(
            sys.argv[1], timeout=100, workers=2, max_stuck=0)
        for method in (inspector.inspect_vnics, inspector.inspect_disks) * 2:
            threading.Thread(target=method, args=(sys.argv[2],), daemon=True).start()
        sys.stdin.readline()
        child = os.fork()
        if child == 0:
            status = 0 if len(list(inspector.inspect_vnics(sys.argv[2]))) == 1 else 2
            inspector.close()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    process = start(script, daemon.uri, sample.UUID)
    assert daemon.wait_until(lambda daemon: daemon.calls["CONNECT_OPEN"] == 3, timeout=30)
    assert process.communicate("\n", timeout=30) == ("0\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("child", ["returns", "raises"])
def test_a_child_that_a_signals_handler_forks_asks_anew(daemon: Daemon, child: str) -> None:
    """It goes on in the middle of its parent's call, which no thread of its own works on."""
    daemon.add(sample.domain(uuid=sample.UUID, bulk=True))
    go_on = threading.Event()
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", Then(lambda _: go_on.wait(60)), uuid=sample.UUID)
    script = """
        import os, signal, sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=20, read_ahead=0)
        children = []
        def fork(*_):
            children.append(os.fork())
            if sys.argv[3] == "raises" and children == [0]:
                raise ZeroDivisionError
        signal.signal(signal.SIGUSR1, fork)
        def read():
            return [nic.name for nic in inspector.inspect_vnics(sys.argv[2])]
        try:
            names = read()
        except ZeroDivisionError:
            names = read()
        if children == [0]:
            os._exit(0 if names == ["tap1"] else 2)
        print(names, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    """
    with start(script, daemon.uri, sample.UUID, child) as process:
        asked = "CONNECT_GET_ALL_DOMAIN_STATS"
        assert daemon.wait_until(lambda daemon: daemon.calls[asked] == 1, timeout=30)
        process.send_signal(signal.SIGUSR1)
        asked_anew = daemon.wait_until(lambda daemon: daemon.calls[asked] == 2, timeout=10)
        go_on.set()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "['tap1'] 0\n", "")
    assert asked_anew, "while its parent waits"


def test_a_process_ends_while_a_call_hangs(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    daemon.on("DOMAIN_MEMORY_STATS", Never())
    script = """
        import sys, threading, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        inspector.list_instances()
        call = threading.Thread(target=inspector.inspect_instance, args=(sys.argv[2],), daemon=True)
        call.start()
        sys.stdin.readline()
        print("end")
    """
    process = start(script, daemon.uri, sample.UUID)
    assert daemon.wait_until(lambda daemon: daemon.calls["DOMAIN_MEMORY_STATS"] == 1, timeout=30)
    output, errors = process.communicate("\n", timeout=30)
    assert (process.returncode, output, errors) == (0, "end\n", "")


def test_a_connection_that_does_not_close_at_the_end_of_the_process(daemon: Daemon) -> None:
    daemon.on("CONNECT_CLOSE", Never())
    script = """
        import sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        print(len(inspector.list_instances()))
    """
    assert lines(run(script, daemon.uri)) == ["0"]


def test_an_answer_that_comes_while_the_interpreter_ends(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    ending = threading.Event()
    daemon.on("DOMAIN_BLOCK_STATS_FLAGS", Then(lambda _: ending.wait(30)), repeat=True)
    daemon.domains[sample.UUID].disks = {}
    # A daemon thread is in a call, whose refusal is to be logged, when the interpreter has ended
    # its threads and waits in an exit function of the C library.
    script = """
        import ctypes, sys, threading, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        call = threading.Thread(target=inspector.inspect_disks, args=(sys.argv[2],), daemon=True)
        call.start()
        class Last:
            def __del__(self, getchar=ctypes.CDLL(None).getchar):
                getchar()
        sys.last = Last()
        sys.stdin.readline()
    """
    process = start(script, daemon.uri, sample.UUID)
    assert process.stdin is not None
    assert daemon.wait_until(
        lambda daemon: daemon.calls["DOMAIN_BLOCK_STATS_FLAGS"] == 1, timeout=30
    )
    process.stdin.write("\n")
    process.stdin.flush()
    ending.set()
    output, errors = process.communicate("\n", timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")


def test_ten_thousand_calls_of_each_method_do_not_grow_the_process(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    daemon.on("DOMAIN_BLOCK_STATS_FLAGS", *[Error(1, VIR_FROM_QEMU, "refused")] * 50)
    script = """
        import json, os, sys, time, virtmeter
        uuid = sys.argv[2]
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        methods = [inspector.inspect_instance, inspector.inspect_vnics, inspector.inspect_disks,
                   inspector.inspect_disk_info]
        def usage():
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            inspector.close()
            deadline = time.monotonic() + 30
            while inspector.health().connections and time.monotonic() < deadline:
                time.sleep(0.01)
            return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        def call(times):
            for _ in range(times):
                for method in methods:
                    list(method(uuid))
                try:
                    inspector.inspect_instance("00000000-0000-0000-0000-000000000000")
                except virtmeter.InstanceNotFoundException:
                    pass
        call(500)
        before = usage()
        call(10_000)
        print(json.dumps([before, usage()]))
    """
    [printed] = lines(run(script, daemon.uri, sample.UUID))
    (memory, descriptors, _), after = json.loads(printed)
    assert after[0] - memory < 1024 * 1024
    assert after[1] == descriptors
    assert after[2] <= 1 + 6, "the main thread and the workers"


def test_vms_that_are_gone_leave_nothing_behind(daemon: Daemon) -> None:
    """As on a host that starts and deletes thousands in a day, with a caller that lists them."""
    script = """
        import gc, os, sys, virtmeter
        inspector = virtmeter.LibvirtInspector(sys.argv[1])
        methods = [inspector.inspect_instance, inspector.inspect_vnics, inspector.inspect_disks,
                   inspector.inspect_disk_info, inspector.inspect_vnic_rates,
                   inspector.inspect_disk_rates]
        while sys.stdin.readline():
            for method in methods:
                for instance in inspector.list_instances():
                    list(method(instance))
            inspector.usage_all(caller="billing")
            gc.collect()
            with open("/proc/self/statm") as statm:
                print(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"), flush=True)
    """
    vms = 50
    with start(script, daemon.uri) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        memory = []
        for first in range(1, 50 * vms, vms):
            daemon.domains.clear()
            daemon.add(*(sample.domain(number, bulk=True) for number in range(first, first + vms)))
            process.stdin.write("\n")
            process.stdin.flush()
            memory.append(int(process.stdout.readline()))
        assert process.communicate(timeout=30) == ("", "")
    assert memory[-1] - memory[9] < 40 * vms * 700, "bytes for each that has gone"


def test_reconnecting_a_thousand_times_leaves_nothing_behind(daemon: Daemon) -> None:
    daemon.add(sample.domain(uuid=sample.UUID))
    script = """
        import json, os, sys, time, virtmeter
        def usage():
            # A thread that has closed a connection may be on its way out.
            deadline = time.monotonic() + 10
            while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        def connect(times):
            for _ in range(times):
                with virtmeter.LibvirtInspector(sys.argv[1]) as inspector:
                    inspector.inspect_instance(sys.argv[2])
        connect(10)
        before = usage()
        connect(1000)
        print(json.dumps([before, usage()]))
    """
    [printed] = lines(run(script, daemon.uri, sample.UUID))
    before, after = json.loads(printed)
    assert before == after
    assert daemon.wait_until(lambda daemon: daemon.open_connections == 0)


def test_eight_threads_for_half_a_minute_give_only_right_answers(daemon: Daemon) -> None:
    numbers = range(1, 9)
    daemon.add(*(sample.domain(number) for number in numbers))
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    end = time.monotonic() + 30
    expected = {number: sample.answers(number) for number in numbers}
    wrong: list[object] = []

    def ask(thread: int) -> int:
        rounds = 0
        while time.monotonic() < end and not wrong:
            number = numbers[(thread + rounds) % len(numbers)]
            for method in METHODS:
                answer = sample.read(inspector, method, sample.domain(number).uuid)
                if answer != expected[number][method]:
                    wrong.append((method, answer, expected[number][method]))
            rounds += 1
        return rounds

    counted = 0
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, thread) for thread in range(8)]
        # Another thread, which has nothing to do with libvirt, keeps running meanwhile.
        while not all(thread.done() for thread in asking):
            counted += 1
            threading.Event().wait(0.01)
        assert all(thread.result() > 10 for thread in asking)
    assert wrong == []
    assert counted > 100
    assert daemon.connections <= 6, "no more than there are workers"


def test_overlapping_readings_neither_lose_nor_double_bytes(daemon: Daemon) -> None:
    domain = sample.domain(uuid=sample.UUID)
    daemon.add(domain)
    inspector = virtmeter.LibvirtInspector(daemon.uri)
    [first] = inspector.inspect_vnics(sample.UUID)
    done = threading.Event()

    def traffic() -> None:
        counter = first.rx_bytes
        while not done.is_set():
            counter += 1000
            done.wait(0.0002)
            domain.interfaces = {"tap1": (counter, 0, 0, 0, 2 * counter, 0, 0, 0)}

    def ask(_: int) -> tuple[int, int]:
        received = sent = 0
        for _ in range(200):
            [vnic] = inspector.inspect_vnics(sample.UUID)
            assert vnic.rx_bytes_delta >= 0
            received += vnic.rx_bytes_delta
            sent += vnic.tx_bytes_delta
        return received, sent

    with ThreadPoolExecutor(9) as pool:
        pool.submit(traffic)
        sums = list(pool.map(ask, range(8)))
        done.set()
    [last] = inspector.inspect_vnics(sample.UUID)
    received = sum(received for received, _ in sums) + last.rx_bytes_delta
    sent = sum(sent for _, sent in sums) + last.tx_bytes_delta
    assert received == last.rx_bytes - first.rx_bytes
    assert sent == last.tx_bytes - first.tx_bytes


@within_limits
def test_where_no_thread_can_be_started_nobody_is_said_to_hang(
    daemon: Daemon, domains: list[Domain]
) -> None:
    told = lines(
        run(
            """
            import logging, os, resource, sys
            import virtmeter

            logging.disable()
            inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=1)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            if os.geteuid() == 0:
                os.setuid(65534)  # root has no limit
            calls = (
                inspector.list_instances,
                inspector.usage_all,
                lambda: inspector.inspect_instance(sys.argv[2]),
            )
            for call in calls:
                try:
                    call()
                except virtmeter.NoDataException as error:
                    print(error)
            print(inspector.health().hung)
            """,
            daemon.uri,
            domains[0].uuid,
        )
    )
    why = ": cannot start a thread: check the limits (ulimit -u, TasksMax)"
    assert told == [
        *[f"cannot list the instances of {daemon.uri}{why}"] * 2,
        f"instance {domains[0].uuid} was not read within 1s{why}",
        "{}",
    ]


def test_where_descriptors_are_lacking_it_is_told(daemon: Daemon) -> None:
    """GLib, on which libvirt stands, ends a process in which it lacks one."""
    told = lines(
        run(
            """
            import logging, os, resource, sys
            import virtmeter

            logging.disable()
            taken = [os.open("/dev/null", os.O_RDONLY)]
            while taken[-1] < 40:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            for left in (0, 1, 2, 3, 60):
                resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + left, most))
                try:
                    print(len(virtmeter.LibvirtInspector(sys.argv[1]).list_instances()))
                except virtmeter.ConnectionLost as error:
                    print(error)
            """,
            daemon.uri,
        )
    )
    why = "fewer than 16 file descriptors are left: check the limits (ulimit -n, LimitNOFILE)"
    why += "; virtmeter keeps trying"
    assert told == [*[f"no connection to {daemon.uri}: {why}"] * 4, "0"]


NO_MORE_THREADS = """
    import logging, os, resource, sys, time
    import virtmeter

    logging.disable()
    inspector = virtmeter.LibvirtInspector(sys.argv[1], timeout=1, max_age=0)
    disks = lambda uuid: list(inspector.inspect_disks(uuid))

    def is_read(uuid):
        try:
            return bool(disks(uuid))
        except virtmeter.InspectorException:
            return False

    def told(call, *arguments):
        try:
            call(*arguments)
        except virtmeter.InspectorException as error:
            print(error, flush=True)

    def wait_until_read(uuid):
        end = time.monotonic() + 60
        while not is_read(uuid) and time.monotonic() < end:
            time.sleep(0.05)
        print("is read:", is_read(uuid), flush=True)

    well, other = sys.argv[2:]
    disks(well)
    # Root has no limit, and nobody else has these two.
    resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
    os.setuid(60000 + os.getpid() % 5000)
"""


@as_nobody
def test_a_guest_that_hangs_while_no_thread_can_be_started_is_no_outage(daemon: Daemon) -> None:
    daemon.add(well := sample.domain(1, bulk=True), hung := sample.domain(2, bulk=True))
    hung.hung = True
    script = f"""{NO_MORE_THREADS}
    told(disks, other)
    told(disks, well)
    told(inspector.list_instances)
    print(inspector.health().outage, flush=True)
    sys.stdin.readline()
    wait_until_read(well)
    wait_until_read(other)
    """
    process = start(script, daemon.uri, well.uuid, hung.uuid)
    assert process.stdout is not None
    why = "cannot start a thread: check the limits (ulimit -u, TasksMax)"
    assert [process.stdout.readline() for _ in range(4)] == [
        f"instance {hung.uuid} was not read within 1s: its guest hangs. It is read again once it "
        "answers; check its process and storage\n",
        f"instance {well.uuid} was not read within 1s: {why}\n",
        f"cannot list the instances of {daemon.uri}: {why}\n",
        "None\n",
    ]
    hung.hung = False
    assert process.communicate("\n", timeout=180) == ("is read: True\n" * 2, "")
    assert hung.most_asking == 1


@as_nobody
def test_others_are_read_with_the_last_thread_while_a_guest_hangs(daemon: Daemon) -> None:
    """It is not kept for asking after the one that hangs."""
    daemon.add(well := sample.domain(1, bulk=True), hung := sample.domain(2, bulk=True))
    daemon.socket_path.parent.chmod(0o755)
    daemon.socket_path.chmod(0o777)
    hung.hung = True
    script = f"""{NO_MORE_THREADS.replace("(2, 2)", "(3, 3)")}
    told(disks, other)
    wait_until_read(well)
    print(len(inspector.list_instances()), flush=True)
    sys.stdin.readline()
    wait_until_read(other)
    wait_until_read(well)
    """
    process = start(script, daemon.uri, well.uuid, hung.uuid)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == [
        f"instance {hung.uuid} was not read within 1s: its guest hangs. It is read again once it "
        "answers; check its process and storage\n",
        "is read: True\n",
        "2\n",
    ]
    hung.hung = False
    assert process.communicate("\n", timeout=180) == ("is read: True\n" * 2, "")
    assert hung.most_asking == 1


@as_nobody
def test_an_outage_ends_while_no_thread_can_be_started(daemon: Daemon) -> None:
    daemon.add(*(domains := [sample.domain(number, bulk=True) for number in (1, 2)]))
    daemon.socket_path.parent.chmod(0o755)
    script = f"""{NO_MORE_THREADS}
    print("ready", flush=True)
    sys.stdin.readline()
    print("is read:", is_read(other), flush=True)
    sys.stdin.readline()
    wait_until_read(other)
    """
    process = start(script, daemon.uri, *(domain.uuid for domain in domains))
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    daemon.stop()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "is read: False\n"
    daemon.start()
    daemon.socket_path.chmod(0o777)
    assert process.communicate("\n", timeout=180) == ("is read: True\n", "")
