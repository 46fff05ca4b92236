"""The whole agent, ``ceilometer-polling`` 27.0.0, over a simulated vCenter whose clock runs.

There is no libvirt. Instances are discovered in what Nova wrote into the notes of the VMs, or by
Nova's API, which is played by a stand-in; samples are read from the agent's own exporter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.test_real_agent import VIRTMETER, Agent, Samples
from tests.support.openstack import OpenStack
from tests.support.qemu import wait_for
from tests.support.vcsim import PASSWORD, VM, VCenter, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(unavailable() is not None, reason=unavailable() or ""),
    pytest.mark.skipif(not VIRTMETER.exists(), reason=f"there is no {VIRTMETER.parent} in build"),
]

CONFIG = """
[DEFAULT]
transport_url = fake://
host = compute-1
[compute]
instance_discovery_method = {method}
[polling]
cfg_file = {polling}
enable_notifications = false
enable_prometheus_exporter = true
prometheus_listen_addresses = 127.0.0.1:{port}
[service_credentials]
auth_type = password
auth_url = {keystone}
username = ceilometer
password = none
project_name = service
user_domain_name = Default
project_domain_name = Default
[virtmeter]
uri = {uri}&password_file={password}
max_age = 1
"""
METERS = {
    *("cpu", "vcpus", "power_state", "memory", "memory_resident"),
    *("disk_root_size", "disk_ephemeral_size"),
    *(f"disk_device_{size}" for size in ("capacity", "allocation", "usage")),
    *(
        f"disk_device_{way}_{what}"
        for way in ("read", "write")
        for what in ("bytes", "requests", "latency")
    ),
    *(
        f"network_{way}_{what}"
        for way in ("incoming", "outgoing")
        for what in ("bytes", "bytes_delta", "packets", "packets_drop")
    ),
}
# They are there for the one polling that has a new sample, which is a second here.
RATES = {f"network_{way}_bytes_rate" for way in ("incoming", "outgoing")}


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter(off=1, suspended=1, now=None) as vcenter:
        yield vcenter


@pytest.fixture
def novas(vcenter: VCenter) -> list[VM]:
    """VMs of Nova's that run."""
    return [vm for vm in vcenter.vms() if vm.annotation and vm.state == "poweredOn"]


def server(vm: VM) -> dict[str, Any]:
    """Return what Nova's API says of an instance."""
    return {
        "id": vm.uuid,
        "name": f"server {vm.name}",
        "status": "ACTIVE",
        "tenant_id": "project-1",
        "user_id": "user-1",
        "hostId": "h",
        "flavor": {"id": "42"},
        "image": "",
        "metadata": {},
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{vm.name}",
        "OS-EXT-SRV-ATTR:host": "compute-1",
        "OS-EXT-STS:vm_state": "active",
    }


@pytest.fixture
def openstack(novas: list[VM]) -> Iterator[OpenStack]:
    with OpenStack([server(vm) for vm in novas]) as openstack:
        yield openstack


@pytest.fixture(params=["libvirt_metadata", "naive"])
def agent(
    request: pytest.FixtureRequest, tmp_path: Path, vcenter: VCenter, openstack: OpenStack
) -> Iterator[Agent]:
    password = tmp_path / "vcenter.pass"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    running = Agent(
        tmp_path,
        VIRTMETER,
        {},
        config=CONFIG,
        method=request.param,
        keystone=openstack.url,
        uri=vcenter.uri,
        password=password,
    )
    try:
        yield running
    finally:
        running.stop()


def of(vm: VM, samples: Samples) -> dict[str, list[float]]:
    """Return the values of each meter of a VM."""
    found: dict[str, list[float]] = {}
    for series, value in samples.items():
        if vm.uuid in series:
            meter = series.partition("{")[0].removeprefix("ceilometer_")
            found.setdefault(meter, []).append(value)
    return found


def test_the_meters_of_simulated_vms_are_delivered(
    agent: Agent, vcenter: VCenter, novas: list[VM]
) -> None:
    begun = vcenter.now
    first = agent.cycle()
    assert {vm.uuid for vm in vcenter.vms() if of(vm, first)} == {vm.uuid for vm in novas}
    for vm in novas:
        assert METERS <= of(vm, first).keys() <= METERS | RATES
    vm = novas[-1]

    def cpu(samples: Samples) -> float:
        [value] = of(vm, samples).get("cpu", [-1.0])
        return value

    last: Samples = {}

    def has_grown() -> bool:
        last.update(agent.fresh_cycle())
        return cpu(last) > cpu(first)

    wait_for(has_grown, "new samples of the VM", timeout=120, log=agent.log)
    assert METERS <= of(vm, last).keys() <= METERS | RATES
    # What was added is the sum of successive samples. Which ones, the agent does not tell.
    times = [time for time in vm.times(vcenter.now) if time > begun - 60]
    run = {time: vm.value("cpu.run.summation", "", time) * 10**6 for time in times}
    grown = cpu(last) - cpu(first)
    assert grown in {
        sum(run[time] for time in times[start:end])
        for start in range(len(times))
        for end in range(start, len(times) + 1)
    }
    assert agent.count("virtmeter is not active") == 0
    assert agent.count("serves all compute pollsters and discovery") == 1
    assert agent.count("Traceback") == 0
    assert agent.count(PASSWORD) == 0
    assert vcenter.logins() == 1
