"""Parity on libvirt's own test hypervisor: all methods, every field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.oracle import Pair

if TYPE_CHECKING:
    from pathlib import Path

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
# The test hypervisor's NIC and disk counters are functions of the clock: two readings differ.
MOVING = {"rx_", "tx_"}

NODE = """
<node>
  <domain type='test'>
    <name>one</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
    <memory>131072</memory><vcpu>3</vcpu><os><type>hvm</type></os>
    <devices>
      <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
      <disk type='file'><source file='/guest/one'/><target dev='vda' bus='virtio'/></disk>
    </devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>5</test:runstate>
    <name>off</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa1</uuid>
    <memory>262144</memory><vcpu>2</vcpu><os><type>hvm</type></os>
    <devices>
      <disk type='file'><source file='/guest/off'/><target dev='vda' bus='virtio'/></disk>
    </devices>
  </domain>
</node>
"""


def test_the_default_host() -> None:
    pair = Pair("test:///default")
    pair.assert_equal(UUID, "inspect_instance", "inspect_disks", "inspect_disk_info")
    [ours], [stock] = pair.ours.inspect_vnics(UUID), pair.stock.inspect_vnics(pair_instance(), None)
    assert ours._fields == (*stock._fields, "start")
    for name, mine, theirs in zip(stock._fields, ours, stock):
        if name[:3] in MOVING and not name.endswith("_delta"):
            assert type(mine) is int
            assert 0 < mine <= theirs, f"{name} was read before the oracle's"
        else:
            assert mine == theirs, name


@pytest.mark.parametrize("report_stopped", [False, True])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_host_from_a_file(tmp_path: Path, report_stopped: bool, number: int) -> None:
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    pair = Pair(f"test://{node}", report_stopped=report_stopped)
    outcomes = pair.assert_equal(f"4dea22b3-1d52-d8f3-2516-782e98ab3fa{number}")
    if number == 2:
        assert set(outcomes.values()) == {"InstanceNotFoundException"}
    if number == 1:
        assert outcomes["inspect_vnics"] == "InstanceShutOffException"
        assert (outcomes["inspect_instance"] == "InstanceShutOffException") is not report_stopped


def pair_instance() -> object:
    from types import SimpleNamespace

    return SimpleNamespace(id=UUID)
