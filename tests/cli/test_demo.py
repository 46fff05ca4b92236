"""``make watch-demo``: all kinds of hypervisors, simulated, in one terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.support import cli, demo, vcsim

COMMAND = (sys.executable, "-m", "tests.support.demo")
STDLIB_AND_OURS = """
import sys
sys.modules.update(dict.fromkeys(("typing_extensions", "pyVmomi", "XenAPI", "pexpect", "pytest")))
import tests.support.demo
"""


@pytest.fixture
def temporary(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary files can be seen."""
    return cli.environment(TMPDIR=str(tmp_path))


def test_it_shows_vms_of_all_kinds(temporary: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--count", "2", "--format", "jsonl"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=temporary,
    )
    assert done.returncode == 0
    [said, *more] = done.stderr.splitlines()
    assert "simulating" in said
    left_out = (
        [f"virtmeter: the vCenter is left out: {why}"] if (why := vcsim.unavailable()) else []
    )
    assert more == left_out
    busy: dict[str, set[str]] = {}
    for record in map(json.loads, done.stdout.splitlines()):
        if record["cpu_utilization"] and record["network_read_kib"]:
            assert 0 < record["cpu_utilization"] < 100
            busy.setdefault(record["target"], set()).add(record["id"])
    counts = {target: len(ids) for target, ids in busy.items()}
    expected = {"kvm": len(demo.NAMES), "xenserver": 6} | ({} if left_out else {"vcenter": 6})
    assert counts == expected
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("\x03", 130)], ids=["q", "Ctrl-C"])
def test_it_ends_with_all_that_it_has_started(
    temporary: dict[str, str], tmp_path: Path, key: str, status: int
) -> None:
    child = pexpect.spawn(
        *(COMMAND[0], list(COMMAND[1:])),
        dimensions=(30, 140),
        encoding="utf-8",
        timeout=120,
        env=temporary,
    )
    try:
        child.expect_exact("web-1")
        started = children(child.pid)
        assert started
        child.send(key)
        child.expect(pexpect.EOF)
        child.wait()
    finally:
        child.close(force=True)
    assert child.exitstatus == status
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_it(temporary: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=temporary
    ) as process:
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_more_than_the_command() -> None:
    """``make watch-demo`` installs no test tools."""
    subprocess.run([sys.executable, "-c", STDLIB_AND_OURS], check=True, timeout=60)


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
