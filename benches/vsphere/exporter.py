"""PyPI's vmware-exporter over a simulated vCenter: what a scrape costs, and what it tells.

It runs in an environment of its own (see tools/setup), with a Twisted of its time: with those of
today it does not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from benches.exactness import Used
from benches.processes import cpu_of
from benches.usage import Cycle
from tests.support import qemu

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "vmware-exporter"
PROGRAM = Path(__file__).parents[2] / "build/vmware-exporter/bin/vmware_exporter"
LEFT_OUT = ("HOSTS", "DATASTORES", "VMGUESTS", "SNAPSHOTS")
# Gauges, by what they are of.
OF_CPU = ("vmware_vm_cpu_usage_average",)
OF_NETWORK = ("vmware_vm_net_received_average", "vmware_vm_net_transmitted_average")
OF_DISK = ("vmware_vm_disk_read_average", "vmware_vm_disk_write_average")


def unavailable() -> str | None:
    """Say why it cannot run here, if it cannot."""
    return None if PROGRAM.exists() else "its packages could not be had"


class Exporter:
    """The exporter, told to export nothing but VMs."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Start it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [str(PROGRAM), "-a", "127.0.0.1", "-p", str(self._port), "-l", "ERROR"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "VSPHERE_HOST": f"127.0.0.1:{told['port']}",
                "VSPHERE_USER": "monitor",
                "VSPHERE_PASSWORD": told["password"],
                "VSPHERE_IGNORE_SSL": "True",
                **{f"VSPHERE_COLLECT_{what}": "False" for what in LEFT_OUT},
            },
        )

    def __enter__(self) -> Self:
        qemu.wait_for(self._answers, "the exporter answers")
        self._used = cpu_of([self._process.pid])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def cycle(self) -> Cycle:
        """Scrape it."""
        began = time.perf_counter()
        text = self._get("metrics")
        wall = time.perf_counter() - began
        before, self._used = self._used, cpu_of([self._process.pid])
        return Cycle(text.count("\nvmware_vm_power_state{"), wall, self._used - before, 0)

    def read(self) -> dict[str, Used]:
        """Return what VMs use by their names, without the percent's hundredths."""
        found: dict[str, Used] = {}
        for family in text_string_to_metric_families(self._get("metrics")):
            for sample in family.samples if family.name.startswith("vmware_vm_") else ():
                used = found.setdefault(sample.labels["vm_name"], Used())
                if family.name in OF_CPU:
                    used.cpu += sample.value / 100
                elif family.name in OF_NETWORK:
                    used.network += sample.value
                elif family.name in OF_DISK:
                    used.disk += sample.value
        return found

    def _answers(self) -> bool:
        with suppress(OSError):
            self._get("healthz")
            return True
        return False

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self._port}/{path}"
        with closing(urllib.request.urlopen(url, timeout=300)) as answer:
            return str(answer.read().decode())
