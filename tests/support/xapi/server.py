"""The socket on which a host listens, and the threads that answer its clients."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support.xapi.connection import BrokenError, Connection, Request, Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.support.xapi.faults import Fault

Answer = tuple[Response, "Fault | None"]


class Server:
    """Listens on one address until it is closed."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, answer: Callable[[Request], Answer]
    ) -> None:
        self.address: tuple[str, int] = listener.getsockname()
        self.context = context
        #: Speak HTTP without TLS on the port where TLS is expected.
        self.plain = False
        #: Take connections, and never say a word.
        self.silent = False
        #: How many connections were taken.
        self.accepted = 0
        self._answer = answer
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, Connection] = {}
        self._listen(listener)

    def _listen(self, listener: socket.socket) -> None:
        self._listener = listener
        self._accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._accepting.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            connection = Connection(client, self._closing)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self.accepted += 1
                self._connections[thread] = connection
            thread.start()

    def _serve(self, connection: Connection) -> None:
        # The client's doing, or a fault's; ValueError: no HTTP.
        with suppress(BrokenError, OSError, ValueError):
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.silent:
                connection.hang()
            if not self.plain:
                connection.encrypt(self.context)
            self._converse(connection)
        with self._lock:
            self._connections.pop(threading.current_thread(), None)
            connection.socket.close()

    def _converse(self, connection: Connection) -> None:
        while (request := connection.request()) is not None:
            response, fault = self._answer(request)
            response.close |= request.headers.get("connection", "").lower() == "close"
            connection.send(response, fault)
            if response.close:
                break
        connection.say_goodbye()

    def away(self) -> None:
        """Refuse connections, and end those that there are."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        with self._lock:
            threads = list(self._connections)
            for connection in self._connections.values():
                connection.stop()
        for thread in threads:
            thread.join()

    def back(self) -> None:
        """Listen again where it did."""
        self._closing = threading.Event()
        self._listen(listen(*self.address))


def listen(address: str, port: int = 0) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def listen_on_all(addresses: list[str]) -> list[socket.socket]:
    """Listen on the same free port of all addresses, as the hosts of a pool all do on 443."""
    for _ in range(100):
        listeners = [listen(addresses[0])]
        port = listeners[0].getsockname()[1]
        with suppress(OSError):
            listeners.extend(listen(address, port) for address in addresses[1:])
        if len(listeners) == len(addresses):
            return listeners
        for listener in listeners:
            listener.close()
    message = "no port is free on all addresses"
    raise RuntimeError(message)
