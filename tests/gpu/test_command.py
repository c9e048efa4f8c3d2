"""`python -m tests.gpu` where there is nothing to simulate with: it says so, and makes nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu import __main__ as command
from tests.gpu import environment


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "nothing"))


def test_without_an_environment_it_names_the_command_that_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["dmd2"]) == command.EXIT_NO_ENVIRONMENT
    assert "python -m tests.gpu make" in capsys.readouterr().err


def test_what_cannot_be_downloaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "made"
    assert command.main(["make", "--folder", str(folder)]) == command.EXIT_NO_ENVIRONMENT
    assert "cannot be made" in capsys.readouterr().err
    assert environment.of(folder) is None


def test_a_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["make", "--folder", str(tmp_path / "made")]) == command.EXIT_NO_ENVIRONMENT
    assert "g++" in capsys.readouterr().err and not (tmp_path / "made").exists()


def test_figures_of_another_size_than_the_preset_are_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--ranks", "8"], ["--set", "train.precision=fp32"], ["--layers", "2"]):
        with pytest.raises(SystemExit):
            command.main(["dmd2", "--keep", *words])
        assert "--keep keeps presets as they are" in capsys.readouterr().err
