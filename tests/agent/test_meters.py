"""The additional meters: what docs/operations.md says of them is what they are."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import ceilometer.publisher
import yaml
from ceilometer.publisher.gnocchi import ResourcesDefinition

from virtmeter.ceilometer import meters

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
STOCK = yaml.safe_load(
    (Path(ceilometer.publisher.__path__[0]) / "data/gnocchi_resources.yaml").read_text()
)
POLLSTERS = {
    point.name: point.load()
    for point in metadata.distribution("virtmeter").entry_points
    if point.group == "ceilometer.poll.compute" and point.value.startswith(meters.__name__)
}


def snippet() -> dict[str, dict[str, Any]]:
    """Return the metrics that are to be added, by resource type."""
    blocks = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    [text] = [block for block in blocks if "metrics:" in block]
    names = re.findall(r"^      ([a-z.]+):", text, re.M)
    assert sorted(names) == sorted(POLLSTERS), "each of them once"
    return {
        resource["resource_type"]: resource["metrics"]
        for resource in yaml.safe_load(text)["resources"]
    }


def test_an_entry_point_is_called_as_its_meter() -> None:
    assert POLLSTERS
    assert {name: pollster.sample_name for name, pollster in POLLSTERS.items()} == {
        name: name for name in POLLSTERS
    }


def test_the_table_tells_each_meters_type_unit_and_resource() -> None:
    rows = re.findall(r"^\| `([a-z.]+)` \| (\w+) \| (\w+) \| (instance|disk) \|", TEXT, re.M)
    assert sorted(rows) == [
        (
            name,
            pollster.sample_type,
            pollster.sample_unit,
            "disk" if issubclass(pollster, meters.OfDisk) else "instance",
        )
        for name, pollster in sorted(POLLSTERS.items())
    ]


def test_gnocchis_snippet_goes_with_the_stock_resources() -> None:
    policies = {policy["name"] for policy in STOCK["archive_policies"]}
    resources = {resource["resource_type"]: resource for resource in STOCK["resources"]}
    for kind, added in snippet().items():
        stock = resources[kind]
        assert set(added).isdisjoint(stock["metrics"])
        merged = {**stock, "metrics": {**stock["metrics"], **added}}
        found = ResourcesDefinition(merged, STOCK["archive_policy_default"], None, None).metrics
        for name in added:
            policy = found[name]["archive_policy_name"]
            assert policy in policies
            assert policy.endswith("-rate") == (POLLSTERS[name].sample_type == "cumulative")
            assert issubclass(POLLSTERS[name], meters.OfDisk) == (kind == "instance_disk")
