"""The compute pollsters of the oldest and the newest Ceilometer over a simulated pool of XenServer.

No libvirt is configured. The agent's part is played by ``agent.py``, as in test_activation.py.
"""

from __future__ import annotations

from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.releases import ask, python_of, run
from tests.agent.test_activation import Polled
from tests.support.xapi import PASSWORD, Pool
from tests.support.xapi.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(which("openssl") is None, reason="there is no openssl")

OURS = ["virtmeter.ceilometer.inspector"]
NOVA = "0f0f0f0f-1111-4222-8333-444444444444"
CONFIG = """
[DEFAULT]
libvirt_uri = test+unix:///default?socket=/nonexistent/socket
transport_url = fake://
{more}
[virtmeter]
uri = {uri}
{ours}
"""
# What is known of a VM whose guest has an agent.
METERS = {
    *("cpu", "memory.usage", "network.incoming.bytes", "network.outgoing.bytes"),
    *("disk.device.read.bytes", "disk.device.write.bytes"),
    *("disk.device.capacity", "disk.device.allocation", "disk.device.usage"),
}
# What only some releases have pollsters for: deltas, the state, and what the flavor says.
OTHERS = {
    *("network.incoming.bytes.delta", "network.outgoing.bytes.delta"),
    "network.outgoing.packets.delta",  # of bytes, in fact
    *("power.state", "vcpus", "memory", "disk.root.size", "disk.ephemeral.size"),
}
SIZES = {"disk.device.capacity", "disk.device.allocation", "disk.device.usage"}
ROWS = "GET /rrd_updates"
RATES = ["network.incoming.bytes.rate", "network.outgoing.bytes.rate"]


@pytest.fixture(params=["19.0.0", "27.0.0"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "pool.pass"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    return file


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool("xapi-26.17_steady", hosts=2) as pool:
        pool.now += 120
        yield pool


@pytest.fixture
def poll(tmp_path: Path, release: str, password: Path) -> Callable[..., Polled]:
    def poll(
        pool: Pool,
        *uuids: str,
        order: str = "first",
        without_libvirt: bool = True,
        pollings: int = 1,
        more: str = "",
        ours: str = "",
    ) -> Polled:
        config = tmp_path / "ceilometer.conf"
        uri = f"{pool.uri()}&password_file={password}"
        config.write_text(CONFIG.format(uri=uri, more=more, ours=ours))
        question = [str(config), order, without_libvirt, uuids, pollings]
        return Polled(ask(release, "agent.py", question))

    return poll


def volumes(polled: Polled, name: str) -> dict[str, Any]:
    """Return the volumes of a meter by their resources."""
    return {resource: volume for meter, _, _, volume, resource in polled.samples if meter == name}


def of(polled: Polled, uuid: str) -> set[str]:
    """Return which meters have samples of an instance or its devices."""
    return {sample[0] for sample in polled.samples if uuid in sample[4]}


def complaints(polled: Polled) -> list[list[str]]:
    """Return what virtmeter and the pollsters log beyond information, and every traceback."""
    loggers = ("virtmeter", "ceilometer.compute.pollsters")
    return [
        [name, message]
        for name, level, message, traceback in polled.records
        if traceback or (name.startswith(loggers) and level != "INFO")
    ]


def test_an_instance_of_novas_has_the_standard_meters(
    poll: Callable[..., Polled], pool: Pool
) -> None:
    vm = pool.vm("A")
    vm.set(other_config={"nova_uuid": NOVA})
    polled = poll(pool, NOVA)
    assert polled.inspectors == OURS
    assert METERS <= of(polled, NOVA) <= METERS | OTHERS
    client = Client(pool)
    cpu = sum(client.counter(vm.uuid, f"cpu{number}") for number in range(4))
    assert volumes(polled, "cpu")[NOVA] == pytest.approx(cpu * 1e9, abs=1e6)
    for meter, volume in (("vcpus", 4), ("power.state", 1)):
        assert volumes(polled, meter) in ({}, {NOVA: volume})
    domid = vm.record["domid"]
    for meter, name in (("incoming", "rx"), ("outgoing", "tx")):
        assert volumes(polled, f"network.{meter}.bytes") == {
            f"None-{NOVA}-vif{domid}.{n}": client.counter(vm.uuid, f"vif_{n}_{name}")
            for n in (0, 2)
        }
    for name in ("read", "write"):
        assert volumes(polled, f"disk.device.{name}.bytes") == {
            f"{NOVA}-{disk}": client.counter(vm.uuid, f"vbd_{disk}_{name}")
            for disk in ("xvda", "xvdb", "xvdd")
        }
    assert volumes(polled, "disk.device.capacity")[f"{NOVA}-xvda"] == 20 * 2**30


def test_what_is_not_known_has_no_sample_and_no_line_in_the_log(
    poll: Callable[..., Polled], pool: Pool
) -> None:
    with_agent, without = pool.vm("A").uuid, pool.vm("G").uuid
    polled = poll(pool, with_agent, without, ours="additional_meters = true")
    assert not [sample for sample in polled.samples if sample[3] in (None, -1)]
    assert of(polled, with_agent) - of(polled, without) >= {"memory.usage"}
    assert of(polled, without) >= {"cpu", "network.incoming.bytes", "disk.device.read.bytes"}
    assert complaints(polled) == []
    [(level, message)] = polled.ours()
    assert level == "INFO"
    assert 'serves all compute pollsters: <virtmeter.Inspector("xenserver://monitor@' in message
    assert not any(PASSWORD in record[2] for record in polled.records)


def test_cpu_time_that_a_release_rounds_to_five_digits_is_told(
    poll: Callable[..., Polled],
) -> None:
    with Pool("xapi-24.19_drift") as pool:
        pool.now += 120
        vm = pool.vm("A").uuid
        polled = poll(pool, vm)
        assert of(polled, vm) >= METERS
        assert complaints(polled) == []


@pytest.mark.parametrize("order", ["first", "last"])
def test_no_pollster_is_lost_where_there_is_no_libvirt(
    poll: Callable[..., Polled], pool: Pool, order: str
) -> None:
    vm = pool.vm("A").uuid
    without = poll(pool, vm, order=order)
    with_it = poll(pool, vm, order=order, without_libvirt=False)
    assert with_it.inspectors == without.inspectors == OURS
    assert sorted(with_it.pollsters) == sorted(without.pollsters)
    assert with_it.samples == without.samples
    assert of(with_it, vm) >= METERS


@pytest.mark.parametrize("release", ["19.0.0"], indirect=True)
@pytest.mark.parametrize("name", ["vsphere", "xenapi"])
def test_the_name_of_a_stock_inspector_does_not_matter(
    poll: Callable[..., Polled], pool: Pool, name: str
) -> None:
    """The last order is the worst: each pollster makes a stock inspector first, or fails to."""
    vm = pool.vm("A").uuid
    usual = poll(pool, vm)
    polled = poll(pool, vm, order="last", more=f"hypervisor_inspector = {name}")
    assert polled.inspectors == OURS
    assert sorted(polled.pollsters) == sorted(usual.pollsters)
    assert polled.samples == usual.samples


def test_rates_are_delivered_from_the_second_polling_on(
    poll: Callable[..., Polled],
) -> None:
    def now() -> float:
        rows = sum(times for (_, what), times in list(made.calls.items()) if what == ROWS)
        return min(made.start + 120.0 + 10 * rows, made.end)

    made = Pool("xapi-26.17_steady", now=now)
    with made as pool:
        vm = pool.vm("A")
        first = poll(pool, vm.uuid, ours="max_age = 0")
        pool.forget()
        polled = poll(pool, vm.uuid, pollings=2, ours="max_age = 0")
        assert not [sample for sample in first.samples if sample[0] in RATES]
        for meter, name in zip(RATES, ("rx", "tx")):
            [rate] = [v for k, v in volumes(polled, meter).items() if k.endswith(".0")]
            grown = pool.truth(vm.uuid, f"vif_0_{name}", pool.end - 5)
            before = pool.truth(vm.uuid, f"vif_0_{name}", pool.start + 60)
            assert grown is not None
            assert before is not None
            mean = (grown - before) / (pool.end - 5 - pool.start - 60)
            assert mean / 4 < rate < mean * 4


def test_a_wrong_password_is_tried_once(
    poll: Callable[..., Polled], pool: Pool, password: Path
) -> None:
    password.write_text("wrong")
    vms = [pool.vm(letter).uuid for letter in "ABG"]
    polled = poll(pool, *vms, order="last", pollings=3)
    assert pool.sessions.logins == 1
    assert of(polled, vms[0]).isdisjoint(METERS)
    [line] = [line for line in complaints(polled) if line[0].startswith("virtmeter")]
    assert "wrong user name or password" in line[1]
    assert complaints(polled) == [line]


@pytest.mark.parametrize("release", ["19.0.0"], indirect=True)
def test_there_is_one_inspector_where_one_was_made_before(tmp_path: Path, release: str) -> None:
    """By hypervisor_inspector = virtmeter. A second would log in a second time."""
    config = tmp_path / "ceilometer.conf"
    more = "hypervisor_inspector = virtmeter"
    config.write_text(CONFIG.format(uri="xenserver://monitor@127.0.0.1/", more=more, ours=""))
    script = """
import sys
from ceilometer import service
conf = service.prepare_service(["agent"], [sys.argv[1]])
from ceilometer.compute.pollsters import GenericComputePollster
before = GenericComputePollster._get_inspector(conf)
from virtmeter.ceilometer.activation import Activation
Activation(conf)
print(vars(GenericComputePollster)["inspector"].serving is before)
"""
    assert run(python_of(release), "-W", "ignore", "-c", script, config) == "True"


def test_a_host_that_is_away_costs_its_own_instances_and_one_line(
    poll: Callable[..., Polled], pool: Pool
) -> None:
    here, there = ([pool.vm(letter, host).uuid for letter in "AB"] for host in (0, 1))
    pool.hosts[1].fail(path="/rrd_updates", status=500)
    polled = poll(pool, *there, *here, pollings=2)
    for vm in here:
        assert of(polled, vm) >= METERS
    for vm in there:
        assert of(polled, vm).isdisjoint(METERS - SIZES)
    [line] = complaints(polled)
    assert line[0].startswith("virtmeter")
    assert line[1].startswith("host xcp2 does not answer, and its instances are left out")


@pytest.mark.parametrize("wrong", ["qemu:///system", "xenserver://monitor:s3cret@h/", "s3cret"])
def test_a_wrong_uri_leaves_the_stock_agent_and_is_not_shown(
    pool: Pool, poll: Callable[..., Polled], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(pool, "uri", lambda: wrong)
    polled = poll(pool, pool.vm("A").uuid)
    assert polled.inspectors == ["ceilometer.compute.virt.inspector"]
    [(level, message)] = polled.ours()
    assert level == "ERROR"
    assert message.startswith("virtmeter is not active, Ceilometer's own inspector is used: ")
    assert not any("s3cret" in record[2] for record in polled.records)


@pytest.mark.parametrize("method", ["libvirt_metadata", "naive"])
def test_instances_are_those_of_novas_api(tmp_path: Path, release: str, method: str) -> None:
    config = tmp_path / "ceilometer.conf"
    more = f"host = compute-1\n[compute]\ninstance_discovery_method = {method}"
    config.write_text(CONFIG.format(uri="xenserver://monitor@127.0.0.1/", more=more, ours=""))
    script = """
import sys
from types import SimpleNamespace
from ceilometer import service
conf = service.prepare_service(["agent"], [sys.argv[1]])
from virtmeter.ceilometer.activation import Activation
Activation(conf)
from ceilometer.compute.discovery import InstanceDiscovery
discovery = InstanceDiscovery(conf)
found = lambda host, since: [SimpleNamespace(id=host)]
discovery.nova_cli = SimpleNamespace(instance_get_all_by_host=found)
print([instance.id for instance in discovery.discover(None)])
"""
    assert run(python_of(release), "-W", "ignore", "-c", script, config) == "['compute-1']"
