"""Owns a folder with the smallest recipe in it, to write variants of it in, for the tests of configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configuration import RECIPE, Write


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write_file("r.yaml", RECIPE)
    return write_file


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "work"
