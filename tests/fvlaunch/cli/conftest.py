"""Owns the fixtures of the command line's tests: an empty working directory, a command called in this process, a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.runs.directory import Run
from tests.support.commands import Answer, Call, make_run, write
from tests.support.isolation import isolate
from tests.support.plans import RECIPE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it but a recipe, away from the person's own settings and runs."""
    isolate(tmp_path, monkeypatch)
    write("own.yaml", RECIPE)
    return tmp_path


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> Answer:
        capfd.readouterr()
        code = app.run(list(words))
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one command on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def finished(folder: Path, call: Call) -> Run:
    run = make_run(state="finished", job_id="local-1-1")
    shown = json.loads(call("show", "own.yaml", "--json").out)
    run.config_file.write_text(yaml.safe_dump({"recipe": shown["recipe"], "cluster": shown["cluster"]}))
    (run.checkpoints / "step-00000010").mkdir()
    return run
