"""A real Prometheus, of Debian's package in build/prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.qemu import wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build/prometheus/usr/bin/prometheus"
PROMTOOL = ROOT / "build/prometheus/usr/bin/promtool"


def unavailable() -> str | None:
    """Say why there is none, if there is none."""
    return None if PROGRAM.exists() else "Prometheus' package is not in build/prometheus"


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must have no objections."""
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A process with its data and its log in a directory; `with` starts and ends it.

    Killed, it can be started again, on the same data.
    """

    def __init__(self, configuration: str, directory: Path) -> None:
        self._directory = directory
        self._configuration = directory / "prometheus.yml"
        self._configuration.write_text(configuration)
        self._log = directory / "prometheus.log"
        self._starts = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._starts += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={self._configuration}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, "Prometheus has started", timeout=60, log=self._log)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        found = re.findall(r'msg="Listening on" address=(\S+)', self._log.read_text())
        if len(found) < self._starts:
            return False
        self.url = f"http://{found[-1]}"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=30):
                return True
        except urllib.error.HTTPError:  # it reads its data
            return False

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(30)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()  # of no effect on one that has ended

    def get(self, path: str, **fields: str | float) -> Any:
        """Return the data of an answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Return the labels and values of what a query finds, now or at a time."""
        found = self.get("query", query=query, time=time.time() if at is None else at)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def values(self, query: str, label: str, at: float | None = None) -> dict[str, float]:
        """Return what a query finds, by the values of a label."""
        found = self.ask(query, at)
        values = {labels.get(label, ""): value for labels, value in found}
        assert len(values) == len(found), found
        return values
