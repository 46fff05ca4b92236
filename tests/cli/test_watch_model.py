"""The model of the watch, its keys and its picture: all without a terminal and without libvirt."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import click
import pytest
from rich.console import Console
from rich.screen import Screen

import virtmeter
from virtmeter import Instance, PowerState, VmUsage
from virtmeter.cli import targets
from virtmeter.cli.fleet import Source
from virtmeter.cli.watch import view
from virtmeter.cli.watch.actions import Commands
from virtmeter.cli.watch.columns import curve
from virtmeter.cli.watch.keys import Keyboard, names
from virtmeter.cli.watch.lines import line as as_line
from virtmeter.cli.watch.model import ORDERS, STEP, History, Model, NoneReadError, Watched
from virtmeter.cli.watch.readings import Snapshot, take

if TYPE_CHECKING:
    from pathlib import Path

    from virtmeter import Inspector

NOTHING = VmUsage(*[None] * len(VmUsage._fields))  # type: ignore[arg-type]


def vm(number: int) -> Instance:
    return Instance(f"{number:08}-0000-0000-0000-000000000000", f"vm-{number}", PowerState.RUNNING)


def used(number: int, **values: Any) -> VmUsage:
    intervals = ("interval", "network_interval", "disk_interval", "disk_requests_interval")
    values = {**dict.fromkeys(intervals, 2.0), **values}
    return NOTHING._replace(id=vm(number).id, name=vm(number).name, **values)


def snapshot(*usages: VmUsage, taken: float = 0.0, hung: tuple[int, ...] = ()) -> Snapshot:
    numbers = sorted({int(usage.id[:8]) for usage in usages} | set(hung))
    return Snapshot(
        taken, tuple(map(vm, numbers)), usages, frozenset(vm(number).id for number in hung)
    )


def order(model: Model) -> list[int]:
    return [int(row.name[3:]) for row in model.shown()]


@pytest.fixture
def model() -> Model:
    model = Model()
    model.update(
        snapshot(
            used(2, cpu_utilization=5.0, memory_used=300, disk_read_kib=2.0, cpu_steal=1.0),
            used(9, cpu_utilization=95.0, memory_used=100, disk_write_kib=8.0, cpu_steal=0.5),
            used(10, cpu_utilization=50.0, memory_used=None, network_read_kib=4.0, cpu_wait=3.0),
        )
    )
    return model


def test_every_key_sorts_and_what_has_no_value_comes_last(model: Model) -> None:
    expected = {
        "c": [9, 10, 2],
        "w": [10, 2, 9],
        "s": [2, 9, 10],
        "m": [2, 9, 10],
        "n": [10, 2, 9],
        "d": [9, 2, 10],
        "o": [2, 9, 10],
        "v": [2, 9, 10],
    }
    assert set(expected) == set(ORDERS)
    commands = Commands(model)
    for key, numbers in expected.items():
        assert commands.do(key, 10)
        assert order(model) == numbers, key
    commands.do("m", 10)
    commands.do("r", 10)
    assert order(model) == [9, 2, 10]
    commands.do("v", 10)
    assert order(model) == [2, 9, 10], "a new order begins in its usual direction"
    commands.do("r", 10)
    assert order(model) == [10, 9, 2]


def test_a_filter_is_typed_kept_and_cleared(model: Model) -> None:
    commands = Commands(model)
    for key in ["/", "M", "-", "1", "q", "backspace"]:
        assert commands.do(key, 10), "q is a letter here"
    assert (model.filter, order(model)) == ("M-1", [10])
    commands.do("enter", 10)
    assert not commands.typing
    assert order(model) == [10]
    assert not commands.do("q", 10)
    commands.do("escape", 10)
    assert len(order(model)) == 3
    commands.do("/", 10)
    for key in "00000009":
        commands.do(key, 10)
    assert order(model) == [9], "by the beginning of its id"
    commands.do("escape", 10)
    assert (model.filter, commands.typing) == ("", False)


def test_scrolling_stays_within_the_rows() -> None:
    model = Model()
    model.update(snapshot(*map(used, range(1, 31))))
    commands = Commands(model)
    commands.do("v", 10)
    tops = []
    for key in ["up", "down", "page down", "page down", "page down", "end", "home", "end", "up"]:
        commands.do(key, 10)
        tops.append(model.top)
    assert tops == [0, 1, 11, 20, 20, 20, 0, 20, 19]
    commands.do("/", 10)
    commands.do("3", 10)
    assert model.top == 0


def test_hung_vms_stay_and_the_history_goes_on(model: Model) -> None:
    model.update(snapshot(used(2, cpu_utilization=7.0), taken=STEP, hung=(10,)))
    assert {row.name: row.hung for row in model.rows} == {"vm-2": False, "vm-10": True}
    assert [list(row.history.values) for row in model.rows] == [[5.0, 7.0], [50.0, None]]


def test_memory_of_long_ago_is_marked(model: Model) -> None:
    now = int(time.time())
    old, new, ahead = (
        used(number, memory_used=2048, memory_total=4096, memory_updated=now - age)
        for number, age in ((1, 3600), (2, 0), (3, -3600))
    )
    model.update(snapshot(old, new, ahead))
    model.sort_by("v")
    told = [[cell for cell in row.split() if "M" in cell] for row in picture(model)[5:8]]
    assert told == [["2.00M?", "4.00M"], ["2.00M", "4.00M"], ["2.00M", "4.00M"]]
    for row, cell in zip(model.shown(), ("2.00M?  4.00M", " 2.00M  4.00M", " 2.00M  4.00M")):
        assert cell in as_line("now", row)


def test_a_rate_is_over_the_time_that_its_value_is_over(model: Model) -> None:
    longer = {"network_interval": 8.0, "network_read_kib": 16.0, "disk_read_kib": 16.0}
    model.update(snapshot(used(2, **longer), taken=STEP))
    [row] = model.rows
    assert (row.rate("network_read_kib"), row.rate("disk_read_kib")) == (2.0, 8.0)


def test_an_outage_keeps_what_was_read(model: Model) -> None:
    lost = virtmeter.ConnectionLost("no connection; virtmeter keeps trying")
    model.update(Snapshot(1.0, error=lost))
    assert (model.watched[""].outage, len(model.rows)) == ("no connection", 3)
    model.update(snapshot(used(2), taken=2.0))
    assert (model.watched[""].outage, len(model.rows)) == ("", 1)


def test_what_was_told_before_an_outage_is_not_lost(model: Model) -> None:
    model.update(Snapshot(1.0, usages=(used(9, network_read_kib=7.0), used(77)), error=LOST))
    watched = model.watched[""]
    assert [row.name for row in watched.told] == ["vm-9"]
    assert [row.usage and row.usage.network_read_kib for row in model.rows] == [None, 7.0, 4.0]
    assert (watched.outage, watched.taken) == ("no connection", 0.0)
    model.update(Snapshot(2.0, error=LOST))
    assert watched.told == []
    model.update(snapshot(used(2), taken=3.0))
    assert watched.told == model.rows


def test_what_a_target_told_before_an_outage_is_of_now(fleet: Model) -> None:
    fleet.update(Snapshot(2.0, usages=(used(2),), error=LOST, target="kvm-9"))
    assert not any(row.away for row in fleet.rows)
    fleet.update(Snapshot(4.0, error=LOST, target="kvm-9"))
    assert [row.target for row in fleet.rows if row.away] == ["kvm-9"]


@pytest.mark.parametrize("wanted", [[], ["test"]])
def test_a_reading_that_fails_at_its_end_has_what_was_told_before(
    wanted: list[str], tmp_path: Path
) -> None:
    class Lost:
        lists = len(wanted)

        def __getattr__(self, name: str) -> Any:
            return getattr(inspector, name)

        def list_instances(self) -> list[Instance]:
            if not self.lists:
                raise LOST
            self.lists -= 1
            return inspector.list_instances()

    file = tmp_path / "targets.toml"
    file.write_text('[targets.here]\nuri = "test:///default"\n')
    target = targets.read(file)["here"]
    with virtmeter.LibvirtInspector(target.uri) as inspector:
        taken = take(Source(target, cast("Inspector", Lost()), threading.Lock()), wanted)
    assert [usage.id for usage in taken.usages] == ["6695eb01-f6a4-8304-79aa-97f2502e193f"]
    assert taken.error is LOST


def test_a_first_reading_that_fails_is_an_error() -> None:
    with pytest.raises(virtmeter.ConnectionLost):
        Model().update(Snapshot(1.0, error=virtmeter.ConnectionLost("no connection")))
    with pytest.raises(click.UsageError, match="no VM is named 'web'"):
        Model(["web"]).update(snapshot(used(1)))


def test_only_those_that_were_asked_for() -> None:
    off = Instance("00000003-0000-0000-0000-000000000000", "off", PowerState.SHUTOFF)
    whole = snapshot(used(1), used(2), used(12))
    model = Model(["vm-1*", "OFF".lower()])
    model.update(Snapshot(0.0, (*whole.instances, off), whole.usages))
    assert [row.name for row in model.rows] == ["vm-1", "vm-12", "off"]
    model.update(snapshot(used(2)))
    assert model.rows == [], "they may all be gone later"
    everything = Model()
    everything.update(Snapshot(0.0, (*whole.instances, off), whole.usages))
    assert len(everything.rows) == 3


def test_a_history_has_the_average_of_each_step() -> None:
    history = History()
    for now, value in [(0.1, 10.0), (1.0, 20.0), (4.9, 30.0), (STEP, 50.0), (3 * STEP, 70.0)]:
        history.add(now, value)
    assert list(history.values) == [20.0, 50.0, 70.0]
    for step in range(1000):
        history.add(step * STEP, 1.0)
    assert len(history.values) < 200


def test_the_curve_shows_the_last_and_the_least() -> None:
    assert curve([0, 0.1, 50, 100, None, 0], 8) == "   ▁▄█· "
    assert curve([0, 50, 100], 2) == "▄█"


def test_keys_are_told_apart() -> None:
    typed = "q\x1b[A\x1bOB\x1b[5~\x1b[1;5Cé\x7f\r\x1b"
    known = ["q", "up", "down", "page up", "\x1b[1;5C", "é", "backspace", "enter", "escape"]
    assert names(typed) == known


def picture(
    model: Model,
    commands: Commands | None = None,
    *,
    width: int = 120,
    height: int = 12,
    uri: str = "qemu:///system",
    **more: Any,
) -> list[str]:
    """What is on the screen, line by line."""
    if not model.has_names:
        model.watched[""].uri, model.watched[""].interval = uri, 2.0
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, highlight=False
    )
    settings: dict[str, Any] = {"now": 0.0} | more
    shown = view.screen(model, commands or Commands(model), width, height, **settings)
    console.print(Screen(shown), end="")
    assert isinstance(console.file, io.StringIO)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).split("\n")
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    return [line.rstrip() for line in lines]


def test_the_picture(model: Model) -> None:
    lines = picture(model)
    assert lines[0] == "3 VMs: 3 running   every 2 s   qemu:///system"
    assert lines[1] == (
        "host CPU -%   memory 400K   NICs 2.00K/s in -/s out   disks 1.00K/s read 4.00K/s write"
    )
    assert lines[4].split()[:3] == ["VM", "state", "%"]
    assert [line.split()[:3] for line in lines[5:8]] == [
        ["vm-9", "running", "95.0"],
        ["vm-10", "running", "50.0"],
        ["vm-2", "running", "5.0"],
    ]
    assert lines[-1].startswith("q quit  ? help  / filter  c [CPU▼]  m memory")


def test_the_picture_of_what_is_wrong(model: Model) -> None:
    assert picture(model, note="a disk\nis left out")[2] == "a disk\\nis left out"
    assert picture(model, now=30.0)[2] == "no reading for 30 s: libvirt or a VM does not answer"
    model.update(snapshot(hung=(2, 9)))
    lines = picture(model)
    assert lines[0].startswith("2 VMs: 2 hung")
    assert [line.split()[:2] for line in lines[5:7]] == [["vm-2", "hung"], ["vm-9", "hung"]]
    model.update(Snapshot(1.0, error=virtmeter.ConnectionLost("no connection to it")))
    assert "no connection to it" in picture(model, now=12.0)[2]
    assert picture(model, now=12.0)[5].startswith("vm-2"), "what was there is still to be seen"


def test_the_picture_of_a_pool(model: Model) -> None:
    """Of several hosts' CPUs there are no shares to be added up."""
    uri = "xenserver://monitor@pool/?sha256=AB"
    usages = (
        used(2, cpu_number=2, cpu_utilization=75.0),
        used(9, cpu_number=4, cpu_utilization=50.0),
    )
    away = {"xcp2": ("it refuses\nconnections", 7.0)}
    model.update(Snapshot(1.0, (vm(2), vm(9)), usages, away=away))
    lines = picture(model, uri=uri, now=3.0)
    assert lines[0].endswith("xenserver://monitor@pool/")
    assert lines[1].startswith("busy vCPUs 3.5   memory ")
    assert lines[2] == "no answer from xcp2 for 9 s: it refuses\\nconnections"
    assert picture(model, uri=uri, now=30.0)[2].startswith("no reading for 29 s: XenServer or ")
    model.update(Snapshot(2.0, error=virtmeter.ConnectionLost("no connection to it")))
    assert "s without XenServer, which is tried again: no c" in picture(model, uri=uri)[2]
    model.update(Snapshot(3.0, (vm(2), vm(9)), usages))
    assert picture(model, uri=uri, now=3.0)[2] == ""


def test_the_picture_of_one_that_does_not_run(model: Model) -> None:
    assert "why" not in picture(model)[4]
    paused = vm(2)._replace(state=PowerState.PAUSED)
    reasons = {paused.id: "I/O error"}
    model.update(Snapshot(1.0, (paused, vm(9)), (used(9, cpu_utilization=1.0),), reasons=reasons))
    lines = picture(model)
    assert lines[4].split()[:4] == ["VM", "state", "why", "%"]
    assert lines[5].split()[:3] == ["vm-9", "running", "1.0"]
    assert lines[6].split()[:4] == ["vm-2", "paused", "I/O", "error"]
    assert "why" not in picture(model, width=60)[4], "there is no room"


def test_the_picture_of_many_and_of_the_help(model: Model) -> None:
    model.update(snapshot(*map(used, range(1, 31))))
    commands = Commands(model)
    commands.do("v", view.room(12))
    commands.do("page down", view.room(12))
    lines = picture(model, commands)
    assert [line.split()[0] for line in lines[5:11]] == [f"vm-{n}" for n in range(7, 13)]
    assert "7 of 30" in lines[-1]
    commands.do("?", 6)
    assert "sort by CPU, wait, steal" in "".join(picture(model, commands, width=80, height=24))
    assert max(map(len, view.HELP.splitlines())) < 80
    assert len(view.HELP.splitlines()) <= 24 - view.HEAD - view.FOOT
    commands.do("escape", 6)
    commands.do("/", 6)
    commands.do("9", 6)
    assert picture(model, commands)[-1].startswith("/9▏ ")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20, 3), (60, 24), (80, 6), (300, 80)])
def test_the_picture_fits_every_terminal(model: Model, width: int, height: int) -> None:
    odd = vm(7)._replace(name="x\x1b[2J" * 40)
    model.update(Snapshot(0.0, (vm(1), odd), (used(1, cpu_utilization=3.0),)))
    assert picture(model, width=width, height=height)


def test_the_curve_ends_with_the_last_reading(model: Model) -> None:
    model.update(snapshot(used(2, cpu_utilization=0.0), used(9, cpu_utilization=100.0), taken=STEP))
    lines = picture(model)
    end = max(line.rfind("█") for line in lines)
    idle, busy = (
        next(line for line in lines if line.startswith(name)) for name in ("vm-2", "vm-9")
    )
    assert busy[end - 1 : end + 1] == "██"
    assert idle[end - 1 : end + 1] == "▁ "


@pytest.fixture
def fleet() -> Model:
    """Two targets with a VM of one UUID and name, and a third that could never be read."""
    watched = [
        Watched("kvm-10", "qemu:///system", 2.0),
        Watched("kvm-9", "qemu:///system", 2.0),
        Watched("vcenter", "vsphere://u@h/", 25.0),
    ]
    model = Model((), watched)
    for target, percent in (("kvm-10", 5.0), ("kvm-9", 95.0)):
        model.update(of(target, used(2, cpu_utilization=percent, cpu_number=2)))
    model.update(Snapshot(0.0, error=LOST, target="vcenter"))
    return model


LOST = virtmeter.ConnectionLost("no connection; virtmeter keeps trying")


def of(target: str, *usages: VmUsage, taken: float = 0.0) -> Snapshot:
    return dataclasses.replace(snapshot(*usages, taken=taken), target=target)


def test_one_vm_in_two_targets_is_two(fleet: Model) -> None:
    assert [(row.target, row.name) for row in fleet.shown()] == [
        ("kvm-9", "vm-2"),
        ("kvm-10", "vm-2"),
    ]
    fleet.update(of("kvm-10", used(2, cpu_utilization=7.0, cpu_number=2), taken=STEP))
    assert [list(row.history.values) for row in fleet.shown()] == [[95.0], [5.0, 7.0]]
    assert fleet.total(lambda row: row.usage and row.usage.cpu_number) == 4
    fleet.update(of("kvm-9", used(3), taken=STEP))
    assert {(row.target, row.name) for row in fleet.rows} == {("kvm-9", "vm-3"), ("kvm-10", "vm-2")}


def test_targets_are_sorted_and_filtered_by(fleet: Model) -> None:
    commands = Commands(fleet)
    commands.do("v", 10)
    assert [row.target for row in fleet.shown()] == ["kvm-9", "kvm-10"], "as people count"
    commands.do("r", 10)
    assert [row.target for row in fleet.shown()] == ["kvm-10", "kvm-9"]
    for key in ("/", *"VM-9"):
        commands.do(key, 10)
    assert [row.target for row in fleet.shown()] == ["kvm-9"]


def test_the_picture_of_targets(fleet: Model) -> None:
    lines = picture(fleet, now=1.0)
    assert lines[0] == "2 VMs: 2 running   every 2 to 25 s   2 of 3 targets"
    assert lines[1].startswith("busy vCPUs 2.0   ")
    assert lines[2] == "vcenter: no connection"
    assert lines[4].split()[:3] == ["target", "VM", "state"]
    assert [line.split()[:4] for line in lines[5:7]] == [
        ["kvm-9", "vm-2", "running", "95.0"],
        ["kvm-10", "vm-2", "running", "5.0"],
    ]


def test_what_was_read_of_a_target_that_is_away_is_not_of_now(fleet: Model) -> None:
    fleet.update(Snapshot(2.0, error=LOST, target="kvm-9"))
    lines = picture(fleet, now=8.0, width=200)
    assert lines[0].startswith("2 VMs: 1 running, 1 away   ")
    assert lines[1].startswith("busy vCPUs 0.1   "), "it is no part of any sum"
    assert lines[2] == (
        "trouble with kvm-10, kvm-9, vcenter. kvm-10: no reading for 8 s: libvirt or a VM does not "
        "answer; kvm-9: 8 s without libvirt, which is tried again: no connection; vcenter: no "
        "connection"
    )
    assert lines[5].split()[:4] == ["kvm-9", "vm-2", "away", "95.0"], "it stays to be seen"
    fleet.update(of("kvm-9", used(2, cpu_utilization=1.0, cpu_number=2), taken=8.0))
    fleet.update(of("kvm-10", used(2), taken=8.0))
    lines = picture(fleet, now=8.0)
    assert lines[0].startswith("2 VMs: 2 running   ")
    assert lines[2] == "vcenter: no connection"
    assert fleet.status == 1
    fleet.update(of("vcenter", used(5), taken=8.0))
    assert (picture(fleet, now=8.0)[2], fleet.status) == ("", 0)


def test_targets_fail_at_first_only_if_all_do() -> None:
    model = Model(["web"], [Watched("a"), Watched("b")])
    model.update(Snapshot(0.0, error=LOST, target="a"))
    model.update(Snapshot(0.0, error=LOST, target="a"))
    with pytest.raises(NoneReadError) as raised:
        model.update(Snapshot(0.0, error=ValueError("no"), target="b"))
    assert list(raised.value.failed) == ["a", "b"]
    model = Model(["web"], [Watched("a"), Watched("b")])
    model.update(of("a", used(1)))
    with pytest.raises(click.UsageError, match="no VM is named 'web'"):
        model.update(of("b", used(2)))
    model = Model(["web"], [Watched("a"), Watched("b")])
    model.update(of("a", used(1)))
    model.update(Snapshot(0.0, error=LOST, target="b"))
    assert model.rows == [], "it may be where nobody can look yet"


def test_names_keep_their_room_while_they_are_scrolled(model: Model) -> None:
    """That of all names is kept; numbers that are not shown need none."""
    usages = [used(number, memory_used=1.0) for number in range(1, 31)]
    whole = snapshot(*usages)
    long = whole.instances[-1]._replace(name="x" * 30)
    model.update(dataclasses.replace(whole, instances=(*whole.instances[:-1], long)))
    model.sort_by("v")
    top = picture(model)
    model.scroll(100, view.room(12))
    bottom = picture(model)
    assert "x" * 30 in "".join(bottom)
    assert "x" * 30 not in "".join(top)
    assert [line.index("state") for line in (top[4], bottom[4])] == [32, 32]


def test_a_key_without_an_end_holds_nobody_up() -> None:
    its, ours = os.pipe()
    with os.fdopen(its, "rb"), os.fdopen(ours, "wb") as typing:
        typing.write(b"\x1b[" + b"0" * 20_000)
        typing.flush()
        keyboard = Keyboard(its)
        assert keyboard.read()
        assert keyboard.read() == ["0"] * 1024  # there was something else to do meanwhile
