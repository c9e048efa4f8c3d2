"""Promises of dashboards: one run of theirs for all attempts of ours, and never the end of a training run. Against stand-in packages."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.config.tracking import TrackingConfig
from trainers.errors import UserError
from trainers.inference.video_files import write_png
from trainers.training import dashboards
from trainers.training.metrics import Record
from trainers.training.tracker import Tracker

STAND_IN = """
import json, pathlib
told = pathlib.Path(__file__).with_name("told.jsonl")

def tell(*words):
    with told.open("a") as file:
        file.write(json.dumps(words, default=str) + "\\n")

class Image:
    def __init__(self, path): self.path = path
    def __str__(self): return f"image {pathlib.Path(self.path).name}"

class Video(Image):
    def __init__(self, path, caption, format=None): self.path, self.caption = path, caption
    def __str__(self): return f"video {pathlib.Path(self.path).name}: {self.caption}"

class Run:
    def log(self, values, step=None):
        if "broken" in str(values): raise RuntimeError("the network is down")
        tell("log", values, step)
    def define_metric(self, *names, **options): pass
    def finish(self): tell("finish")

def init(**options):
    tell("init", {k: options.get(k) for k in ("id", "name", "resume", "project")})
    return Run()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wandb and a trackio that write down what they are told."""
    folder = tmp_path / "packages"
    for name in ("wandb", "trackio"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(STAND_IN)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def told(package: Path, name: str) -> list[list[Any]]:
    return [json.loads(line) for line in (package / name / "told.jsonl").read_text().splitlines()]


def tracker(run: Path, last_step: int, name: str) -> Tracker:
    run.mkdir(exist_ok=True)
    config = TrackingConfig.model_validate({"tensorboard": False, name: {"project": "p"}})
    return Tracker(run, last_step, config, {"seed": 1}, enabled=True)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_all_attempts_are_one_run_of_theirs(package: Path, tmp_path: Path, name: str) -> None:
    for last_step in (0, 1):
        attempt = tracker(tmp_path / "run", last_step, name)
        for step in (last_step + 1, last_step + 2):
            attempt.write(Record(step, {"step": step, "loss": 0.5, "attempt": last_step + 1}))
        attempt.close()
    lines = told(package, name)
    first, second = (line[1] for line in lines if line[0] == "init")
    assert first == second and first["resume"] == "allow"
    assert (first["id"] or first["name"]) not in (None, "run")
    steps = [line[1].get("step", line[2]) for line in lines if line[0] == "log"]
    assert steps == [1, 2, 2, 3]
    assert all(line[1]["train/loss"] == 0.5 and "train/attempt" not in line[1] for line in lines if line[0] == "log")
    assert [line[0] for line in lines].count("finish") == 2


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_validation_is_shown_with_its_videos(package: Path, tmp_path: Path, name: str) -> None:
    attempt = tracker(tmp_path / "run", 0, name)
    attempt.write(Record(1, {"step": 1, "loss": 0.5}))
    sheet = write_png(tmp_path / "sheet.png", np.zeros((2, 2, 3), np.uint8))
    attempt.amend(1, {"validation_loss": 0.25}, sheet, [("a cat", tmp_path / "000.mp4")])
    attempt.close()
    values = {key: value for line in told(package, name) if line[0] == "log" for key, value in line[1].items()}
    assert values["train/validation_loss"] == 0.25
    assert (values["samples/sheet"], values["samples/000"]) == ("image sheet.png", "video 000.mp4: a cat")
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5, "validation_loss": 0.25}


def test_one_that_fails_is_told_once_and_left_alone(package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    attempt = tracker(tmp_path / "run", 0, "wandb")
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            attempt.write(Record(step, {"step": step, "loss": "broken" if step == 1 else 0.5}))
        attempt.close()
    assert [record.getMessage() for record in caplog.records] == ["wandb is left alone from now on: RuntimeError: the network is down"]
    assert [line[0] for line in told(package, "wandb")] == ["init"]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3


def test_one_that_cannot_start_is_left_alone_too(package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (package / "wandb/__init__.py").write_text(STAND_IN + "\ndef init(**options): raise RuntimeError('no API key')\n")
    attempt = tracker(tmp_path / "run", 0, "wandb")
    attempt.write(Record(1, {"step": 1, "loss": 0.5}))
    attempt.close()
    assert "no API key" in caplog.text


def test_one_that_a_full_disk_keeps_from_being_imported_gets_everything_later(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "trackio/__init__.py").write_text(STAND_IN + "\npathlib.Path('/dev/full').write_text('mine')\n")
    monkeypatch.setattr(dashboards, "RETRY_S", 0.0)
    attempt = tracker(tmp_path / "run", 0, "trackio")
    attempt.write(Record(1, {"step": 1, "loss": 0.5}))
    assert "trackio cannot be written: No space left on device" in caplog.text
    (package / "trackio/__init__.py").write_text(STAND_IN)
    attempt.write(Record(2, {"step": 2, "loss": 0.5}))
    attempt.close()
    assert [line[2] for line in told(package, "trackio") if line[0] == "log"] == [1, 2]


def test_a_package_that_is_not_installed_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="package trackio is not installed"):
        tracker(tmp_path / "run", 0, "trackio")


def test_tensorboard_shows_the_sheet_and_the_validation_loss(tmp_path: Path) -> None:
    attempt = Tracker(tmp_path, 0, TrackingConfig(), {}, enabled=True)
    attempt.write(Record(1, {"step": 1, "loss": 0.5}))
    attempt.amend(1, {"validation_loss": 0.25}, write_png(tmp_path / "sheet.png", np.zeros((2, 2, 3), np.uint8)), [])
    attempt.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    assert all(tag in events.read_bytes() for tag in (b"train/loss", b"train/validation_loss", b"samples"))
