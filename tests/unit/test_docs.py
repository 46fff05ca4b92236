"""The documentation says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FORMS = [ROOT / f".github/ISSUE_TEMPLATE/{form}.yml" for form in ("something-else", "wrong-value")]


def test_every_row_of_parity_has_its_test_and_every_such_test_its_row() -> None:
    rows = set(re.findall(r"`(test_\w+)` \|$", (ROOT / "docs/parity.md").read_text(), re.M))
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert rows - tests == set()
    better = (ROOT / "tests/parity/test_better.py").read_text()
    assert set(re.findall(r"^def (test_\w+)", better, re.M)) - rows == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    paths = re.findall(r"`((?:src|tests|docs|tools|examples|python)/[\w./]+)`", text)
    assert [path for path in links if not (page.parent / path).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_nothing_says_that_vcpus_wait_for_io() -> None:
    """``vcpu.N.wait`` is the time on the run queue: whoever reads it hunts no storage."""
    kinds = ("src/**/*.rs", "python/**/*.py", "contrib/**/*.*")
    sources = [path for kind in kinds for path in ROOT.glob(kind)]
    lines = [line for path in (*PAGES, *sources) for line in path.read_text().splitlines()]
    found = [line for line in lines if re.search(r"\bwait.*\bI/O\b", line)]
    assert [line for line in found if not re.search(r"\bnot (waiting )?(for )?I/O", line)] == []
    assert len(found) > 5


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_forms_ask_what_doctor_says_and_link_to_pages(form: Path) -> None:
    ids = [field["id"] for field in yaml.safe_load(form.read_text())["body"] if "id" in field]
    assert "doctor" in ids
    assert len(set(ids)) == len(ids)
    links = re.findall(r"\]\(\.\./blob/HEAD/([^)]+)\)", form.read_text())
    assert "SECURITY.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_workflows_use_the_versions_that_the_project_names() -> None:
    checks, release = (
        (ROOT / f".github/workflows/{name}.yml").read_text() for name in ("checks", "release")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    python = project["project"]["requires-python"].removeprefix(">=")
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
    assert f'python: ["{python}", ' in checks
    assert f'rust: ["{rust}", ' in checks
    for tool in project["dependency-groups"]["wheel"]:
        name, version = tool.split("==")
        assert tool in release or f'{name.upper()}: "{version}"' in release
