"""Pages that code, recipes and templates cite are pages of this repository, and the sections that they cite are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CITED = re.compile(r"(?<![\w/.*-])((?:[\w.-]+/)*[\w-]+\.md)\b(?:,? sections? (\d+))?")
MADE_BY_RUNS = {"evaluation.md", "README.md", "model_card.md"}
"""Files that programs write or that stand beside the one that names them."""
FILES = subprocess.run(
    ["git", "ls-files", "trainers/*.py", "fvlaunch/*.py", "templates/*.yaml", "templates/*.j2", "clusters/*.yaml"],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
).stdout.split()


def citations(path: Path) -> list[tuple[str, str | None]]:
    """(page, section or None) of every page that a file cites by its path."""
    return [(page, section) for page, section in CITED.findall(path.read_text()) if page not in MADE_BY_RUNS]


def page_of(cited: str) -> Path | None:
    """The page that is meant: a path from the root, or from the trainers."""
    return next((base / cited for base in (ROOT, ROOT / "trainers") if (base / cited).is_file()), None)


@pytest.mark.parametrize("name", [name for name in FILES if citations(ROOT / name)])
def test_cited_pages_and_their_sections_are_there(name: str) -> None:
    for cited, section in citations(ROOT / name):
        page = page_of(cited)
        assert page is not None, f"{name} cites {cited}, which is not in the repository"
        assert not section or re.search(rf"^#+ {section}\b", page.read_text(), re.MULTILINE), f"{name}: {cited} has no section {section}"
