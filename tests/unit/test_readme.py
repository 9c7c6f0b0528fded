"""The README: what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.settings import VARIABLES, load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SECTIONS = [
    *(
        "How it works",
        "Settings",
        "TLS",
        "DNS",
        "Mail clients",
        "Production",
        "Monitoring",
        "Troubleshooting",
        "Scaling",
    ),
    *("TLS certificate issues", "Connection refused", "Authentication failures", "Domain verification errors"),
]


def test_the_two_commands_come_first() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.S)
    assert first
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make sandbox", "make test"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_sections_are_there(section: str) -> None:
    assert re.search(rf"^##+ {section}$", README, re.M)


def test_its_settings_are_the_codes_own() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.M))
    assert set(rows) <= {name.upper() for name in VARIABLES}
    defaults = load_settings({})
    for name, shown in rows.items():
        value = defaults.acme_json if name == "ACME_JSON_PATH" else getattr(defaults, name.lower())
        if name != "DATABASE_URL":
            assert shown == (f"`{value}`" if value != "" else "(empty)"), name


def anchors(text: str) -> set[str]:
    """The anchors that headings get."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto")):
            path, _, anchor = target.partition("#")
            found = document.parent / path if path else document
            assert found.exists(), target
            assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


def test_its_make_targets_and_modules_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make (\w+)", README)) | set(re.findall(r"^make (\w+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for module in set(re.findall(r"python -m ([a-z_.]+)", README)):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_its_variables_are_settings() -> None:
    others = {"WORKERS", "CERTS", "ONCE", "UPGRADE"}
    for name in set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)+)\b", README)):
        assert name in {field.upper() for field in VARIABLES} | others, name
