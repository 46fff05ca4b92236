"""The file of targets: what it says is taken, and every mistake is told by name and place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.exporter import Samples, run
from virtmeter.cli import targets
from virtmeter.cli.export.choice import BY_DEFAULT, Choice
from virtmeter.cli.export.tables import LABELS

if TYPE_CHECKING:
    from pathlib import Path

PIN = "AB" * 32
WHOLE = f"""
[targets.kvm-1]
uri = "qemu+ssh://monitor@kvm-1.example.org/system"
labels = {{ site = "berlin", rack = "7" }}
timeout = 2
workers = 8
ask_sizes = true
vms = ["web-*"]
collect = ["vcpus"]
no_collect = ["memory", "metadata"]

[targets."pool.example.org"]
uri = "xenserver://monitor@pool.example.org/?password_file=/etc/virtmeter/pool.pass&sha256={PIN}"

[targets.vcenter]
uri = "vsphere://monitor%40vsphere.local@vcenter/?password_file=/etc/virtmeter/vcenter.pass"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "targets.toml"


def test_what_it_says_is_taken_and_the_command_line_says_the_rest(file: Path) -> None:
    file.write_text(WHOLE)
    defaults = targets.Defaults(timeout=3.5, workers=2, choice=Choice(vms=("db-*",)))
    read = targets.read(file, defaults)
    assert list(read) == ["kvm-1", "pool.example.org", "vcenter"]
    kvm, pool, _ = read.values()
    assert kvm.labels == {"site": "berlin", "rack": "7"}
    assert (kvm.timeout, kvm.workers, kvm.ask_sizes) == (2, 8, True)
    assert kvm.choice.parts == (BY_DEFAULT | {"vcpus"}) - {"memory", "metadata"}
    assert kvm.choice.vms == ("web-*",)
    assert (pool.timeout, pool.workers, pool.ask_sizes) == (3.5, 2, False)
    assert pool.choice == Choice(vms=("db-*",))
    assert [each.kind for each in read.values()] == ["libvirt", "xenserver", "vsphere"]


URI = 'uri = "test:///default"'
SECRET = "s3cret"
MISTAKES = [
    ("", "there is no target"),
    ("targets = 3", "there is no target"),
    ("[targets]", "there is no target"),
    ("[targets.a\nuri", r"line 1"),
    (f"[target.a]\n{URI}", r"'target' is not known"),
    ("[targets]\na = 3", r"in \[targets.a\]: this is a table"),
    ('[targets."../a"]\n' + URI, r'in \[targets."../a"\]: a name has letters'),
    (f'[targets."{"a" * 129}"]\n{URI}', "128"),
    (f"[targets.a.example.org]\n{URI}", r'a name with dots needs quotes: \[targets."a.example"\]'),
    ("[targets.a]", "uri is missing"),
    ("[targets.a]\nuri = 3", "uri is missing"),
    ('[targets.a]\nuri = "host"', "uri is no URI"),
    ('[targets.a]\nurl = "test:///default"', "did you mean uri"),
    (f"[targets.a]\n{URI}\nspeed = 9", "there are uri, labels"),
    ('[targets.a]\nuri = "xenserver://u@h/"', "password_file=FILE"),
    (f'[targets.a]\nuri = "vsphere://u:{SECRET}@h/?password_file=/p"', "has a password in it"),
    ('[targets.a]\nuri = "vsphere://u@h/?password_file=/p&sha256=AB"', "SHA-256"),
    ('[targets.a]\nuri = "vsphere://u@h/?password_file=/p"\nworkers = 3', "for libvirt only"),
    (f"[targets.a]\n{URI}\nlabels = 3", "labels is a table"),
    (f'[targets.a]\n{URI}\nlabels = {{ "a b" = "c" }}', "is no name of a label"),
    (f'[targets.a]\n{URI}\nlabels = {{ __name__ = "c" }}', "is no name of a label"),
    (f'[targets.a]\n{URI}\nlabels = {{ uuid = "c" }}', "one of the metrics' own"),
    (f'[targets.a]\n{URI}\nlabels = {{ instance = "c" }}', "one of the metrics' own"),
    (f"[targets.a]\n{URI}\nlabels = {{ rack = 7 }}", "rack is not text"),
    (f"[targets.a]\n{URI}\ntimeout = true", "timeout is a number of seconds"),
    (f"[targets.a]\n{URI}\ntimeout = nan", "timeout is a number of seconds"),
    (f"[targets.a]\n{URI}\ntimeout = 0", "timeout is a number of seconds"),
    (f"[targets.a]\n{URI}\ntimeout = {'9' * 400}", "timeout is a number of seconds"),
    (f"[targets.a]\n{URI}\nworkers = 1.5", "workers is a whole number from 1 to 1000"),
    (f"[targets.a]\n{URI}\nworkers = {'9' * 400}", "workers is a whole number"),
    (f"[targets.a]\n{URI}\nworkers = 0", "workers is a whole number"),
    (f"[targets.a]\n{URI}\nask_sizes = 1", "ask_sizes is true or false"),
    (f'[targets.a]\n{URI}\nvms = "web"', "vms is a list of texts"),
    (f'[targets.a]\n{URI}\ncollect = ["cup"]', "collect: 'cup' is none of cpu, memory"),
    (f'[targets.a]\n{URI}\ncollect = ["vcpus"]\nno_collect = ["vcpus"]', "both name vcpus"),
    ("a = " + "[" * 100_000, "nested too deeply"),
    (f"[targets.a]\n{URI}\ntimeout = {'9' * 5000}", "a number has thousands of digits"),
]


@pytest.mark.parametrize(("text", "told"), MISTAKES)
def test_a_mistake_is_told_with_its_place(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(file)) + ".*" + told) as raised:
        targets.read(file)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_file_of_text_is_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        targets.read(file)
    with pytest.raises(ValueError, match="is not a regular file"):
        targets.read(tmp_path)
    file.write_bytes(b"# \xff")
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        targets.read(file)
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())  # a BOM is no mistake
    assert len(targets.read(file)) == 3


def test_no_label_of_an_operator_is_one_of_the_metrics() -> None:
    """Prometheus would rename the metric's to exported_…, and the dashboard find none."""
    printed = run(
        "--uri", "test:///default", "--once", *(f"--collect={each}" for each in ("vcpus",))
    )
    found = {name for _, labels in Samples(printed.stdout).values for name, _ in labels}
    assert {"uuid", "domain", "disk", "nic", "mac", "hypervisor", "call"} <= found
    assert found <= LABELS
