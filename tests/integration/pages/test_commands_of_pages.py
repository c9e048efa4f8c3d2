"""The commands that pages show run as they stand, one after another in one folder, as a reader types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages.blocks import EXAMPLES, blocks, run_shell, write_files
from tests.support.paths import ROOT


def test_the_guides_commands_run(tmp_path: Path) -> None:
    """Those that a test cannot run say what they need that is not here."""
    assert _run(ROOT / "README.md", tmp_path)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_shell_block_runs_or_says_what_it_needs(page: Path, tmp_path: Path) -> None:
    write_files(blocks(page), tmp_path)
    assert _run(page, tmp_path), "a page of commands has some that a test can run"


def _run(page: Path, folder: Path) -> list[str]:
    return [run_shell(block, folder) for block in blocks(page) if block.language == "bash" and not block.needs]
