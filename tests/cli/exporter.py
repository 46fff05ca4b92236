"""A running ``virtmeter export``, and what it says."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from virtmeter.cli.export.reading import RECENT

if TYPE_CHECKING:
    import ssl
    from contextlib import ExitStack
    from http.client import HTTPResponse

    from typing_extensions import Self

COMMAND = (sys.executable, "-m", "virtmeter.cli")
Sample = tuple[str, frozenset[tuple[str, str]]]


def run(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "export", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Exporter:
    """As a context manager: from its start to a SIGTERM, which must end it well."""

    def __init__(
        self,
        uri: str | None,
        *options: str,
        listen: str = "127.0.0.1:0",
        ends_with: int = 0,
        descriptors: int = 1024,
    ) -> None:
        self._ends_with = ends_with
        self._scraped = 0.0
        self.process = subprocess.Popen(
            [
                *("prlimit", f"--nofile={descriptors}", *COMMAND, "export"),
                *(() if uri is None else ("--uri", uri)),
                *("--listen", listen, *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def __enter__(self) -> Self:
        assert self.process.stderr is not None
        self.started: list[str] = []
        for line in self.process.stderr:
            self.started.append(line)
            if "serving" in line:
                self.url = line.split()[-1]
                return self
        self.process.kill()
        raise AssertionError(f"it has not started: {self.started}")

    def __exit__(self, *exception: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            _, self.said = self.process.communicate(timeout=10)
        finally:
            self.process.kill()  # of no effect on one that has ended
        if exception[0] is None:
            assert self.process.returncode == self._ends_with
            assert "Traceback" not in self.said, self.said

    def hang_up(self) -> str:
        """Send SIGHUP, and return the line that is said to that."""
        assert self.process.stderr is not None
        self.process.send_signal(signal.SIGHUP)
        ready, _, _ = select.select([self.process.stderr], [], [], 30)
        assert ready
        return self.process.stderr.readline()

    def connect(self, sent: str = "", source: str = "127.0.0.1") -> socket.socket:
        """Connect from one of this host's addresses, and send what a request begins with."""
        host, port = self.url.split("/")[2].rsplit(":", 1)
        client = socket.create_connection((host, int(port)), 30, (source, 0))
        client.sendall(sent.encode("latin-1"))
        return client

    def flood(self, count: int, clients: ExitStack) -> None:
        """Connect that many from another address, who leave with others."""
        for _ in range(count):
            with suppress(ConnectionError):  # it is hung up on before it knows
                clients.enter_context(self.connect("GET ", source="127.0.0.2"))

    def ask(self, request: str) -> bytes:
        """Send a request as it is, and return all that comes."""
        with self.connect(request) as client:
            return everything(client)

    def get(
        self,
        path: str = "/metrics",
        *,
        timeout: float | None = None,
        headers: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> HTTPResponse:
        """Ask, as Prometheus does if it has a timeout."""
        headers = dict(headers or {})
        if timeout is not None:
            headers["X-Prometheus-Scrape-Timeout-Seconds"] = str(timeout)
        # A test that is about time does not measure it: a machine may be busy.
        request = urllib.request.Request(self.url.replace("/metrics", path), headers=headers)
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=30, context=tls)
        return answer

    def scrape(self, timeout: float | None = None) -> Samples:
        """Return what is so now: not what was read for the scrape before."""
        time.sleep(max(0.0, self._scraped + RECENT - time.monotonic()))
        with self.get(timeout=timeout) as answer:
            assert answer.status == 200
            samples = Samples(answer.read().decode())
        self._scraped = time.monotonic()
        return samples


def everything(client: socket.socket) -> bytes:
    """Return what a client receives until it is hung up on."""
    received = bytearray()
    while chunk := client.recv(65536):
        received += chunk
    return bytes(received)


class Samples:
    """The samples of an exposition."""

    def __init__(self, text: str) -> None:
        self.values: dict[Sample, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.values, key
                self.values[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return the value of the only sample that has these labels, among others."""
        found = self.all(name, **labels)
        assert len(found) <= 1, found
        return found[0] if found else None

    def all(self, name: str, **labels: str) -> list[float]:
        """Return the values of all that have these labels."""
        return [
            value
            for (this, its), value in self.values.items()
            if this == name and labels.items() <= dict(its).items()
        ]
