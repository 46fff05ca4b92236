"""Which instances the agent finds in a vCenter: by the notes that Nova wrote, or by Nova's API."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.agent.releases import RELEASES, python_of, run
from tests.agent.test_pool import CONFIG
from tests.support.vcsim import PASSWORD, VCenter, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

METHOD = "host = compute-1\n[compute]\ninstance_discovery_method = {}"
# Nova's API knows the id of a flavor, and says of no server where it runs but on the agent's host.
SCRIPT = """
import json, logging, sys
from types import SimpleNamespace as Some
from ceilometer import service
conf = service.prepare_service(["agent"], [sys.argv[1]])
sys.excepthook = sys.__excepthook__
from virtmeter.ceilometer.activation import Activation
Activation(conf)
logged = []
keep = logging.Handler()
keep.emit = lambda record: logged.append(record.getMessage())
logging.getLogger().handlers = [keep]
from ceilometer.compute.discovery import InstanceDiscovery
discovery = InstanceDiscovery(conf)
def get(uuid):
    if not conf.host.startswith("compute"):
        raise OSError("Nova is away")
    return Some(flavor={"id": "id-of-m1.small"}, metadata={})
def find(name, is_public):
    get(name)
    return Some(id="id-of-" + name)
discovery.nova_cli = Some(
    nova_client=Some(flavors=Some(find=find), servers=Some(get=get)),
    instance_get_all_by_host=lambda host, since: [Some(id=host)],
)
found = [vars(instance) for instance in discovery.discover(None)]
print(json.dumps([found, logged]))
"""


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vcenter() -> Iterator[VCenter]:
    with VCenter(hosts=2, vms=4) as vcenter:
        yield vcenter


def discover(tmp_path: Path, release: str, vcenter: VCenter, more: str) -> Any:
    """Return the attributes of all instances that are found, and what was logged of that."""
    config, password = tmp_path / "ceilometer.conf", tmp_path / "vcenter.pass"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    uri = f"{vcenter.uri}&password_file={password}"
    config.write_text(CONFIG.format(uri=uri, more=more, ours=""))
    return json.loads(run(python_of(release), "-W", "ignore", "-c", SCRIPT, config))


def test_instances_are_those_that_novas_notes_name(
    tmp_path: Path, release: str, vcenter: VCenter
) -> None:
    off, suspended = (vcenter.create(nova=True, number=number) for number in (200, 201))
    vcenter.power_off(off)
    vcenter.suspend(suspended)
    found, logged = discover(tmp_path, release, vcenter, METHOD.format("libvirt_metadata"))
    assert logged == []
    by_id = {instance["id"]: instance for instance in found}
    novas = [vm for vm in vcenter.vms() if vm.annotation]
    assert by_id.keys() == {vm.uuid for vm in novas}
    assert len(found) == 4
    vm = vcenter.vm("vm-0002")
    notes = dict(line.rsplit(":", 1) for line in vm.annotation.splitlines())
    project = notes["projectid"]
    assert by_id[vm.uuid] == {
        "id": vm.uuid,
        "name": "instance-2",
        "flavor": {
            "id": "id-of-m1.small",
            "name": "m1.small",
            "vcpus": vm.cpus,
            "ram": vm.mib,
            "disk": 1,
            "ephemeral": 0,
            "swap": 0,
        },
        "image": {"id": notes["imageid"]},
        "os_type": "hvm",
        "architecture": "x86_64",
        "OS-EXT-SRV-ATTR:instance_name": "vm-0002",
        "OS-EXT-SRV-ATTR:host": "compute-1",
        "OS-EXT-STS:vm_state": "running",
        "tenant_id": project,
        "user_id": notes["userid"],
        "hostId": hashlib.sha224(f"{project}compute-1".encode()).hexdigest(),
        "status": "active",
        "metadata": {},
    }
    states = {vm.ref: by_id[vm.uuid]["OS-EXT-STS:vm_state"] for vm in novas}
    assert (states[off], states[suspended]) == ("shutdown", "suspended")


@pytest.mark.parametrize("method", ["naive", "workload_partitioning"])
def test_novas_api_is_asked_where_that_is_wanted(
    tmp_path: Path, release: str, vcenter: VCenter, method: str
) -> None:
    found, _ = discover(tmp_path, release, vcenter, METHOD.format(method))
    assert [instance["id"] for instance in found] == ["compute-1"]
    assert vcenter.logins() == 0


@pytest.mark.parametrize("release", ["19.0.0", "27.0.0"], indirect=True)
def test_an_instance_of_which_the_notes_lack_something_is_logged_and_left_out(
    tmp_path: Path, release: str, vcenter: VCenter
) -> None:
    whole, incomplete = vcenter.vm("vm-0000"), vcenter.vm("vm-0002")
    lines = [line for line in incomplete.annotation.splitlines() if "userid" not in line]
    vcenter.reconfigure(incomplete.ref, annotation="\n".join(lines))
    found, logged = discover(tmp_path, release, vcenter, METHOD.format("libvirt_metadata"))
    assert [instance["id"] for instance in found] == [whole.uuid]
    [line] = logged
    assert incomplete.uuid in line
    assert "the owner's user id" in line
    assert "XML" not in line


@pytest.mark.parametrize("release", ["19.0.0", "27.0.0"], indirect=True)
def test_without_novas_api_there_is_one_warning(
    tmp_path: Path, release: str, vcenter: VCenter
) -> None:
    """The notes have no flavor id."""
    more = METHOD.format("libvirt_metadata").replace("compute-1", "away")
    found, logged = discover(tmp_path, release, vcenter, more)
    assert found == []
    assert logged == ["no instance is discovered: Nova is away"]
