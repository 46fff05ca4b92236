"""The exporter and the Prometheus that scrapes it, each as its users run it."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from benches.processes import cpu_of
from benches.usage import Cycle
from tests.support import qemu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

PROMETHEUS = Path(__file__).parents[2] / "build/prometheus/usr/bin/prometheus"
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # as the unit has it
TIMEOUT = 10  # seconds, Prometheus' own default
# What it sends with a scrape.
HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": str(TIMEOUT),
}


class Target(NamedTuple):
    """A hypervisor, as the exporter's file has it."""

    name: str
    uri: str
    labels: dict[str, str]

    def table(self, password: Path) -> str:
        """Return its table there.

        :param password: the file with that of XenServer's and vSphere's.
        """
        uri = self.uri + ("" if self.uri.startswith("qemu") else f"&password_file={password}")
        labels = ", ".join(f'{name} = "{value}"' for name, value in self.labels.items())
        return f'[targets.{self.name}]\nuri = "{uri}"\nlabels = {{ {labels} }}\n'


class Program:
    """A process that serves HTTP, what it says being in a file."""

    def __init__(self, directory: Path, page: str) -> None:
        """Find a port for it.

        :param page: what it answers once it is ready.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = "{}:{}".format(*free.getsockname())
        self.log, self._page = directory / f"{type(self).__name__.lower()}.log", page

    def start(self, *command: str, **environment: str) -> None:
        """Start it."""
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def __enter__(self) -> Self:
        qemu.wait_for(self._answers, f"{type(self).__name__} answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def resident(self) -> int:
        """Return how much memory it has, bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def get(self, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
        """Return a page, as it is sent."""
        request = urllib.request.Request(f"http://{self.address}{path}", headers=dict(headers))
        with closing(urllib.request.urlopen(request, timeout=60)) as answer:
            content: bytes = answer.read()
        return content

    def _answers(self) -> bool:
        with suppress(OSError):
            self.get(self._page)
            return True
        return False


class Exporter(Program):
    """virtmeter, as its systemd unit runs it."""

    def __init__(self, directory: Path, targets: Iterable[Target], password: str) -> None:
        """Start it."""
        super().__init__(directory, "/-/healthy")
        file, secret = directory / "targets.toml", directory / "password"
        secret.touch(0o600)
        secret.write_text(password)
        file.write_text("".join(target.table(secret) for target in targets))
        self._used = 0.0
        self.start(
            *(sys.executable, "-m", "virtmeter.cli", "export", "--targets", str(file)),
            *("--listen", self.address),
            **MALLOC,
        )

    def cycle(self, target: str) -> Cycle:
        """Scrape a target, as Prometheus does."""
        began = time.perf_counter()
        answer = self.get(f"/probe?target={target}", HEADERS)
        wall = time.perf_counter() - began
        vms = gzip.decompress(answer).count(b"\nvirtmeter_domain_state{")
        before, self._used = self._used, cpu_of([self.pid])
        return Cycle(vms, wall, self._used - before, self.resident())


class Prometheus(Program):
    """A Prometheus that finds the targets at the exporter: see docs/fleet.md."""

    def __init__(self, directory: Path, exporter: Exporter, interval: int) -> None:
        """Start it.

        :param interval: seconds between the scrapes of a target.
        """
        super().__init__(directory, "/-/ready")
        job = {
            "job_name": "virtmeter",
            "scrape_interval": f"{interval}s",
            "http_sd_configs": [{"url": f"http://{exporter.address}/targets"}],
            "relabel_configs": [
                {"target_label": "__address__", "replacement": exporter.address},
            ],
        }
        file = directory / "prometheus.yml"
        file.write_text(json.dumps({"scrape_configs": [job]}))  # which is YAML as well
        self.start(
            *(str(PROMETHEUS), f"--config.file={file}", f"--storage.tsdb.path={directory}/data"),
            f"--web.listen-address={self.address}",
        )

    def query(self, expression: str, by: str) -> dict[str, float]:
        """Return what an expression is now, by the values of a label."""
        answer = json.loads(self.get(f"/api/v1/query?{urlencode({'query': expression})}"))
        found = answer["data"]["result"]
        return {each["metric"].get(by, ""): float(each["value"][1]) for each in found}
