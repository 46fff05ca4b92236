"""Discovery from libvirt's metadata: the attributes and the questions to Nova of each release.

libvirt's own test hypervisor serves the domains: the metadata is what real libvirt makes of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import virtmeter
from tests.agent.releases import RELEASES, ask
from tests.support.libvirtd import Daemon, HangUp, Then
from tests.support.procedures import Domain
from virtmeter.ceilometer import discovery

if TYPE_CHECKING:
    from pathlib import Path

NOVA = "http://openstack.org/xmlns/libvirt/nova/1."
UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3f{:02}"
OWNER = (
    "<n:owner><n:user uuid='user-1'>me</n:user><n:project uuid='project-1'>we</n:project></n:owner>"
)
SIZES = "<n:memory>512</n:memory><n:disk>1</n:disk><n:swap>0</n:swap><n:vcpus>2</n:vcpus>"
FULL = f"""
<n:package version='30.0.0'/><n:name>web &amp; more</n:name>{OWNER}
<n:flavor name='known' id='42'>{SIZES}<n:ephemeral>7</n:ephemeral>
  <n:extraSpecs><n:extraSpec name='hw:a'>b</n:extraSpec><n:extraSpec name='hw:c'/></n:extraSpecs>
</n:flavor>
<n:root type='image' uuid='image-1'/>
<n:image uuid='base-1'><n:containerFormat>bare</n:containerFormat><n:diskFormat>qcow2</n:diskFormat>
  <n:minDisk>1</n:minDisk><n:minRam>0</n:minRam>
  <n:properties><n:property name='hw_x'>y</n:property><n:property name='os'/></n:properties>
</n:image>
"""
INSTANCES = {
    "everything": FULL,
    "an old one": f"<n:name>db</n:name>{OWNER}<n:flavor name='known'>{SIZES}</n:flavor>",
    "a flavor that is gone": f"<n:name>db</n:name>{OWNER}<n:flavor name='gone'>{SIZES}</n:flavor>",
    "no sizes": f"<n:name/>{OWNER}<n:flavor name='known' id=''/><n:root type='volume'/>",
    "empty parts": (
        f"<n:name>x</n:name>{OWNER}<n:flavor name='known' id='1'><n:extraSpecs/></n:flavor>"
        "<n:image/>"
    ),
}
MALFORMED = {
    "no name": f"{OWNER}<n:flavor name='known'/>",
    "no owner": "<n:name>x</n:name><n:flavor name='known'/>",
    "no flavor": f"<n:name>x</n:name>{OWNER}",
}


def domain(number: int, inside: str, version: str = "1", arch: str = "x86_64") -> str:
    """Return a domain of libvirt's test hypervisor with Nova's metadata."""
    return f"""
    <domain type='test'><name>instance-{number:08x}</name><uuid>{UUID.format(number)}</uuid>
      <metadata><o:other xmlns:o='urn:other'><name>not this</name></o:other>
        <n:instance xmlns:n='{NOVA}{version}'>{inside}</n:instance></metadata>
      <memory>131072</memory><vcpu>1</vcpu><os><type arch='{arch}'>hvm</type></os></domain>"""


STRANGER = f"""
    <domain type='test'><name>mine</name><uuid>{UUID.format(99)}</uuid><memory>131072</memory>
    <os><type arch='x86_64'>hvm</type></os></domain>"""


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def discover(release: str, tmp_path: Path, *domains: str, more: str = "") -> Any:
    """Return what the stock discovery finds, asks and logs, and what ours does."""
    node, config = tmp_path / "node.xml", tmp_path / "ceilometer.conf"
    node.write_text(f"<node>{''.join(domains)}{STRANGER}</node>")
    config.write_text(
        "[DEFAULT]\ntransport_url = fake://\nhost = compute-1\n"
        f"libvirt_uri = test://{node}\n"
        f"[compute]\ninstance_discovery_method = libvirt_metadata\n{more}"
    )
    return json.loads(ask(release, "discover.py", [str(config)]))


@pytest.mark.parametrize("version", ["1", "0"])
def test_every_attribute(release: str, tmp_path: Path, version: str) -> None:
    domains = [domain(n, inside, version) for n, inside in enumerate(INSTANCES.values())]
    stock, ours = discover(release, tmp_path, *domains)
    assert ours[0] == stock[0]
    assert len(ours[0]) == len(INSTANCES), "and not the domain that is not Nova's"
    assert ours[1] == stock[1], "Nova is asked the same"


@pytest.mark.parametrize("release", ["27.0.0"], indirect=True)
def test_the_users_metadata_where_it_is_wanted(release: str, tmp_path: Path) -> None:
    domains = [domain(number, inside) for number, inside in enumerate(INSTANCES.values())]
    stock, ours = discover(release, tmp_path, *domains, more="fetch_extra_metadata = true")
    assert ours[:2] == stock[:2]
    assert ours[0][0]["metadata"] == {"group": "g"}
    assert len(ours[1]) == len(INSTANCES)


def test_a_malformed_instance_is_logged_and_left_out(release: str, tmp_path: Path) -> None:
    domains = [domain(number, inside) for number, inside in enumerate(MALFORMED.values())]
    stock, ours = discover(release, tmp_path, *domains, domain(50, FULL))
    assert [found["id"] for found in ours[0]] == [UUID.format(50)]
    assert ours[0] == stock[0]
    for number in range(len(MALFORMED)):
        assert len([line for line in ours[2] if UUID.format(number) in line]) == 1


INCOMPLETE = {
    f"<n:name>x</n:name>{OWNER}<n:flavor/>": "the flavor's name",
    f"<n:name>x</n:name>{OWNER}<n:flavor name='known'><n:swap>much</n:swap></n:flavor>": (
        "a number as the flavor's swap"
    ),
    f"<n:name>x</n:name>{OWNER}<n:flavor name='known'/><n:root type='image'/>": (
        "the root image's uuid"
    ),
    "<n:name>x</n:name><n:flavor name='known'/>": ("the owner's user id, the owner's project id"),
}


@pytest.mark.parametrize("inside", INCOMPLETE)
def test_no_instance_takes_the_others_with_it(tmp_path: Path, inside: str) -> None:
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{domain(1, inside)}{domain(2, FULL)}</node>")
    finder = SimpleNamespace(conf=SimpleNamespace(host="h", compute=SimpleNamespace()))
    finder.conf.compute.fetch_extra_metadata = False
    with virtmeter.LibvirtInspector(f"test://{node}") as inspector:
        servers = inspector.list_servers()
        found = discovery.discovered(inspector, finder, set(), set())
    assert sorted(server.id for server in servers) == [UUID.format(1), UUID.format(2)]
    assert [instance.id for instance in found] == [UUID.format(2)]


@pytest.mark.parametrize(("inside", "missing"), INCOMPLETE.items())
def test_an_incomplete_instance_has_what_is_there_and_is_logged_once(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, inside: str, missing: str
) -> None:
    daemon.add(Domain(UUID.format(1), "vm-1", xml=domain(1, inside)))
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        for _ in range(3):
            [server] = inspector.list_servers()
        assert (server.name, server.architecture) == ("x", "x86_64")
        assert ", ".join(server.missing) == missing
        [line] = [record.getMessage() for record in caplog.records]
        assert missing in line
        assert UUID.format(1) in line
        # Another mistake is another line, and so is the same one after it was mended.
        for xml in (FULL.replace("<n:name>web &amp; more</n:name>", ""), FULL, inside, inside):
            daemon.domains[UUID.format(1)].xml = domain(1, xml)
            inspector.list_servers()
        assert len(caplog.records) == 3


def test_of_instances_that_are_not_wanted_nothing_is_asked(daemon: Daemon) -> None:
    uuids = [UUID.format(number) for number in range(1, 4)]
    daemon.add(*(Domain(uuid, uuid[-2:], xml=domain(1, FULL)) for uuid in uuids))
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        instances = inspector.list_instances()
        wanted: list[virtmeter.Instance | str] = [
            instances[1],
            uuids[2].upper(),
            UUID.format(99),
        ]
        assert [server.id for server in inspector.list_servers(wanted)] == uuids[1:]
        assert daemon.calls["DOMAIN_GET_XML_DESC"] == 2
        assert inspector.list_servers([]) == []
        assert daemon.calls["DOMAIN_GET_XML_DESC"] == 2
        assert len(inspector.list_servers()) == 3
        with pytest.raises(ValueError, match="is not an instance's UUID"):
            inspector.list_servers(["web-1"])


def test_an_instance_without_an_architecture(daemon: Daemon) -> None:
    xml = domain(1, FULL).replace(" arch='x86_64'", "")
    daemon.add(Domain(UUID.format(1), "vm-1", xml=xml))
    with virtmeter.LibvirtInspector(daemon.uri) as inspector:
        [server] = inspector.list_servers()
    assert (server.architecture, server.os_type, server.project_id) == (None, "hvm", "project-1")
    assert server.missing == ["an architecture"]


@pytest.mark.parametrize("release", ["27.0.0"], indirect=True)
def test_the_first_owner_is_the_owner(release: str, tmp_path: Path) -> None:
    two = f"<n:name>x</n:name><n:owner/>{OWNER}<n:flavor name='known' id='1'/>"
    stock, ours = discover(release, tmp_path, domain(1, two), domain(2, FULL))
    assert [found["id"] for found in stock[0]] == [UUID.format(1), UUID.format(2)]
    assert [found["id"] for found in ours[0]] == [UUID.format(2)]


def test_specs_and_properties_without_a_name_are_left_out(tmp_path: Path) -> None:
    inside = FULL.replace("<n:extraSpec name='hw:c'/>", "<n:extraSpec>x</n:extraSpec>")
    inside = inside.replace("<n:property name='os'/>", "<n:property/>")
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{domain(1, inside)}</node>")
    with virtmeter.LibvirtInspector(f"test://{node}") as inspector:
        [server] = inspector.list_servers()
    assert server.flavor["extra_specs"] == {"hw:a": "b"}
    assert server.image_meta is not None
    assert "hw_x" in server.image_meta


@pytest.mark.parametrize(
    ("error", "patience", "asked", "said"),
    [
        ("AttributeError", 60, 6, "ERROR instance {} is left out of discovery: "),
        ("KeyError", 60, 6, "ERROR instance {} is left out of discovery: "),
        ("RuntimeError", 60, 6, "WARNING 2 of 3 instances are left out of discovery: "),
        ("RuntimeError", -1, 3, "WARNING 2 of 3 instances are left out of discovery: "),
    ],
)
def test_novas_api_fails(tmp_path: Path, error: str, patience: int, asked: int, said: str) -> None:
    """An instance that Nova answers nothing or oddly for is left out, and others are found."""
    old = INSTANCES["an old one"]
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{domain(1, old)}{domain(2, FULL)}{domain(3, old)}</node>")
    script = """
import builtins, logging, sys
from types import SimpleNamespace
from ceilometer.compute.discovery import InstanceDiscovery
from oslo_config import cfg
from oslo_log import formatters, log
import virtmeter
from virtmeter.ceilometer import discovery
conf = cfg.ConfigOpts()
log.register_options(conf)
conf([], default_config_files=[], default_config_dirs=[])
conf.set_override("logging_default_format_string", "%(levelname)s %(message)s")
logging.basicConfig(stream=sys.stdout, force=True)
# It adds the exception that is being handled to a line.
logging.getLogger().handlers[0].setFormatter(formatters.ContextFormatter(config=conf))
discovery.activate(virtmeter.LibvirtInspector(sys.argv[1]))
discovery.PATIENCE = float(sys.argv[3])
asked = []
def fail(name):
    asked.append(name)
    raise getattr(builtins, sys.argv[2])(name + "\\x1b[2J\\nhttp://me:s3cret@nova")
finder = SimpleNamespace(
    conf=SimpleNamespace(host="h", compute=SimpleNamespace(fetch_extra_metadata=False)),
    get_flavor_id=fail,
)
for _ in range(3):
    found = InstanceDiscovery.discover_libvirt_polling(finder, None)
print(len(asked), [each.id for each in found])
"""
    arguments = [f"test://{node}", error, str(patience)]
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.stderr == ""
    *lines, told = completed.stdout.splitlines()
    assert told == f"{asked} ['{UUID.format(2)}']"
    expected = [said.format(UUID.format(each)) for each in ((1, 3) if "{}" in said else (0,))]
    assert [line[: len(begin)] for line, begin in zip(sorted(lines), expected)] == expected
    assert len(lines) == len(expected)
    for line in lines:
        assert line.isprintable()
        assert "s3cret" not in line


def test_what_nova_has_told_of_before_is_found_while_it_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PATIENCE", -1.0)
    node = tmp_path / "node.xml"
    known: set[str] = set()
    old = INSTANCES["an old one"]
    domains = [domain(number, old) for number in range(1, 9)]

    def flavor_id(name: str) -> str:
        if name == "new":
            raise ConnectionError
        return "7"  # as Ceilometer's cache says

    compute = SimpleNamespace(fetch_extra_metadata=False)
    finder = SimpleNamespace(
        conf=SimpleNamespace(host="h", compute=compute), get_flavor_id=flavor_id
    )
    for new in ([], [domain(9, old.replace("'known'", "'new'"))]):
        node.write_text(f"<node>{''.join([*new, *domains])}</node>")
        with virtmeter.LibvirtInspector(f"test://{node}") as inspector:
            found = discovery.discovered(inspector, finder, set(), known)
        assert {each.id for each in found} == {UUID.format(number) for number in range(1, 9)}


def test_one_round_trip_for_the_list_and_one_for_each_instance(daemon: Daemon) -> None:
    for number in range(20):
        uuid = UUID.format(number)
        daemon.add(Domain(uuid, f"vm-{number}", xml=domain(number, FULL)))
    with virtmeter.LibvirtInspector(daemon.uri, read_ahead=0) as inspector:
        inspector.list_servers()
        daemon.calls.clear()
        assert len(inspector.list_servers()) == 20
        assert daemon.calls == {"CONNECT_GET_ALL_DOMAIN_STATS": 1, "DOMAIN_GET_XML_DESC": 20}
        # One that goes away meanwhile is left out; a broken connection is replaced.
        vanish = Then(lambda daemon: daemon.domains.pop(UUID.format(7)))
        daemon.on("DOMAIN_GET_XML_DESC", vanish, uuid=UUID.format(7))
        daemon.on("DOMAIN_GET_XML_DESC", HangUp(), uuid=UUID.format(12))
        assert len(inspector.list_servers()) == 19


def test_libvirtd_away_is_no_instance_and_no_traceback(daemon: Daemon) -> None:
    script = """
import logging, sys
sys.modules["libvirt"] = None  # as where libvirt-python is not installed
from types import SimpleNamespace
from ceilometer.compute.discovery import InstanceDiscovery
import virtmeter
from virtmeter.ceilometer import discovery
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
discovery.activate(virtmeter.LibvirtInspector(sys.argv[1]))
for _ in range(3):
    found = InstanceDiscovery.discover_libvirt_polling(SimpleNamespace(), None)
print(found)
"""
    daemon.stop()
    command = [sys.executable, "-W", "ignore", "-c", script, daemon.uri]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.stderr == ""
    begun, line, found = completed.stdout.splitlines()
    assert begun.startswith("WARNING no connection to")
    assert line.startswith("WARNING no instance is discovered: no connection to")
    assert found == "[]"


def test_the_native_record(tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{domain(1, FULL)}</node>")
    with virtmeter.LibvirtInspector(f"test://{node}") as inspector:
        [server] = inspector.list_servers()
    assert type(server) is virtmeter.Server
    assert server[:8] == (
        UUID.format(1),
        "instance-00000001",
        virtmeter.PowerState.RUNNING,
        "hvm",
        "x86_64",
        "web & more",
        "user-1",
        "project-1",
    )
    assert server.flavor["extra_specs"] == {"hw:a": "b", "hw:c": None}
    assert server.image_id == "image-1"


def test_what_is_wrong_is_said_once_and_said_anew_when_it_is_something_else(
    tmp_path: Path,
) -> None:
    """Nova may refuse what libvirt, which was away before, tells of; an id in its words is new."""
    node = tmp_path / "node.xml"
    domains = [domain(number, INSTANCES["an old one"]) for number in (1, 2)]
    node.write_text(f"<node>{''.join(domains)}</node>")
    script = """
import logging, sys
from types import SimpleNamespace
from ceilometer.compute.discovery import InstanceDiscovery
import virtmeter
from virtmeter.ceilometer import discovery
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
discovery.activate(virtmeter.LibvirtInspector(sys.argv[1]))
errors = [KeyError("one"), OSError("away")] * 2
errors += [RuntimeError("no token, req-%s" % n) for n in range(4)]  # in two cycles
errors += [KeyError("one")] * 4 + [KeyError("other")] * 4  # both domains, in two cycles
def fail(name):
    raise errors.pop(0)
finder = SimpleNamespace(
    conf=SimpleNamespace(host="h", compute=SimpleNamespace(fetch_extra_metadata=False)),
    get_flavor_id=fail,
)
while errors:
    InstanceDiscovery.discover_libvirt_polling(finder, None)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, f"test://{node}"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.stderr == ""
    lines = completed.stdout.splitlines()
    told = [line.rsplit(": ", 1)[1] for line in lines]
    in_part = ["KeyError('one')", "away", "no token, req-0"]
    assert told == [*in_part, *["KeyError('one')"] * 2, *["KeyError('other')"] * 2]
