"""The `unsafe` room under valgrind: no invalid access and nothing lost, whatever comes in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import sample, xdr
from tests.support.libvirtd import Answer, Daemon, HangUp, Reply
from tests.support.procedures import VIR_FROM_QEMU, Disk, Domain, Error

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "target"
EXAMPLE = TARGET / "debug/examples/read_everything"
pytestmark = pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
VALGRIND = [
    "valgrind",
    "--quiet",
    "--error-exitcode=99",
    "--leak-check=full",
    # What is still reachable at the end is libvirt's and GLib's own; losses are ours.
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
    f"--suppressions={ROOT}/tests/support/valgrind.supp",
]


@pytest.fixture(scope="module")
def example() -> Path:
    subprocess.run(
        [
            "cargo",
            "build",
            "--locked",
            "--quiet",
            "--no-default-features",
            *("--target-dir", TARGET),
            *("--example", EXAMPLE.name),
        ],
        check=True,
        cwd=ROOT,
    )
    return EXAMPLE


def odd_domains() -> list[Domain]:
    """Return domains whose answers are as long, as mixed or as empty as the protocol allows."""
    full = sample.domain(1)
    full.disks["vda"].flags.update({f"p{number}": xdr.String("x" * 500) for number in range(7)})
    full.disks["vda"].flags.update({f"q{number}": xdr.Double(0.5) for number in range(7)})
    full.memory = dict.fromkeys(range(13), 2**64 - 1)
    full.stats.update({f"vcpu.{number}.time": number for number in range(500)})
    full.stats.update({"n" * 79: 1, "vcpu.2.wait": xdr.String("no number"), "é": xdr.Int(-1)})
    empty = sample.domain(2)
    empty.stats, empty.memory, empty.interfaces, empty.disks = {}, {}, {}, {"vda": Disk()}
    stopped = sample.domain(3)
    stopped.state, stopped.id = 5, -1
    no_xml = sample.domain(4)
    no_xml.xml = ""
    bulk = sample.domain(5, bulk=True)
    bulk.interfaces["n" * 200] = (-1,) * 8
    return [full, empty, stopped, no_xml, bulk]


def run(example: Path, uri: str) -> str:
    completed = subprocess.run(
        [*VALGRIND, str(example), uri], capture_output=True, text=True, check=False
    )
    assert completed.returncode in (0, 1), completed.stderr
    assert "Invalid" not in completed.stderr
    assert "uninitialised" not in completed.stderr
    return completed.stdout


def test_odd_answers(example: Path, daemon: Daemon) -> None:
    daemon.add(*odd_domains())
    output = run(example, daemon.uri)
    assert output.count("Instance {") == 5
    assert "memory_actual: Some(1.8014398509481984e16)" in output, "2**64-1 KiB in MiB"


BAD_ANSWERS = [
    Error(1, VIR_FROM_QEMU, None),
    HangUp(),
    Reply(b""),
    Reply(b"\xff" * 64),
    Reply(xdr.pack("I", 2**31 - 1)),
    Reply(xdr.pack("I", 0)),
    # As many memory statistics as the protocol carries: libvirt's client copies them all.
    Reply(xdr.pack("I", 1024) + xdr.pack("iQ", 6, 1) * 1024),
]
PROCEDURES = [
    "DOMAIN_LOOKUP_BY_UUID",
    "DOMAIN_GET_INFO",
    "DOMAIN_MEMORY_STATS",
    "CONNECT_GET_ALL_DOMAIN_STATS",
    "DOMAIN_GET_XML_DESC",
    "DOMAIN_INTERFACE_STATS",
    "DOMAIN_BLOCK_STATS",
    "DOMAIN_BLOCK_STATS_FLAGS",
    "DOMAIN_GET_BLOCK_INFO",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=repr)
def test_bad_answers_to_every_call(example: Path, daemon: Daemon, answer: Answer) -> None:
    # Each domain has one call that is answered badly, and each call has its domain.
    for number, procedure in enumerate(PROCEDURES):
        daemon.add(domain := sample.domain(number))
        if procedure == "DOMAIN_GET_INFO":  # asked for where the statistics have no state
            domain.stats["state.state"] = xdr.String("none")
        daemon.on(procedure, answer, uuid=domain.uuid)
    assert run(example, daemon.uri).count("Instance {") == len(PROCEDURES)
    assert not [name for name in PROCEDURES if not daemon.calls[name]]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=repr)
def test_bad_lists(example: Path, daemon: Daemon, answer: Answer) -> None:
    daemon.add(sample.domain())
    daemon.on("CONNECT_GET_ALL_DOMAIN_STATS", answer)
    run(example, daemon.uri)
