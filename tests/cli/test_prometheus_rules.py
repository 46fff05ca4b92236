"""The alerts and recording rules in contrib/prometheus: each is right, and none asks in vain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import prometheus
from tests.support.prometheus import ROOT, promtool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    bool(prometheus.unavailable()), reason=str(prometheus.unavailable())
)

RULES = ROOT / "contrib/prometheus/virtmeter-rules.yml"
ALERTS = ROOT / "contrib/prometheus/virtmeter-alerts.yml"
TESTS = ROOT / "tests/data/prometheus"


@pytest.mark.parametrize("tests", ["rules.yml", "alerts.yml"])
def test_each_says_what_it_is_to_say(tests: str, tmp_path: Path) -> None:
    # Elsewhere, as promtool takes a path for a pattern, and ours may have brackets in it.
    for file in (RULES, ALERTS):
        (tmp_path / file.name).write_text(file.read_text())
    text = (TESTS / tests).read_text().replace("../../../contrib/prometheus/", "")
    (tmp_path / tests).write_text(text)
    promtool("test", "rules", tmp_path / tests)


def test_each_alert_is_tested_where_all_is_well_too() -> None:
    tests = (TESTS / "alerts.yml").read_text()
    alerts = set(re.findall(r"alert: (\S+)", ALERTS.read_text()))
    assert alerts == set(re.findall(r"alertname: (\S+), eval_time: \w+, exp_alerts: \[\]", tests))
    assert alerts == set(re.findall(r"alertname: (\S+)\n +eval_time: .*\n +exp_alerts:\n", tests))


def test_each_rule_is_tested_and_named_as_prometheus_wants_it() -> None:
    """That is level:metric:operations."""
    tests = (TESTS / "rules.yml").read_text()
    records = re.findall(r"record: (\S+)", RULES.read_text())
    assert sorted(records) == sorted(re.findall(r"- expr: (\S+)\n", tests))
    for record in records:
        assert re.fullmatch(r"(instance|instance_uuid):virtmeter_\w+:\w+", record)


@pytest.mark.parametrize("file", [RULES, ALERTS], ids=lambda file: file.stem)
def test_they_ask_for_what_is_exported(file: Path) -> None:
    pages = "".join(
        (ROOT / "docs" / page).read_text() for page in ("commands/export.md", "fleet.md")
    )
    exported = set(re.findall(r"^\| `(virtmeter_\w+)` \|", pages, re.M))
    expressions = "\n".join(re.findall(r"expr: (.*)", file.read_text()))
    assert set(re.findall(r"virtmeter_\w+", expressions)) <= exported
