"""From one exporter beside Prometheus to many: the configurations of docs/fleet.md, as they are."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import Exporter, Samples
from tests.support import prometheus, sample, vcsim, xapi
from tests.support.libvirtd import Daemon
from tests.support.prometheus import ROOT, Prometheus, promtool
from tests.support.qemu import wait_for
from virtmeter.cli.export.reading import RECENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (ROOT / "docs/fleet.md").read_text()
BLOCKS: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
CONFIGURATIONS = [block for block in BLOCKS if "scrape_configs:" in block]
[LISTED] = [block for block in BLOCKS if "scrape_configs:" not in block]
"""A file that Prometheus finds targets in."""
NAMES = [f"kvm-{number}" for number in range(8)]

needs_prometheus = pytest.mark.skipif(
    bool(prometheus.unavailable()), reason=str(prometheus.unavailable())
)
needs_vcenter = pytest.mark.skipif(bool(vcsim.unavailable()), reason=str(vcsim.unavailable()))


@needs_prometheus
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_prometheus_takes_each_configuration(tmp_path: Path, configuration: str) -> None:
    (tmp_path / "prometheus.yml").write_text(
        configuration.replace("/etc/prometheus/virtmeter", str(tmp_path / "found"))
    )
    (tmp_path / "found").mkdir()
    (tmp_path / "found/berlin.yml").write_text(LISTED)
    promtool("check", "config", tmp_path / "prometheus.yml")


@pytest.fixture
def exporters(tmp_path: Path) -> Iterator[list[Exporter]]:
    """Two exporters with the same targets, at 127.0.0.10 and 127.0.0.11 on the same port."""
    file = tmp_path / "targets.toml"
    file.write_text("".join(f'[targets.{name}]\nuri = "test:///default"\n' for name in NAMES))
    port = 0
    with ExitStack() as stack:
        started = []
        for number in range(2):
            listen = f"127.0.0.1{number}:{port}"
            exporter = Exporter(None, "--targets", str(file), listen=listen)
            started.append(stack.enter_context(exporter))
            port = int(exporter.url.split("/")[2].rpartition(":")[2])
        yield started


def placed(configuration: str, exporters: list[Exporter]) -> str:
    """Return a configuration of the page, with these exporters, and quicker."""
    port = exporters[0].url.split("/")[2].rpartition(":")[2]
    text = configuration.replace("exporter-", "127.0.0.1").replace(".example.org:9177", f":{port}")
    assert "example.org" not in text
    job = "  - job_name: virtmeter\n"
    return text.replace(job, f"{job}    scrape_interval: 2s\n    scrape_timeout: 2s\n")


def active(asked: Prometheus) -> list[str]:
    """Return the names of the targets that Prometheus scrapes, once it has done so."""
    found = asked.get("targets", state="active")["activeTargets"]
    wait_for(lambda: len(asked.ask("virtmeter_up == 1")) == len(found) > 0, "all are scraped")
    return sorted(each["labels"]["instance"] for each in found)


def scraped(exporter: Exporter) -> set[str]:
    """Return the targets that were ever asked for."""
    with exporter.get() as answer:
        samples = Samples(answer.read().decode())
    return {name for name in NAMES if samples("virtmeter_target_scrapes_total", target=name)}


@needs_prometheus
def test_prometheus_shares_the_targets_out_among_exporters(
    tmp_path: Path, exporters: list[Exporter]
) -> None:
    [configuration] = [each for each in CONFIGURATIONS if "exporter-$1" in each]
    with Prometheus(placed(configuration, exporters), tmp_path) as asked:
        wait_for(lambda: bool(asked.ask("virtmeter_up == 1")), "targets are found")
        assert active(asked) == NAMES  # each once, though both lists have it
    first, second = map(scraped, exporters)
    assert first
    assert second
    assert not first & second
    assert first | second == set(NAMES)


@needs_prometheus
def test_each_prometheus_keeps_its_share(tmp_path: Path, exporters: list[Exporter]) -> None:
    [configuration] = [each for each in CONFIGURATIONS if "__tmp_shard" in each]
    shares = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        share = placed(configuration.replace('"0"', f'"{number}"'), exporters)
        with Prometheus(share, directory) as asked:
            wait_for(lambda: bool(asked.ask("virtmeter_up == 1")), "targets are found")
            shares.append(active(asked))
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == NAMES


class Cost:
    """A target of each kind, and how often it was asked for something."""

    def __init__(self, kind: str, stack: ExitStack, directory: Path) -> None:
        self.kind = kind
        file = directory / "password"
        file.write_text(xapi.PASSWORD)
        file.chmod(0o600)
        if kind == "libvirt":
            self.daemon = stack.enter_context(Daemon())
            self.daemon.add(*map(sample.domain, range(1, 4)))
            self.uri = self.daemon.uri
        elif kind == "xenserver":
            self.pool = stack.enter_context(xapi.synthetic(hosts=2, vms=3, delay=0.0))
            self.uri = f"{self.pool.uri()}&password_file={file}"
        else:
            self.vcenter = stack.enter_context(vcsim.VCenter(hosts=2, vms=3, now=None))
            self.uri = f"{self.vcenter.uri}&password_file={file}"

    def calls(self) -> int:
        if self.kind == "libvirt":
            return self.daemon.calls.total()
        if self.kind == "xenserver":
            return self.pool.calls.total()
        return sum(self.vcenter.calls().values())

    def sessions(self) -> int:
        if self.kind == "xenserver":
            return self.pool.sessions.logins
        return self.vcenter.logins() if self.kind == "vsphere" else 0


@pytest.mark.parametrize(
    "kind", ["libvirt", "xenserver", pytest.param("vsphere", marks=needs_vcenter)]
)
def test_two_exporters_cost_a_target_twice_as_much_as_one(tmp_path: Path, kind: str) -> None:
    with ExitStack() as stack:
        cost = Cost(kind, stack, tmp_path)
        file = tmp_path / "targets.toml"
        file.write_text(f'[targets.a]\nuri = "{cost.uri}"\n')
        told = []
        for _ in range(2):
            exporter = stack.enter_context(Exporter(None, "--targets", str(file)))
            with exporter.get("/probe?target=a") as answer:
                assert Samples(answer.read().decode())("virtmeter_scrape_complete") == 1
            told.append((cost.calls(), cost.sessions()))
        (calls, sessions), (all_calls, all_sessions) = told
        # What libvirt is asked ahead of time differs a little.
        assert all_calls == pytest.approx(2 * calls, rel=0.2)
        assert (sessions, all_sessions) == ((0, 0) if kind == "libvirt" else (1, 2))


@needs_vcenter
def test_two_prometheus_over_one_exporter_cost_a_vcenter_no_more_than_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cost = Cost("vsphere", stack, tmp_path)
        file = tmp_path / "targets.toml"
        file.write_text(f'[targets.a]\nuri = "{cost.uri}"\n')
        exporter = stack.enter_context(Exporter(None, "--targets", str(file)))
        told = []
        for _ in range(2):
            with exporter.get("/probe?target=a") as answer:
                assert Samples(answer.read().decode())("virtmeter_up") == 1
            told.append(cost.calls())
            time.sleep(2 * RECENT)
        assert told[1] == told[0]
