"""``virtmeter export --targets``: many hypervisors, none of which costs another anything."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import Exporter, Samples, run
from tests.support import sample
from tests.support.libvirtd import Daemon, Never
from tests.support.qemu import wait_for
from tests.support.xapi import PASSWORD, Pool, synthetic
from virtmeter.cli.export.reading import RECENT
from virtmeter.cli.export.reload import PAUSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path


class Targets:
    """The file, as it is written by whoever runs the exporter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tables: dict[str, str] = {}

    def __setitem__(self, name: str, table: str) -> None:
        self._tables[name] = table
        self._write()

    def __delitem__(self, name: str) -> None:
        del self._tables[name]
        self._write()

    def _write(self) -> None:
        tables = (f'[targets."{name}"]\n{table}\n' for name, table in self._tables.items())
        self.path.write_text("".join(tables))


@pytest.fixture
def targets(tmp_path: Path) -> Targets:
    return Targets(tmp_path / "targets.toml")


@pytest.fixture
def kvm(daemon: Daemon) -> Daemon:
    daemon.add(sample.domain())
    return daemon


@pytest.fixture
def pool() -> Iterator[Pool]:
    """One host with three VMs, in real time."""
    with synthetic(hosts=1, vms=3, delay=0.0) as pool:
        yield pool


def of(uri: str, more: str = "") -> str:
    return f'uri = "{uri}"\n{more}'


def of_pool(pool: Pool, directory: Path, password: str = PASSWORD) -> str:
    file = directory / ("right.pass" if password == PASSWORD else "wrong.pass")
    file.write_text(password)
    file.chmod(0o600)
    return of(f"{pool.uri()}&password_file={file}")


@contextmanager
def serving(targets: Targets, *options: str) -> Iterator[Exporter]:
    with Exporter(None, "--targets", str(targets.path), *options) as exporter:
        yield exporter


def probe(exporter: Exporter, name: str, timeout: float | None = None) -> Samples:
    with exporter.get(f"/probe?target={name}", timeout=timeout) as answer:
        return Samples(answer.read().decode())


def metrics(exporter: Exporter) -> Samples:
    time.sleep(RECENT)  # those that were written just now would do
    with exporter.get("/metrics") as answer:
        return Samples(answer.read().decode())


def post(exporter: Exporter, path: str) -> bytes:
    return exporter.ask(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")


def refused(exporter: Exporter, path: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        exporter.get(path)
    with caught.value as error:
        return error.code, error.read().decode()


def content(answer: HTTPResponse) -> bytes:
    with answer:
        return answer.read()


def test_each_target_has_the_metrics_that_an_exporter_of_its_own_has(
    targets: Targets, kvm: Daemon, pool: Pool, tmp_path: Path
) -> None:
    targets["kvm"] = of(kvm.uri)
    targets["pool.example"] = of_pool(pool, tmp_path)
    alone = Samples(run("--uri", kvm.uri, "--once").stdout)
    with serving(targets) as exporter:
        read, pools = probe(exporter, "kvm"), probe(exporter, "pool.example")
    assert {name for name, _ in read.values} == {name for name, _ in alone.values}
    for name in ("cpu_seconds_total", "disk_write_bytes_total", "memory_usage_bytes"):
        assert read(f"virtmeter_domain_{name}") == alone(f"virtmeter_domain_{name}") is not None
    assert len(pools.all("virtmeter_domain_info", hypervisor="xenserver")) == 3
    assert pools("virtmeter_up") == pools("virtmeter_scrape_complete") == 1


def test_targets_are_found_by_name_and_no_uri_is_told_or_taken(
    targets: Targets, kvm: Daemon, pool: Pool, tmp_path: Path
) -> None:
    targets["kvm:1"] = of(kvm.uri, 'labels = { site = "berlin" }')
    targets["pool"] = of_pool(pool, tmp_path)
    with serving(targets) as exporter:
        with exporter.get("/targets") as answer:
            assert answer.headers["Content-Type"] == "application/json"
            found = json.loads(answer.read())
        assert found[0] == {
            "targets": ["kvm:1"],
            "labels": {
                "site": "berlin",
                "instance": "kvm:1",
                "__metrics_path__": "/probe",
                "__param_target": "kvm:1",
                "__meta_virtmeter_hypervisor": "libvirt",
            },
        }
        assert [each["targets"] for each in found] == [["kvm:1"], ["pool"]]
        page = content(exporter.get("/"))
        assert b'<a href="/probe?target=kvm%3A1">kvm:1</a>' in page
        probe(exporter, "kvm:1")
        told = page + json.dumps(found).encode() + content(exporter.get("/metrics"))
        assert kvm.uri.encode() not in told
        assert b"password" not in told
        for query in (f"target={kvm.uri}", "target=", "target=kvm", "target=nobody"):
            assert refused(exporter, f"/probe?{query}")[0] in (400, 404)
        assert refused(exporter, "/probe") == (
            400,
            "Name one target, as in /probe?target=NAME; see /targets.\n",
        )
        assert refused(exporter, "/probe?target=pool&target=pool")[0] == 400
        assert refused(exporter, "/nothing")[0] == 404
        assert exporter.get("/-/healthy").status == 200
        assert post(exporter, "/targets").startswith(b"HTTP/1.1 405")
        assert metrics(exporter).all("virtmeter_target_scrapes_total") == [1, 0]


def test_what_is_known_of_targets_is_told_and_what_is_not_is_left_out(
    targets: Targets, kvm: Daemon
) -> None:
    targets["kvm"] = of(kvm.uri)
    targets["away"] = of("qemu+unix:///system?socket=/nowhere")
    with serving(targets) as exporter:
        before = metrics(exporter)
        assert before("virtmeter_target_info", target="kvm", hypervisor="libvirt") == 1
        assert before.all("virtmeter_target_up") == before.all("virtmeter_target_vms") == []
        assert before("process_resident_memory_bytes") > 1e6  # type: ignore[operator]
        probe(exporter, "kvm")
        assert probe(exporter, "away")("virtmeter_up") == 0
        after = metrics(exporter)
        assert after("virtmeter_target_up", target="kvm") == 1
        assert after("virtmeter_target_complete", target="kvm") == 1
        assert after("virtmeter_target_vms", target="kvm") == 1
        assert after("virtmeter_target_open", target="kvm") == 1
        assert after("virtmeter_target_connections", target="kvm") == kvm.open_connections
        assert after("virtmeter_target_up", target="away") == 0
        assert after("virtmeter_target_vms", target="away") is None, "nobody knows how many"
    assert "virtmeter: away: no connection to qemu+unix" in exporter.said


def test_one_that_hangs_or_is_away_costs_no_other_anything(
    targets: Targets, kvm: Daemon, pool: Pool, tmp_path: Path
) -> None:
    with Daemon() as hangs, socket.create_server(("127.0.0.1", 0)) as silent:
        hangs.on("CONNECT_OPEN", Never(), repeat=True)
        port = silent.getsockname()[1]
        (tmp_path / "pass").write_text("x")
        targets["kvm"] = of(kvm.uri)
        targets["pool"] = of_pool(pool, tmp_path)
        targets["hangs"] = of(hangs.uri, "timeout = 30")
        more = f"insecure=1&password_file={tmp_path}/pass"
        targets["silent"] = of(f"vsphere://u@127.0.0.1:{port}/?{more}", "timeout = 30")
        with serving(targets) as exporter:
            held = {}
            for name in ("hangs", "silent"):
                held[name] = exporter.connect(
                    f"GET /probe?target={name} HTTP/1.1\r\nHost: x\r\n"
                    "X-Prometheus-Scrape-Timeout-Seconds: 60\r\n\r\n"
                )
            wait_for(lambda: hangs.calls["CONNECT_OPEN"] > 0, "it is asked")
            for _ in range(3):
                for name in ("kvm", "pool"):
                    samples = probe(exporter, name, timeout=20)
                    assert samples("virtmeter_up") == samples("virtmeter_scrape_complete") == 1
            for name in ("hangs", "silent"):
                samples = probe(exporter, name, timeout=1)
                assert samples("virtmeter_up") == 0
            for client in held.values():
                client.close()


def test_a_wrong_password_is_sent_once_whatever_is_asked_and_reloaded(
    targets: Targets, kvm: Daemon, pool: Pool, tmp_path: Path
) -> None:
    targets["pool"] = of_pool(pool, tmp_path, "wrong-one")
    with serving(targets) as exporter:
        for _ in range(3):
            assert probe(exporter, "pool")("virtmeter_up") == 0
        targets["kvm"] = of(kvm.uri)
        assert exporter.hang_up().startswith("virtmeter: pool: ")  # which was said before
        assert exporter.process.stderr is not None
        assert exporter.process.stderr.readline().startswith("virtmeter: reloaded ")
        for _ in range(3):
            assert probe(exporter, "pool")("virtmeter_up") == 0
            assert probe(exporter, "kvm")("virtmeter_up") == 1
        assert pool.count("session.login_with_password") == 1
        (tmp_path / "wrong.pass").write_text(PASSWORD)
        wait_for(lambda: probe(exporter, "pool")("virtmeter_up") == 1, "it is let in")
        assert pool.count("session.login_with_password") == 2
    assert "wrong-one" not in exporter.said.replace("wrong.pass", "")


def test_a_reload_changes_what_has_changed_and_nothing_else(
    targets: Targets, kvm: Daemon, pool: Pool, tmp_path: Path
) -> None:
    with Daemon() as other:
        other.add(sample.domain())
        targets["kvm"] = of(kvm.uri)
        targets["other"] = of(other.uri)
        targets["pool"] = of_pool(pool, tmp_path)
        with serving(targets) as exporter:
            for name in ("kvm", "other", "pool"):
                probe(exporter, name)
            before = metrics(exporter)
            targets["kvm"] = of(kvm.uri, 'labels = { site = "berlin" }')
            targets["new"] = of(other.uri)
            del targets["other"]
            assert exporter.hang_up() == f"virtmeter: reloaded {targets.path}\n"
            found = json.loads(content(exporter.get("/targets")))
            assert [each["targets"][0] for each in found] == ["kvm", "pool", "new"]
            assert found[0]["labels"]["site"] == "berlin"
            assert refused(exporter, "/probe?target=other")[0] == 404
            other.wait_until(lambda daemon: not daemon.open_connections)
            assert probe(exporter, "new")("virtmeter_up") == 1
            for name in ("kvm", "pool"):
                assert probe(exporter, name)("virtmeter_connections_opened_total") == 1 or name
            assert metrics(exporter)("virtmeter_target_scrapes_total", target="kvm") == 2
            assert before("virtmeter_config_last_reload_successful") == 1
            assert pool.count("session.login_with_password") == 1, "it keeps its session"


def test_a_file_with_a_mistake_changes_nothing_and_says_where_it_is(
    targets: Targets, kvm: Daemon
) -> None:
    targets["kvm"] = of(kvm.uri)
    with serving(targets) as exporter:
        targets["b"] = of("test:///default", "workers = 0")
        said = f"reload failed, nothing changed: {targets.path}: in [targets.b]: workers is a whole"
        assert exporter.hang_up().startswith(f"virtmeter: {said}")
        answer = post(exporter, "/-/reload").decode()
        assert answer.startswith("HTTP/1.1 500")
        assert said in answer
        assert metrics(exporter)("virtmeter_config_last_reload_successful") == 0
        assert refused(exporter, "/probe?target=b")[0] == 404
        assert probe(exporter, "kvm")("virtmeter_up") == 1
        assert refused(exporter, "/-/reload") == (405, "Only POST is supported.\n")
        targets["b"] = of("test:///default")
        assert b"reloaded" in post(exporter, "/-/reload")
        assert probe(exporter, "b")("virtmeter_up") == 1
        assert metrics(exporter)("virtmeter_config_last_reload_successful") == 1


def test_a_reload_is_told_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    targets = Targets(tmp_path / os.fsdecode(b"\xff.toml"))  # no UTF-8
    targets["a"] = of("test:///default")
    with serving(targets) as exporter:
        answer = post(exporter, "/-/reload").decode()
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.endswith(f"reloaded {tmp_path}/\\udcff.toml\n")
        targets["b"] = "nothing"
        answer = post(exporter, "/-/reload").decode()
        assert answer.startswith("HTTP/1.1 500 ")
        assert f"reload failed, nothing changed: {tmp_path}/\\udcff.toml: " in answer


def test_who_asks_for_a_reload_again_and_again_gets_one_a_second(
    targets: Targets, kvm: Daemon
) -> None:
    targets["kvm"] = of(kvm.uri)
    with serving(targets) as exporter, ThreadPoolExecutor(20) as clients:
        began = time.monotonic()
        answers = list(clients.map(lambda _: post(exporter, "/-/reload"), range(100)))
        seconds = time.monotonic() - began
        assert all(b"reloaded" in answer for answer in answers)
    assert exporter.said.count("reloaded") <= seconds / PAUSE + 1


def test_all_log_out_at_the_end(targets: Targets, pool: Pool, tmp_path: Path) -> None:
    with synthetic(hosts=1, vms=1, delay=0.0) as another:
        targets["pool"] = of_pool(pool, tmp_path)
        targets["another"] = of_pool(another, tmp_path)
        with serving(targets) as exporter:
            for name in ("pool", "another"):
                assert probe(exporter, name)("virtmeter_up") == 1
        for each in (pool, another):
            assert each.count("session.logout") == 1


def test_each_is_read_as_its_table_says(targets: Targets, kvm: Daemon) -> None:
    targets["whole"] = of(kvm.uri)
    targets["less"] = of(kvm.uri, 'no_collect = ["memory", "disks"]')
    targets["none"] = of(kvm.uri, 'vms = ["nobody"]')
    with serving(targets, "--no-collect", "nics") as exporter:
        whole, less, none = (probe(exporter, name) for name in ("whole", "less", "none"))
    assert whole.all("virtmeter_domain_nic_receive_bytes_total") == []
    assert len(whole.all("virtmeter_domain_memory_actual_bytes")) == 1
    assert less.all("virtmeter_domain_memory_actual_bytes") == []
    assert less.all("virtmeter_domain_disk_read_bytes_total") == []
    assert none.all("virtmeter_domain_state") == []
    assert "virtmeter: none: no VM is named 'nobody'" in exporter.said


def test_the_command_line(targets: Targets, kvm: Daemon) -> None:
    targets["kvm"] = of(kvm.uri)
    file = str(targets.path)
    checked = run("--targets", file, "--check-targets")
    assert (checked.returncode, checked.stdout) == (0, f"{file}: 1 target, no mistake\n")
    targets["b"] = of("test:///default")
    assert run("--targets", file, "--check-targets").stdout == f"{file}: 2 targets, no mistake\n"
    targets["b"] = "url = 3"
    for more in (("--check-targets",), ("--listen", "127.0.0.1:0")):
        failed = run("--targets", file, *more)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == (
            f"virtmeter: {file}: in [targets.b]: 'url' is no option: did you mean uri?\n"
        )
    for wrong in (
        ("--check-targets",),
        ("--targets", file, "--uri", "test:///default"),
        ("--targets", file, "--once"),
        ("--targets", file + ".not"),
    ):
        assert run(*wrong).returncode == 2
    assert kvm.calls["CONNECT_OPEN"] == 0, "nothing was connected to"
