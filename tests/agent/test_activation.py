"""The compute pollsters of each Ceilometer release, as its agent loads them, with virtmeter there.

The agent's part is played by ``agent.py``, in the environment of that release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.releases import HERE, RELEASES, ask, python_of, run
from tests.support import broken, sample, xdr
from tests.support.libvirtd import Then
from tests.support.procedures import VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, Domain, Error
from virtmeter.ceilometer import once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.libvirtd import Daemon
    from tests.support.qemu import Libvirtd

OURS, STOCK = ["virtmeter.ceilometer.inspector"], ["ceilometer.compute.virt.libvirt.inspector"]
MEASURED = {
    "cpu",
    "memory.usage",
    "network.incoming.bytes",
    "disk.device.read.bytes",
    "disk.device.capacity",
}
RATES = ["network.incoming.bytes.rate", "network.outgoing.bytes.rate"]
CONFIG = """
[DEFAULT]
libvirt_uri = {uri}
transport_url = fake://
{more}
[virtmeter]
enabled = {enabled}
additional_meters = {additional}
{ours}
"""
# What the sample domain says for each additional meter: type, unit, value and resource.
INSTANCE, DISK = sample.UUID, f"{sample.UUID}-vda"
ADDITIONAL = {
    "cpu.delay": ["cumulative", "ns", 2, INSTANCE],
    "cpu.wait": ["cumulative", "ns", 1, INSTANCE],
    "disk.device.flush.latency": ["cumulative", "ns", 1, DISK],
    "disk.device.flush.requests": ["cumulative", "request", 7, DISK],
    "memory.disk.caches": ["gauge", "MiB", 10.0, INSTANCE],
    "memory.fault.major": ["cumulative", "fault", 21, INSTANCE],
    "memory.fault.minor": ["cumulative", "fault", 1, INSTANCE],
    "memory.hugetlb.allocations": ["cumulative", "page", 4, INSTANCE],
    "memory.hugetlb.failures": ["cumulative", "page", 1, INSTANCE],
}


class Polled:
    """What came of one agent."""

    def __init__(self, printed: str) -> None:
        samples, *others = json.loads(printed)
        self.samples: list[list[Any]] = sorted(samples)
        self.not_provided, self.inspectors, self.pollsters, self.records = others

    def ours(self) -> list[list[str]]:
        """Return level and words of our own log lines."""
        return [
            [level, message]
            for name, level, message, _ in self.records
            if name.startswith("virtmeter")
        ]


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def poll(tmp_path: Path, release: str) -> Callable[..., Polled]:
    def poll(
        uri: str,
        *uuids: str,
        enabled: bool = True,
        additional: bool = False,
        order: str = "first",
        without_libvirt: bool = False,
        pollings: int = 1,
        more: str = "",
        ours: str = "",
        meanwhile: Callable[[], object] = lambda: None,
        anew: bool = False,
    ) -> Polled:
        config = tmp_path / "ceilometer.conf"
        options = {"enabled": enabled, "additional": additional, "more": more, "ours": ours}
        config.write_text(CONFIG.format(uri=uri, **options))
        question = [str(config), order, without_libvirt, uuids or [sample.UUID], pollings]
        if anew:
            command = [python_of(release), "-W", "ignore", HERE / "agent.py", json.dumps(question)]
            return Polled(run(*command, meanwhile=meanwhile))
        return Polled(ask(release, "agent.py", question, meanwhile=meanwhile))

    return poll


@pytest.fixture
def uri(daemon: Daemon) -> str:
    daemon.add(sample.domain(uuid=sample.UUID))
    return daemon.uri


@pytest.mark.parametrize("order", ["first", "last"])
def test_the_same_samples_whatever_the_order(
    poll: Callable[..., Polled], uri: str, order: str
) -> None:
    stock, ours = poll(uri, enabled=False, order=order), poll(uri, order=order)
    assert stock.inspectors == STOCK
    assert ours.inspectors == OURS
    assert {found[0] for found in ours.samples} >= MEASURED
    assert ours.samples == stock.samples
    assert sorted(ours.pollsters) == sorted(stock.pollsters)


def test_the_same_samples_of_real_guests(poll: Callable[..., Polled], rig: Libvirtd) -> None:
    paused = ("disks", "nics", "no-balloon", "many-vcpus", "shutoff")
    guests = [rig.guests[what].uuid for what in paused]
    stock, ours = poll(rig.uri, *guests, enabled=False), poll(rig.uri, *guests)
    # The one sample that may move while all guests are paused.
    still = [found for found in ours.samples if found[0] != "memory.resident"]
    assert still == [found for found in stock.samples if found[0] != "memory.resident"]
    assert {found[0] for found in still} >= MEASURED - {"memory.usage"}


@pytest.mark.parametrize("release", ["19.0.0", "27.0.0"], indirect=True)
def test_an_instance_that_cannot_be_read_is_logged_once_and_not_by_each_meter_in_each_cycle(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    other = "4dea22b3-1d52-d8f3-2516-782e98ab3fa1"
    deep = "<a>" * 300 + "</a>" * 300
    daemon.add(Domain(other, "other", xml=f"<domain><metadata>{deep}</metadata></domain>"))
    ours = poll(uri, sample.UUID, other, pollings=3)
    said = [message for _, _, message, _ in ours.records if other in message]
    assert len([message for message in said if "nested more than 256 deep" in message]) == 1
    assert {found[0] for found in ours.samples} >= MEASURED
    assert "cpu" in {found[0] for found in ours.samples if found[4] == other}


@pytest.mark.parametrize("release", ["27.0.0"], indirect=True)
def test_what_libvirt_refuses_with_another_number_each_time_is_logged_once(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    words = [f"no answer to request {number}, req-{number}a" for number in range(500)]
    said = [Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, each) for each in words]
    daemon.on("DOMAIN_GET_XML_DESC", *said, repeat=True)
    ours = poll(uri, sample.UUID, pollings=3)
    told = [message for _, _, message, _ in ours.records if "no answer to request" in message]
    assert len(told) == 1


def test_rates_are_delivered_from_the_second_polling_on(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    def grow(daemon: Daemon) -> None:
        received, *_, sent, _, _, _ = daemon.domains[sample.UUID].interfaces["tap1"]
        counters = (received + 2000, 2, 3, 4, sent + 1000, 6, 7, 8)
        daemon.domains[sample.UUID].interfaces["tap1"] = counters

    daemon.on("DOMAIN_INTERFACE_STATS", Then(grow), repeat=True)
    stock = poll(uri, enabled=False, pollings=2)
    assert not [found for found in poll(uri).samples if found[0] in RATES], "of the first polling"
    polled = poll(uri, pollings=2)
    # Older releases have other pollsters that nobody provides for.
    assert set(stock.not_provided) - set(polled.not_provided) == set(RATES)
    incoming, outgoing = (found for found in polled.samples if found[0] in RATES)
    assert [incoming[0], outgoing[0]] == RATES
    assert incoming[1:3] == outgoing[1:3] == ["gauge", "B/s"]
    assert incoming[3] == pytest.approx(2 * outgoing[3])
    assert outgoing[3] > 0
    assert incoming[4] == outgoing[4] == "no-spoof"
    others = [found[0] for found in polled.samples if found[0] not in RATES]
    assert others == [found[0] for found in stock.samples]


def test_libvirt_python_is_not_needed(poll: Callable[..., Polled], uri: str) -> None:
    with_it = poll(uri)
    for order in ("first", "last"):
        without = poll(uri, without_libvirt=True, order=order)
        assert without.inspectors == OURS
        assert without.samples == with_it.samples


def test_one_line_says_who_serves(poll: Callable[..., Polled], uri: str) -> None:
    [(level, message)] = poll(uri).ours()
    assert level == "INFO"
    assert message.startswith("virtmeter 0.")
    assert uri in message
    [(level, message)] = poll(uri, enabled=False).ours()
    assert (level, message) == ("INFO", "virtmeter is installed, but [virtmeter] enabled is false")


def test_libvirtd_is_down_at_the_start(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    daemon.stop()
    down = poll(uri, without_libvirt=True, order="last")
    daemon.start()
    up = poll(uri)
    assert down.inspectors == OURS
    assert sorted(down.pollsters) == sorted(up.pollsters), "no pollster is lost"
    # What is left is read from the instance itself, and not from libvirt.
    assert {found[0] for found in down.samples}.isdisjoint(MEASURED)
    assert not [record for record in down.records if record[3]], "no traceback"


@pytest.mark.parametrize(("order", "additional"), [("first", False), ("last", True)])
def test_no_pollster_is_lost_when_libvirtd_comes_after_the_agent(
    poll: Callable[..., Polled], uri: str, daemon: Daemon, order: str, additional: bool
) -> None:
    """With libvirt-python: pollsters that come before ours make a stock inspector, in vain."""
    stock = poll(uri, enabled=False)
    daemon.stop()
    late = poll(uri, order=order, additional=additional, meanwhile=daemon.start)
    added = [*ADDITIONAL] if additional else []
    assert late.inspectors == OURS
    assert sorted(late.pollsters) == sorted([*stock.pollsters, *added])
    assert [found for found in late.samples if found[0] not in ADDITIONAL] == stock.samples
    restored = [message for _, message in late.ours() if "restored" in message]
    assert len(restored) == (order == "last")
    assert not [record for record in late.records if record[3]], "no traceback"


@pytest.mark.parametrize("release", ["19.0.0", "22.0.0"], indirect=True)
def test_the_name_virtmeter_in_releases_that_take_it(poll: Callable[..., Polled], uri: str) -> None:
    named = poll(uri, more="hypervisor_inspector = virtmeter", order="last")
    assert named.inspectors == OURS
    assert named.samples == poll(uri).samples


@pytest.mark.parametrize("release", ["19.0.0", "22.0.0"], indirect=True)
def test_disabled_by_that_name_too(poll: Callable[..., Polled], uri: str) -> None:
    named = poll(uri, more="hypervisor_inspector = virtmeter", enabled=False)
    assert named.inspectors == STOCK


@pytest.mark.parametrize(("option", "order"), [("enabled", "first"), ("timeout", "last")])
def test_a_mistyped_option_is_one_line_and_the_agent_as_it_was(
    poll: Callable[..., Polled], uri: str, option: str, order: str
) -> None:
    stock = poll(uri, enabled=False)
    polled = poll(uri, additional=True, ours=f"{option} = maybe", order=order)
    assert polled.inspectors == STOCK
    assert polled.samples == stock.samples
    assert sorted(polled.pollsters) == sorted(stock.pollsters)
    assert not [record for record in polled.records if record[3]], "no traceback"
    [(level, message)] = polled.ours()
    assert level == "ERROR"
    assert message.startswith(
        "virtmeter is not active, Ceilometer's own inspector is used: "
        f"[virtmeter] {option}: 'maybe' is not "
    )


def test_what_libvirt_says_is_printable_in_the_log(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    said = Error(VIR_ERR_INTERNAL_ERROR, VIR_FROM_QEMU, "a\x1b[2J\n2026-01-01 INFO \u202eb")
    daemon.on("DOMAIN_BLOCK_STATS", said, repeat=True)
    told = [message for _, message in poll(uri).ours() if "is left out" in message]
    assert told
    for message in told:
        assert message.isprintable()
        assert r"a\x1b[2J\n2026-01-01 INFO \u202eb" in message


@pytest.mark.parametrize("order", ["first", "last"])
def test_additional_meters_are_there_when_they_are_wanted(
    poll: Callable[..., Polled], uri: str, daemon: Daemon, release: str, order: str
) -> None:
    without = poll(uri, order=order)
    assert set(without.pollsters).isdisjoint(ADDITIONAL)
    calls = daemon.calls.copy()
    with_them = poll(uri, order=order, additional=True)
    unit = "MiB" if release == "27.0.0" else "MB"
    added = [
        [name, kind, unit if name == "memory.disk.caches" else of, value, resource]
        for name, (kind, of, value, resource) in ADDITIONAL.items()
    ]
    assert with_them.samples == sorted([*without.samples, *added])
    assert sorted(with_them.pollsters) == sorted([*without.pollsters, *ADDITIONAL])
    assert daemon.calls["DOMAIN_MEMORY_STATS"] == 2 * calls["DOMAIN_MEMORY_STATS"]
    assert daemon.calls["DOMAIN_BLOCK_STATS"] == 2 * calls["DOMAIN_BLOCK_STATS"]


def test_additional_meters_without_a_value_are_left_out_without_a_word(
    poll: Callable[..., Polled], uri: str, daemon: Daemon
) -> None:
    domain = daemon.domains[sample.UUID]
    for tag in (2, 3, 10, 11, 12):
        del domain.memory[tag]
    del domain.disks["vda"].flags["flush_operations"]
    domain.disks["vda"].flags["flush_total_times"] = xdr.LLong(-1)
    del domain.stats["vcpu.1.delay"]
    without, with_them = poll(uri), poll(uri, additional=True)
    assert [found for found in with_them.samples if found not in without.samples] == [
        ["cpu.wait", *ADDITIONAL["cpu.wait"]]
    ]
    said = [[message for _, _, message, _ in polled.records] for polled in (without, with_them)]
    assert said[0] == said[1]


def test_additional_meters_go_with_virtmeter(poll: Callable[..., Polled], uri: str) -> None:
    stock, disabled = poll(uri, enabled=False), poll(uri, enabled=False, additional=True)
    assert sorted(disabled.pollsters) == sorted(stock.pollsters)
    assert disabled.samples == stock.samples


@pytest.mark.parametrize("release", ["19.0.0"], indirect=True)
def test_other_hypervisors_are_left_alone(poll: Callable[..., Polled], uri: str) -> None:
    [(level, message)] = poll(uri, more="hypervisor_inspector = vsphere").ours()
    assert (level, message) == ("INFO", "virtmeter leaves hypervisor_inspector=vsphere alone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the library in a namespace")
def test_without_libvirts_library_the_stock_inspector_stays(
    poll: Callable[..., Polled], uri: str, release: str, tmp_path: Path
) -> None:
    """Where libvirt.so.0 cannot be loaded, neither can libvirt-python: the agent as it was."""
    poll(uri)
    question = json.dumps([str(tmp_path / "ceilometer.conf"), "last", False, [sample.UUID]])
    hide = (
        "mount --bind /dev/null \"$(realpath \"$(ldconfig -p | sed -n 's/.*libvirt.so.0.*=> //p' "
        '| head -n 1)")" && exec "$@"'
    )
    command = [python_of(release), "-W", "ignore", HERE / "agent.py", question]
    polled = Polled(run("unshare", "--mount", "sh", "-c", hide, "sh", *command))
    assert polled.inspectors == ["ceilometer.compute.virt.inspector"]
    [error] = [found for found in polled.records if "virtmeter" in found[0] + found[2]]
    assert error[:2] == ["virtmeter.ceilometer.activation", "ERROR"]
    assert error[2].startswith(
        "virtmeter is not active, Ceilometer's own inspector is used: virtmeter needs the system's "
        "libvirt client library"
    )


@pytest.mark.parametrize(
    ("release", "name"),
    [*((release, "libvirt") for release in RELEASES), ("19.0.0", "virtmeter")],
    indirect=["release"],
)
def test_without_a_core_that_can_be_loaded_the_stock_inspector_stays(
    poll: Callable[..., Polled],
    uri: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock = poll(uri, enabled=False)
    broken.make(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    polled = poll(uri, more=f"hypervisor_inspector = {name}", additional=True, anew=True)
    assert polled.inspectors == STOCK
    assert polled.samples == stock.samples
    [(level, message)] = polled.ours()
    assert level == "ERROR"
    assert "virtmeter's compiled core cannot be loaded" in message


def test_a_ceilometer_that_keeps_its_inspector_elsewhere() -> None:
    """Simulated: nobody knows where the next release keeps it."""
    script = """
from unittest import mock
from ceilometer.compute.pollsters import GenericComputePollster
from virtmeter.ceilometer import activation
with mock.patch.object(GenericComputePollster, "setup_environment", lambda self: None):
    try:
        activation.activate(None)
    except RuntimeError as error:
        print(error)
assert "inspector" not in vars(GenericComputePollster)
"""
    printed = run(sys.executable, "-W", "ignore", "-c", script)
    assert printed == "this release of Ceilometer keeps its inspector elsewhere"


def test_a_pollster_with_an_inspector_of_its_own_keeps_it() -> None:
    script = """
from unittest import mock
from ceilometer.compute.pollsters import GenericComputePollster
from ceilometer.compute.virt import inspector as virt_inspector
from virtmeter.ceilometer.activation import Inspector
GenericComputePollster.inspector = Inspector("virtmeter's")
class Pollster(GenericComputePollster):
    def __init__(self): pass
    def get_samples(self, *_): return []
pollster = Pollster()
found = [pollster.inspector]
pollster.inspector = virt_inspector.Inspector(None)
found.append(pollster.inspector)
with mock.patch.object(pollster, "inspector", "its own"):
    found.append(pollster.inspector)
found.append(pollster.inspector)
del pollster.inspector
found.append(pollster.inspector)
print(found)
"""
    ours = "virtmeter's"
    printed = run(sys.executable, "-W", "ignore", "-c", script)
    assert printed == str([ours, ours, "its own", ours, ours])


def test_the_options_are_generated_with_their_help() -> None:
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "oslo_config.generator", "--namespace", "virtmeter"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "[virtmeter]" in completed.stdout
    assert "#enabled = true" in completed.stdout
    assert "#additional_meters = false" in completed.stdout
    assert "as if virtmeter were not installed" in completed.stdout.replace("\n# ", " ")


def test_what_is_known_of_faults_is_bounded() -> None:
    """Their words may be of somebody who makes new ones all the time."""
    faults = once.Once()
    assert all(faults.is_new(str(number)) for number in range(3 * once.MOST))
    assert len(faults._met) <= once.MOST + 1
    assert not faults.is_new(str(3 * once.MOST - 1))
