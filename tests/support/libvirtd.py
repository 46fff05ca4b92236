"""A libvirt daemon whose every answer is written by the test.

The real client library talks to it through a UNIX socket in libvirt's own RPC protocol
(https://libvirt.org/kbase/internals/rpc.html), so a test sees exactly what that library makes of
an answer: a good one, an error, a late one, none at all, or one that no healthy daemon would send.

    with Daemon() as daemon:
        daemon.add(Domain(uuid="5c3a...", name="instance-00000001"))
        daemon.on("DOMAIN_GET_INFO", Error(VIR_ERR_SYSTEM_ERROR, VIR_FROM_RPC), Late(0.2))
        connection = libvirt.openReadOnly(daemon.uri)

Not modelled: authentication, TLS, events, streams, file descriptors, and any procedure that
changes something.
"""

from __future__ import annotations

import select
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union
from urllib.parse import quote

from tests.support import xdr
from tests.support.procedures import (
    BULK,
    DECODERS,
    PROCEDURES,
    VIR_ERR_INTERNAL_ERROR,
    VIR_ERR_OPERATION_TIMEOUT,
    VIR_ERR_RPC,
    VIR_FROM_NONE,
    VIR_FROM_RPC,
    Domain,
    DomainRef,
    Error,
    Procedure,
    no_domain,
)
from tests.support.waits import NEEDS_JOB, Waits, involved

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from typing_extensions import Self

REMOTE_PROGRAM = 0x20008086
KEEPALIVE_PROGRAM = 0x6B656570
CALL, REPLY, MESSAGE = range(3)
STATUS_OK, STATUS_ERROR = range(2)
PING, PONG = 1, 2
HEADER_BYTES = 24
MAX_MESSAGE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Late:
    """The answer ``then`` (the normal one if None), that many seconds after the call arrived."""

    seconds: float
    then: Answer | None = None


@dataclass(frozen=True)
class Never:
    """No answer until the daemon stops."""


@dataclass(frozen=True)
class HangUp:
    """The client's connection is closed without an answer."""


@dataclass(frozen=True)
class Garbage:
    """These bytes in place of the whole reply."""

    data: bytes


@dataclass(frozen=True)
class Reply:
    """A well-formed reply header and then these bytes; ``xdr`` helps to build them."""

    payload: bytes


@dataclass(frozen=True)
class Then:
    """Calls ``action`` with the daemon, outside the reading thread, and then answers normally."""

    action: Callable[[Daemon], object]


Answer = Union[Error, Late, Never, HangUp, Garbage, Reply, Then]


@dataclass
class _Rule:
    """The answers scripted by one call of ``Daemon.on``."""

    answers: deque[Answer]
    repeat: bool
    mentions: set[str]

    def take(self, mentioned: set[str]) -> Answer | None:
        """The answer for a call that mentions these names, if the rule has one for it."""
        if not self.answers or not self.mentions <= mentioned:
            return None
        last = len(self.answers) == 1
        return self.answers[0] if self.repeat and last else self.answers.popleft()


@dataclass
class _Call:
    """A call that arrived: its header, its decoded arguments, and when its answer is due."""

    program: int
    version: int
    number: int
    serial: int
    procedure: Procedure | None
    args: list[Any]
    due: float

    @property
    def name(self) -> str:
        """The procedure's name, or its number where this daemon has no such procedure."""
        return self.procedure.name if self.procedure else str(self.number)

    def mentioned(self) -> set[str]:
        """The UUIDs, names and devices among the arguments."""
        found = set()
        for arg in self.args:
            for item in arg if isinstance(arg, list) else [arg]:
                found.add(item.uuid if isinstance(item, DomainRef) else item)
        return found

    def reply(self, payload: bytes, status: int = STATUS_OK) -> bytes:
        """The whole reply message."""
        header = (self.program, self.version, self.number, REPLY, self.serial, status)
        return _message(header, payload)


def _message(header: tuple[int, int, int, int, int, int], payload: bytes = b"") -> bytes:
    return xdr.pack("IIIiiIi", 4 + HEADER_BYTES + len(payload), *header) + payload


class _Connection:
    """One client: a thread that reads its calls, and a thread for every call that takes time."""

    def __init__(self, daemon: Daemon, sock: socket.socket, stopped: threading.Event) -> None:
        self._daemon = daemon
        self._sock = sock
        self._stopped = stopped
        self._sending = threading.Lock()
        self._slots = threading.Condition()
        self.unanswered = 0
        self._gone = False

    def run(self) -> None:
        """Reads and answers calls until one of the two ends hangs up."""
        with suppress(OSError, ValueError), self._sock.makefile("rb") as stream:
            while self._slot_is_free():
                self._receive(stream)
        self.hang_up()
        with self._sending:
            self._sock.close()

    def hang_up(self) -> None:
        """Closes the connection; the reading thread notices and ends."""
        with self._slots:
            self._gone = True
            self._slots.notify_all()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _slot_is_free(self) -> bool:
        """Waits until one more call may be read; False when the connection has ended."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        with self._slots:
            while not self._gone and self.unanswered >= self._daemon.max_client_requests:
                if not self._slots.wait(0.02) and poll.poll(0):
                    return False
            return not self._gone

    def _receive(self, stream: BinaryIO) -> None:
        """Reads one message and sees to it; an exception ends the connection."""
        length = xdr.Reader(stream.read(4)).uint32() - 4
        if not HEADER_BYTES <= length <= MAX_MESSAGE_BYTES:
            raise ValueError("no such message length")
        reader = xdr.Reader(stream.read(length))
        program, version, number = reader.uint32(), reader.uint32(), reader.int32()
        kind, serial, _status = reader.int32(), reader.uint32(), reader.int32()
        if (program, number, kind) == (KEEPALIVE_PROGRAM, PING, MESSAGE):
            self._send(_message((program, version, PONG, MESSAGE, serial, STATUS_OK)))
        if kind != CALL:
            return
        known = (program, version) == (REMOTE_PROGRAM, 1)
        procedure = PROCEDURES.get(number) if known else None
        call = _Call(program, version, number, serial, procedure, [], time.monotonic())
        answer: Answer | None = None
        if procedure:
            try:
                call.args = [DECODERS[word](reader) for word in procedure.arguments.split()]
            except ValueError:
                answer = Error(VIR_ERR_RPC, VIR_FROM_RPC, "Unable to decode message payload")
        with self._slots:
            self.unanswered += 1
        answer = self._daemon.arrived(call) or answer
        latency = self._daemon.latency.get(call.name, 0.0)
        if latency > 0:
            answer = Late(latency, answer)
        if isinstance(answer, (Late, Never, Then)) or self._daemon.may_have_to_wait(call):
            self._daemon.spawn(self._execute, call, answer)
        else:
            self._answer(call, answer)

    def _execute(self, call: _Call, answer: Answer | None) -> None:
        """Answers a call that takes time, as soon as there is a worker for it."""
        with self._daemon.waits.worker(call.name, self._stopped) as has_worker:
            if has_worker:
                self._answer(call, answer)

    def _answer(self, call: _Call, answer: Answer | None) -> None:
        """Gives a call this answer, or the normal one."""
        if isinstance(answer, Late):
            call.due += answer.seconds
            if not self._stopped.wait(call.due - time.monotonic()):
                self._answer(call, answer.then)
        elif isinstance(answer, HangUp):
            self.hang_up()
        elif isinstance(answer, Never):
            self._stopped.wait()
        else:
            reply = self._reply(call, answer)
            if self._stopped.is_set():  # what it has waited for has not come
                return
            self._send(reply)
            with self._slots:
                self.unanswered -= 1
                self._slots.notify_all()

    def _reply(self, call: _Call, answer: Error | Garbage | Reply | Then | None) -> bytes:
        """The bytes to send; whatever goes wrong in making them is told to the client."""
        if isinstance(answer, Garbage):
            return answer.data
        if isinstance(answer, Reply):
            return call.reply(answer.payload)
        if isinstance(answer, Error):
            return call.reply(answer.encode(), STATUS_ERROR)
        try:
            if answer:
                answer.action(self._daemon)
            return call.reply(self._daemon.serve(call))
        except Error as error:
            return call.reply(error.encode(), STATUS_ERROR)
        except Exception as error:  # noqa: BLE001
            fault = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_NONE, f"scripted daemon: {error!r}")
            return call.reply(fault.encode(), STATUS_ERROR)

    def _send(self, message: bytes) -> None:
        with self._sending, suppress(OSError):
            self._sock.sendall(message)


class Daemon:
    """The scripted daemon; ``with`` starts and stops it.

    ``domains``: UUID -> domain; a test may change it, and each domain, at any time.
    ``calls``: how many calls of each procedure have arrived.
    ``connections``: how many connections were ever accepted.
    ``latency``: procedure -> seconds that each of its calls takes.
    ``waits``: what calls wait for beside that (``Domain`` has more of it).
    ``max_client_requests``: with so many unanswered calls a connection's next one is not read.
    ``max_clients``: with so many clients, or more, each further one is hung up on.
    """

    def __init__(self, socket_path: Path | None = None) -> None:
        if socket_path is None:
            # The path of a socket has room for 107 bytes, of which TMPDIR may leave none.
            directory = tempfile.mkdtemp(prefix="libvirtd-", dir="/tmp")
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            socket_path = Path(directory, "sock")
        self.socket_path = socket_path
        self.domains: dict[str, Domain] = {}
        self.calls: Counter[str] = Counter()
        self.connections = 0
        self.latency: dict[str, float] = {}
        self.waits = Waits()
        self.max_client_requests = 5
        self.max_clients = 5000
        self._rules: dict[str, list[_Rule]] = {}
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._open: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._stopped = threading.Event()

    @property
    def uri(self) -> str:
        """What to give to virConnectOpen."""
        return f"qemu+unix:///system?socket={quote(str(self.socket_path))}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    def add(self, *domains: Domain) -> None:
        """Puts domains in place, each under its UUID."""
        self.domains.update((domain.uuid, domain) for domain in domains)

    def on(
        self,
        procedure: str,
        *answers: Answer,
        uuid: str | None = None,
        device: str | None = None,
        repeat: bool = False,
    ) -> None:
        """Scripts what the next calls of a procedure get, in order, and then normal service.

        With ``uuid`` or ``device`` only calls that name them count.  With ``repeat`` the last
        answer is given for ever.  Where several scripts match, the oldest that is not used up wins.
        """
        if procedure not in {known.name for known in PROCEDURES.values()}:
            raise ValueError(f"no such procedure: {procedure}")
        mentions = {name for name in (uuid, device) if name is not None}
        with self._changed:
            rules = self._rules.setdefault(procedure, [])
            rules.append(_Rule(deque(answers), repeat, mentions))

    def off(self) -> None:
        """Forgets every script; calls that wait already go on waiting."""
        with self._changed:
            self._rules.clear()

    def wait_until(self, ready: Callable[[Daemon], bool], timeout: float = 5.0) -> bool:
        """Waits for something to become true of the calls or connections counted here."""
        with self._changed:
            return self._changed.wait_for(lambda: ready(self), timeout)

    def start(self) -> None:
        """Listens on the socket path; a socket file left there is replaced."""
        if self._listener:
            raise RuntimeError("the daemon is running already")
        self.socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.socket_path))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        self._stopped = threading.Event()
        self._listener = listener
        self.spawn(self._accept, listener, self._stopped)

    def hang_up_on_the_idle(self) -> None:
        """Hangs up on each client who waits for no answer."""
        for connection in [each for each in self._open if not each.unanswered]:
            connection.hang_up()

    def stop(self, keep_socket_file: bool = False) -> None:
        """Stops listening, hangs up on every client and ends every thread."""
        with self._changed:
            listener, self._listener = self._listener, None
            self._stopped.set()
        if listener is None:
            return
        with suppress(OSError):  # the accepting thread may have closed it already
            listener.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self._changed.wait_for(lambda: listener.fileno() < 0)
            connections = list(self._open)
        for connection in connections:
            connection.hang_up()
        while others := self._other_threads():
            for thread in others:
                thread.join()
        if not keep_socket_file:
            self.socket_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def spawn(self, work: Callable[..., None], *args: object) -> None:
        """Does some work in a thread that ``stop`` waits for."""

        def run() -> None:
            work(*args)
            with self._changed:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name="scripted-libvirtd", daemon=True)
        with self._changed:
            thread.start()
            self._threads.add(thread)

    def _other_threads(self) -> set[threading.Thread]:
        with self._changed:
            return self._threads - {threading.current_thread()}

    def _accept(self, listener: socket.socket, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                sock, _address = listener.accept()
            except OSError:  # the daemon stops, or there are too many open files
                stopped.wait(0.01)
                continue
            if self.open_connections >= self.max_clients:
                sock.close()
                continue
            connection = _Connection(self, sock, stopped)
            with self._changed:
                self.connections += 1
                self._open.add(connection)
                self._changed.notify_all()
            self.spawn(self._converse, connection)
        with self._changed:
            listener.close()
            self._changed.notify_all()

    def _converse(self, connection: _Connection) -> None:
        connection.run()
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def arrived(self, call: _Call) -> Answer | None:
        """Counts a call and says what was scripted for it."""
        with self._changed:
            self.calls[call.name] += 1
            self._changed.notify_all()
            for rule in self._rules.get(call.name, ()):
                if answer := rule.take(call.mentioned()):
                    return answer
        return None

    def serve(self, call: _Call) -> bytes:
        """The payload of the normal answer; raises Error where the real daemon answers so."""
        if call.program != REMOTE_PROGRAM or call.version != 1:
            what = f"Cannot find program {call.program} version {call.version}"
            raise Error(VIR_ERR_RPC, VIR_FROM_RPC, what)
        if call.procedure is None:
            raise Error(VIR_ERR_RPC, VIR_FROM_RPC, f"unknown procedure: {call.number}")
        self.waits.for_locks(self._involved(call), self._stopped)
        if call.name == BULK:
            return call.procedure.serve(self.domains, self._job, *call.args)
        if not call.args or not isinstance(call.args[0], DomainRef):
            return call.procedure.serve(self.domains, *call.args)
        ref, *others = call.args
        domain = self.domains.get(ref.uuid)
        if domain is None:
            raise no_domain(f"uuid '{ref.uuid}' ({ref.name})")
        if call.name not in NEEDS_JOB:
            return call.procedure.serve(domain, *others)
        with self._job(domain) as has_job:
            if not has_job:
                what = "Timed out during operation: cannot acquire state change lock"
                raise Error(VIR_ERR_OPERATION_TIMEOUT, VIR_FROM_NONE, what)
            return call.procedure.serve(domain, *others)

    def may_have_to_wait(self, call: _Call) -> bool:
        """Whether a call would have to wait for something if it were executed now."""
        return self.waits.may_have_to(call.name, self._involved(call))

    def _involved(self, call: _Call) -> list[Domain]:
        return involved(self.domains, call.name, call.args)

    def _job(self, domain: Domain, wait: bool = True) -> AbstractContextManager[bool]:
        return self.waits.job(domain, self._stopped, wait=wait)
