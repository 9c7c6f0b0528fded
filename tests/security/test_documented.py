"""docs/security.md names tests: each one exists, and each test file of this folder is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda value: value.rpartition("/")[2])
def test_a_test_that_the_threat_model_names_exists(file: str, test: str) -> None:
    source = (ROOT / file).read_text("utf-8")
    assert re.search(rf"^(async )?def {test}\(", source, re.M)


def test_every_attack_has_a_test() -> None:
    rows = re.findall(r"^\| (?!Attack|Leak|Asset|---).*$", DOCUMENT.partition("## What stops whom")[2], re.M)
    assert len(rows) > 30
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`|the same tests", row), row


def test_every_file_of_this_folder_is_named() -> None:
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert here <= {file.rpartition("/")[2] for file, _ in NAMED}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([\w./-]+)\)", DOCUMENT):
        assert (ROOT / "docs" / target).exists(), target
