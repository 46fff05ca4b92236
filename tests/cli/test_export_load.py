"""``virtmeter export`` when more is asked of it than it can do, or by clients that do nothing."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import COMMAND, Exporter, everything
from tests.support import sample
from tests.support.libvirtd import Never
from tests.support.qemu import wait_for
from tests.support.threads import WITHOUT_MEMORY
from virtmeter.cli.export.places import GRACE
from virtmeter.cli.export.server import LEAST, TICK, TO_HANG_UP, bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.libvirtd import Daemon

TEST = "test:///default"
FEW = 180
"""Descriptors; with one worker, 40 of them are for clients."""
BOUND = bounds(40)


def has_ended(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_flood_of_silent_clients_leaves_one_that_is_slow_its_time() -> None:
    with Exporter(TEST, "--workers", "1", descriptors=FEW) as exporter, ExitStack() as stack:

        def silent(count: int) -> list[socket.socket]:
            return [stack.enter_context(exporter.connect("GET ")) for _ in range(count)]

        early = silent(BOUND.clients)
        time.sleep(GRACE + 0.5)
        honest = stack.enter_context(exporter.connect("GET /-/healthy HTTP/1.1\r\n"))
        late = silent(BOUND.clients - 5)
        wait_for(lambda: sum(map(has_ended, early)) == len(late) + 1, "the others had their time")
        honest.sendall(b"\r\n")
        assert everything(honest).startswith(b"HTTP/1.1 200 ")
        assert not any(map(has_ended, late))


def scrape(timeout: float) -> str:
    return f"GET /metrics HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: {timeout}\r\n\r\n"


@pytest.fixture
def hanging(daemon: Daemon) -> Iterator[Exporter]:
    """An exporter of a host where one question of a pass is never answered."""
    daemon.add(sample.domain())
    daemon.on("DOMAIN_GET_BLOCK_INFO", Never())
    options = ("--workers", "1", "--timeout", "60")
    with Exporter(daemon.uri, *options, descriptors=FEW) as exporter:
        yield exporter


def test_so_many_scrapes_wait_and_the_next_one_is_told_at_once(hanging: Exporter) -> None:
    with ThreadPoolExecutor(BOUND.scrapes + 1) as pool:
        asked = [pool.submit(hanging.ask, scrape(8)) for _ in range(BOUND.scrapes + 1)]
        refused = next(as_completed(asked))
        assert sum(each.done() for each in asked) == 1
        assert refused.result().startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in refused.result()
        assert refused.result().endswith(b"Too many concurrent scrapes; try again.\n")
        for each in asked:
            if each is not refused:
                assert each.result().startswith(b"HTTP/1.1 200 ")


def test_scrapes_whose_clients_have_gone_keep_nobody_out(hanging: Exporter) -> None:
    for _ in range(3 * BOUND.scrapes):
        hanging.connect(scrape(60)).close()

    def is_answered() -> bool:
        # Until it was noticed that they have gone, there may be too many clients.
        with suppress(ConnectionError):
            return hanging.scrape(2)("virtmeter_scrape_complete") == 0
        return False

    wait_for(is_answered, "it is answered")


def test_another_address_that_has_all_places_keeps_nobody_out(hanging: Exporter) -> None:
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(hanging.connect(scrape(60), source="127.0.0.2"))
            for _ in range(BOUND.scrapes + 1)
        ]
        wait_for(lambda: sum(map(has_ended, waiting)) == 1, "all places are taken")
        assert hanging.scrape(2)("virtmeter_scrape_complete") == 0
        assert sum(map(has_ended, waiting)) == 2


def refusal(descriptors: int, workers: int) -> tuple[int, int]:
    """Start it with so many, and return how many it says that it needs, and has."""
    return refused(descriptors, "export", "--listen", "127.0.0.1:0", "--workers", str(workers))


def refused(descriptors: int, *command: str, uri: str | None = TEST) -> tuple[int, int]:
    """Run a command with so many, and return how many it says that it needs, and has."""
    done = subprocess.run(
        [
            *("prlimit", f"--nofile={descriptors}:{descriptors}"),
            *(*COMMAND, *command, *(("--uri", uri) if uri else ())),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "raise the limit" in line
    found = re.search(r"(\d+) file descriptors are needed, and only (\d+) are allowed", line)
    assert found
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("workers", [1, 6])
def test_it_does_not_start_with_too_few_descriptors_and_serves_with_just_enough(
    workers: int,
) -> None:
    least, has = refusal(20, workers)
    assert has == 20
    assert refusal(least - 1, workers) == (least, least - 1)
    options = ("--workers", str(workers))
    with Exporter(TEST, *options, descriptors=least) as exporter, ExitStack() as stack:
        exporter.flood(LEAST + 10, stack)
        for _ in range(2):
            assert exporter.scrape()("virtmeter_scrape_complete") == 1
    assert "cannot accept" not in exporter.said


def test_just_enough_descriptors_are_enough_while_vms_hang_and_clients_flood_it(
    daemon: Daemon,
) -> None:
    """libvirt's library would end the process: each VM that hangs keeps a connection."""
    domains = [sample.domain(number, bulk=True) for number in range(1, 21)]
    daemon.add(*domains)
    options = ("--workers", "4", "--timeout", "0.5", "--deadline", "2")
    least, _ = refusal(20, 4)
    with Exporter(daemon.uri, *options, descriptors=least) as exporter, ExitStack() as stack:
        assert exporter.scrape()("virtmeter_scrape_complete") == 1
        for domain in domains[:12]:
            domain.hung = True
        for _ in range(3):
            exporter.flood(LEAST, stack)
            assert exporter.scrape()("virtmeter_up") == 1
            assert exporter.process.poll() is None
        for domain in domains:
            domain.hung = False
    assert "Too many open files" not in exporter.said


def test_many_targets_need_the_descriptors_for_one_of_libvirts(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.add(sample.domain())
    file = tmp_path / "targets.toml"

    def write(workers: int) -> None:
        table = f'uri = "{daemon.uri}"\nworkers = {workers}\n'
        file.write_text(f"[targets.a]\n{table}[targets.b]\n{table}")

    write(50)
    command = ("export", "--listen", "127.0.0.1:0", "--targets", str(file))
    least, has = refused(20, *command, uri=None)
    assert has == 20
    assert refused(least - 1, *command, uri=None) == (least, least - 1)
    with Exporter(None, *command[3:], descriptors=least) as exporter, ExitStack() as stack:
        for name in ("a", "b", "a"):
            exporter.flood(2 * LEAST, stack)
            assert b"\nvirtmeter_up 1.0\n" in exporter.ask(probe(name))
        taken = list(Path(f"/proc/{exporter.process.pid}/fd").iterdir())
        assert len(taken) < least // 4  # the others are for a host where VMs hang
        write(51)
        answer = exporter.ask("POST /-/reload HTTP/1.1\r\n\r\n")
        assert f"with 51 workers, {least + 4} file descriptors are needed".encode() in answer
    assert "Too many open files" not in exporter.said


def test_pools_alone_need_descriptors_as_well(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    uri = "xenserver://root@127.0.0.1:9/?password_file=/nowhere"
    file.write_text("".join(f'[targets.pool{number}]\nuri = "{uri}"\n' for number in range(3)))
    command = ("export", "--listen", "127.0.0.1:0", "--targets", str(file))
    least, has = refused(40, *command, uri=None)
    assert has == 40
    assert least >= 48
    with Exporter(None, *command[3:], descriptors=least) as exporter:
        assert b"virtmeter_target_open" in exporter.ask("GET /metrics HTTP/1.1\r\n\r\n")


def probe(target: str) -> str:
    return f"GET /probe?target={target} HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("command", [("stats",), ("watch", "--count", "1"), ("export", "--once")])
def test_no_command_is_ended_by_libvirts_library_for_want_of_descriptors(
    command: tuple[str, ...],
) -> None:
    needed, has = refused(12, *command)
    assert has == 12 < needed


SERVER = """
from http import HTTPStatus
from virtmeter.cli.export import server
from virtmeter.cli.export.access import Access
from virtmeter.cli.export.messages import Answer
from virtmeter.cli.export.texts import Text

class Pages:
    text = Text(bytes(50_000_000))

    def answer(self, request, connection):
        if request.path == "/drop":
            self.text.drop()
            return Answer(HTTPStatus.OK, (b"dropped",))
        return Answer(HTTPStatus.OK, (self.text,))

server.TO_SEND, server.TO_RECEIVE = {seconds}
bound = server.Bounds(40, 20, 10)
listening = server.Server("127.0.0.1", 0, Access(None, None, None, None), Pages(), bound)
print(listening.port, flush=True)
listening.serve_forever()
"""


@contextmanager
def server(to_send: float, to_receive: float) -> Iterator[Callable[[str], socket.socket]]:
    """Run a server with great answers, and give what connects to it."""
    script = SERVER.format(seconds=(to_send, to_receive))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        def connect(sent: str) -> socket.socket:
            client = socket.socket()
            client.settimeout(30)
            # What is not received stays with the server.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", port))
            client.sendall(sent.encode())
            return client

        yield connect
    finally:
        process.kill()
        process.communicate()


WITHOUT_THREADS = """
import _thread, logging

logging.basicConfig()

def start(*arguments, **named):
    raise {problem}

_thread.start_new_thread = _thread.start_joinable_thread = start
"""

FIRST_WITHOUT_MEMORY = f"""{WITHOUT_MEMORY}lost.append(True)

import logging
logging.basicConfig(format="%(message)s")
"""

REQUEST = "GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (RuntimeError("can't start new thread"), ", as no thread can be started for it: "),
        (MemoryError(), ", for lack of memory: "),
    ],
)
def test_a_connection_that_no_thread_is_left_for_is_told(problem: Exception, why: str) -> None:
    script = WITHOUT_THREADS.format(problem=repr(problem)) + SERVER.format(seconds=(60, 60))
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(3):  # it is told after it was closed: the third shows that two were told
            with socket.create_connection(("127.0.0.1", port), 30) as client:
                assert everything(client) == b""
    finally:
        process.kill()
        _, said = process.communicate()
    assert said.count(f"cannot serve a connection{why}check the limits (ulimit") >= 2
    assert "Traceback" not in said


def sockets(pid: int) -> int:
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed
            count += descriptor.readlink().name.startswith("socket:")
    return count


def test_a_connection_whose_thread_has_no_memory_to_begin_with_holds_up_no_other() -> None:
    script = FIRST_WITHOUT_MEMORY + SERVER.format(seconds=(1, 60))
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
    )
    try:
        assert process.stdout is not None
        address = "127.0.0.1", int(process.stdout.readline())
        with (
            socket.create_connection(address, 30) as lost,
            socket.create_connection(address, 30) as other,
        ):
            other.sendall(b"GET /drop HTTP/1.1\r\n\r\n")
            assert everything(other).endswith(b"dropped")
            with suppress(ConnectionResetError):
                assert lost.recv(1) == b"", "it is hung up on"
        wait_for(lambda: sockets(process.pid) == 1, "it only listens")
    finally:
        process.kill()
        _, said = process.communicate()
    assert said == (
        "cannot serve a connection, as its thread did not begin in time: check the limits "
        "(ulimit -v)\n"
    )


def test_who_does_not_send_or_receive_in_time_is_hung_up_on() -> None:
    with server(1, 1) as connect, connect(REQUEST[:9]) as sending, connect(REQUEST) as receiving:
        for client in (sending, receiving):
            poll = select.poll()
            poll.register(client, select.POLLRDHUP)
            assert poll.poll(30_000)


def test_who_receives_slowly_but_in_time_gets_all_of_it() -> None:
    with server(60, 60) as connect, connect(REQUEST) as client:
        left = 50_000_000
        while left > 100_000:  # nearly all: for the server, it is sent
            left -= len(client.recv(65536))
        time.sleep(TO_HANG_UP + 4 * TICK)
        assert len(everything(client)) >= left


def test_answers_that_are_not_received_keep_nobody_out() -> None:
    with server(60, 60) as connect, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(REQUEST))
        time.sleep(GRACE + 0.5)
        with connect(REQUEST) as quick:
            assert len(everything(quick)) > 50_000_000


def test_a_text_that_is_dropped_is_an_answer_that_breaks_off() -> None:
    with server(60, 60) as connect, connect(REQUEST) as slow:
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
        with connect("GET /drop HTTP/1.1\r\n\r\n") as other:
            assert everything(other).endswith(b"dropped")
        received = 0
        with suppress(ConnectionResetError):
            while chunk := slow.recv(65536):
                received += len(chunk)
        assert received < 50_000_000
