"""A thousand cycles of a small vCenter in which everything goes wrong at random."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.support.remote import eventually, resident_kib, size
from tests.support.vcsim import VCenter
from tests.vsphere.wellness import ENVELOPE, soap_fault
from virtmeter import InspectorException

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.vcsim import VM
    from tests.vsphere.conftest import Opens
    from virtmeter import Inspector

CYCLES = 1000
SEED = 14

#: What goes wrong with a call, each within moments.
FAULTS: list[dict[str, Any]] = [
    {"status": 503, "body": "busy"},
    {"status": 500, "body": ""},
    {"status": 200, "body": "<html/>"},
    {"status": 200, "body": ENVELOPE.format("<a>")},
    {"status": 200, "body": ENVELOPE.format('<QueryPerfResponse xmlns="urn:vim25"/>')},
    {"status": 500, "body": soap_fault("SystemError")},
    {"status": 500, "body": soap_fault("NoPermission")},
    {
        "status": 500,
        "body": soap_fault("ManagedObjectNotFound", inside='<obj type="VirtualMachine">vm-0</obj>'),
    },
    {"status": 500, "body": soap_fault("InvalidArgument")},
    {"cut": True},
    {"reset": True},
    {"bomb": 2},
    {"expire": True},
]
METHODS = ["QueryPerf", "QueryPerf", "RetrievePropertiesEx", "Login", "CreateContainerView"]


def answers(inspector: Inspector) -> bool:
    """Say whether nothing fails."""
    try:
        inspector.usage_all()
    except InspectorException:
        return False
    health = inspector.health()
    return not health.outage and not health.away


class Events:
    """What happens to a vCenter, and what is known of it."""

    def __init__(self, vcenter: VCenter, chance: random.Random) -> None:
        self.vcenter, self.chance = vcenter, chance
        #: The VMs of which a device may begin to count anew, as it was unplugged.
        self.unplugged: set[str] = set()

    def vm(self) -> VM:
        return self.chance.choice([vm for vm in self.vcenter.vms() if not vm.template])

    def power(self) -> None:
        vm = self.vm()
        if vm.state == "poweredOn":
            self.chance.choice([self.vcenter.power_off, self.vcenter.suspend])(vm.ref)
        else:
            self.vcenter.power_on(vm.ref)

    def migrate(self) -> None:
        vm = self.vm()
        is_possible = all(host["state"] == "connected" for host in self.vcenter.hosts())
        if vm.state == "poweredOn" and is_possible:
            self.vcenter.migrate(vm.ref, host=1 - vm.host)

    def plug(self) -> None:
        vm = self.vm()
        plugged = [each for each in vm.instances if each.until is None and each.group != "cpu"]
        if len(plugged) > 3:
            self.vcenter.remove(vm.ref, self.chance.choice(plugged).name)
            self.unplugged.add(vm.uuid)
        else:
            self.chance.choice([self.vcenter.add_nic, self.vcenter.add_disk])(vm.ref)

    def replace(self) -> None:
        vms = [vm for vm in self.vcenter.vms() if not vm.template]
        if len(vms) > 5:
            self.vcenter.delete(self.chance.choice(vms).ref)
        self.vcenter.create(host=self.chance.randrange(2))

    def spoil(self) -> None:
        vm, now = self.vm(), self.vcenter.now
        first = now - now % 20 + vm.ahead
        times = [first + 20 * self.chance.randrange(4)]
        if self.chance.random() < 0.5:
            self.vcenter.missing(vm.ref, times=times)
        else:
            self.vcenter.gap(vm.ref, times)

    def late(self) -> None:
        self.vcenter.late(self.vm().ref, self.chance.choice([0, 15, 25]))

    def connection(self) -> None:
        self.vcenter.connection(self.chance.randrange(2), "disconnected")

    def limit(self) -> None:
        self.vcenter.limits(entities=self.chance.choice([0, 2, 4]))

    def fail(self) -> None:
        for _ in range(self.chance.randint(1, 2)):
            method, fault = self.chance.choice(METHODS), self.chance.choice(FAULTS)
            # Nobody can log out of a session whose name was lost.
            if method != "Login" or "cut" not in fault:
                self.vcenter.fail(method, **fault)

    def heal(self) -> None:
        self.vcenter.fail(times=0)
        self.vcenter.limits(entities=0)
        self.vcenter.page(0)
        for host in range(2):
            self.vcenter.connection(host, "connected")

    def happen(self) -> None:
        doings: list[Callable[[], object]] = [
            *[self.fail] * 6,
            *[self.heal] * 5,
            *(self.power, self.migrate, self.plug, self.replace, self.spoil, self.late),
            *(self.connection, self.limit, self.vcenter.expire_sessions, self.vcenter.restart),
            lambda: self.vcenter.page(self.chance.choice([0, 3])),
            lambda: self.vcenter.sick(0, self.chance.choice([0, 0, 0.05])),
        ]
        self.chance.choice(doings)()


def test_a_thousand_cycles_with_faults(opens: Opens) -> None:
    chance, before = random.Random(SEED), threading.active_count()
    with VCenter(hosts=2, vms=6, off=1, suspended=1, templates=1) as vcenter:
        inspector = opens(vcenter, max_age=0.005)
        events = Events(vcenter, chance)
        eventually(lambda: len(inspector.usage_all()) == 6)
        received: dict[str, float] = defaultdict(float)
        since_start: dict[tuple[str, str, int | None], int] = {}
        failed = whole = 0
        begin = vcenter.now
        after_some: tuple[tuple[int, int], int] | None = None
        for cycle in range(CYCLES):
            # What has failed is tried again after half a second, or later.
            time.sleep(0.01)
            vcenter.step(chance.choice((0, 0, 1, 7, 20, 45)))
            if chance.random() < 0.15:
                events.happen()
            if cycle % 100 == 0:
                # What fails again and again is tried less and less often: until here.
                events.heal()
                eventually(lambda: answers(inspector))
            try:
                for usage in inspector.usage_all():
                    for share in (usage.cpu_utilization, usage.cpu_steal, usage.cpu_wait):
                        assert share is None or 0 <= share <= 100
                    for grown in (usage.network_read_kib, usage.disk_write_kib):
                        assert grown is None or grown >= 0
                    received[usage.id] += usage.network_read_kib or 0
                uuid = chance.choice([each.id for each in inspector.list_instances()])
                if uuid in events.unplugged:
                    events.unplugged.remove(uuid)
                    for key in [key for key in since_start if key[0] == uuid]:
                        del since_start[key]
                for nic in inspector.inspect_vnics(uuid):
                    assert nic.rx_bytes_delta >= 0
                    key = (uuid, nic.name, nic.start)
                    assert nic.rx_bytes >= since_start.get(key, 0), "a counter fell"
                    since_start[key] = nic.rx_bytes
                whole += 1
            except InspectorException:
                failed += 1
            if cycle == CYCLES // 4:
                after_some = size(), resident_kib()
        assert failed > 10, "nothing went wrong"
        assert whole > 100, "hardly anything went well"
        assert after_some is not None
        events.heal()
        for vm in vcenter.vms():
            vcenter.heal(vm.ref)
        vcenter.sick(0, 0)
        vcenter.step(60)
        eventually(lambda: answers(inspector))
        running = {vm.uuid for vm in vcenter.vms() if vm.state == "poweredOn" and not vm.template}
        assert {usage.id for usage in inspector.usage_all()} == running
        # Nothing was counted twice: no more was told than there is of the VM's whole life.
        for vm in vcenter.vms():
            if vm.uuid in received:
                assert received[vm.uuid] <= most_received(vm, (begin, vcenter.now))
        assert any(received.values())
        (threads, descriptors), resident = after_some
        now_threads, now_descriptors = size()
        assert now_threads <= threads + 8
        assert now_descriptors <= descriptors + 16
        assert resident_kib() < resident + 64 * 1024
        assert inspector.health().threads <= 32
        assert len(vcenter.sessions()) == 1
        inspector.close()
        assert vcenter.sessions() == []
    assert threading.active_count() <= before


def most_received(vm: VM, times: tuple[float, float]) -> int:
    """Return the KiB of all samples since the chaos began."""
    first, last = (int(time - time % 20) for time in times)
    grid = range(first, last + 20, 20)
    names = {each.name for each in vm.instances if each.group == "net"}
    values = (vm.value("net.received.average", name, time) for name in names for time in grid)
    return 20 * sum(value for value in values if value > 0)
