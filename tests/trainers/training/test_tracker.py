"""Promises of where a run's numbers go: no place that fails ends anything; it is told once, tried again, and caught up or told of."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.small_disk import SmallDisk, small_disk
from trainers.config.tracking import TrackingConfig
from trainers.inference.video_files import write_png
from trainers.training import outlived
from trainers.training.dashboards import Dashboard
from trainers.training.metrics import Record
from trainers.training.metrics_file import CARRIED
from trainers.training.outlived import Outlived
from trainers.training.tensorboard_events import TensorBoardEvents
from trainers.training.tracker import Tracker


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kb=512) as made:
        yield made


def numbers(folder: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


class Failing:
    """A sink that fails as long as `error` is set."""

    name = "the place"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.kept: list[int] = []
        self.there: list[int] = []

    def record(self, values: dict[str, Any]) -> None:
        self.kept.append(values["step"])

    def write(self) -> None:
        if self.error is not None:
            raise self.error
        self.there, self.kept = [*self.there, *self.kept], []

    def sync(self) -> None:
        self.write()

    def close(self) -> None:
        if self.error is not None:
            raise self.error

    def lacking(self) -> list[int]:
        return self.kept

    def given_up(self) -> list[int]:
        return []


def take(place: Outlived, sink: Failing, *steps: int) -> None:
    for step in steps:
        sink.record({"step": step})
        place.attend()


# --- what is told


def test_a_failure_is_told_once_and_its_end_once() -> None:
    told: list[str] = []
    sink = Failing()
    place = Outlived(sink, told.append, retry_s=0)
    take(place, sink, 1)
    sink.error = OSError(errno.EDQUOT, "Disk quota exceeded")
    take(place, sink, 2, 3, 4)
    assert told == ["the place cannot be written: Disk quota exceeded. What it lacks is kept, and written once it can be"]
    sink.error = None
    take(place, sink, 5)
    assert told[1:] == ["the place is written again, with what it lacked from step 2 on"]
    assert sink.there == [1, 2, 3, 4, 5]


def test_one_that_comes_and_goes_is_not_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    sink = Failing()
    place = Outlived(sink, told.append, retry_s=0)
    for step in range(1, 21):
        sink.error = OSError(errno.EIO, "Input/output error") if step % 2 else None
        take(place, sink, step)
    assert len(told) == 2
    monkeypatch.setattr(outlived, "TELL_AGAIN_S", 0.0)
    sink.error = OSError(errno.EIO, "Input/output error")
    take(place, sink, 21)
    assert len(told) == 3


def test_it_is_tried_again_after_a_while_and_at_every_checkpoint() -> None:
    sink = Failing()
    place = Outlived(sink, lambda _text: None, retry_s=3600)
    sink.error = RuntimeError("whatever a package raises")
    take(place, sink, 1)
    sink.error = None
    take(place, sink, 2)
    assert sink.there == []
    assert place.sync() and sink.there == [1, 2]


def test_what_is_missing_at_the_end_is_told() -> None:
    told: list[str] = []
    sink = Failing()
    place = Outlived(sink, told.append)
    sink.error = OSError(errno.EROFS, "Read-only file system")
    take(place, sink, 3, 4)
    place.close()
    assert told[1:] == ["the place lacks steps 3 to 4: Read-only file system"]


# --- TensorBoard


def test_tensorboard_has_every_number_once_after_the_disk_was_full(disk: SmallDisk) -> None:
    folder = disk.path / "tensorboard"
    events = TensorBoardEvents(folder, 0)
    place = Outlived(events, lambda _text: None, retry_s=0)
    for step in range(1, 1200):
        if step == 100:
            disk.fill()
        elif step == 1100:
            disk.empty()
        events.record({"step": step, "loss": step / 4})
        place.attend()
    place.close()
    assert numbers(folder) == [(step, step / 4) for step in range(1, 1200)]


def test_tensorboard_goes_on_where_its_folder_is_removed_or_was_never_there(disk: SmallDisk) -> None:
    folder = disk.path / "tensorboard"
    folder.write_text("a file")
    events = TensorBoardEvents(folder, 0)
    place = Outlived(events, lambda _text: None, retry_s=0)
    for step in range(1, 4):
        events.record({"step": step, "loss": 0.5})
        place.attend()
    folder.unlink()
    events.record({"step": 4, "loss": 0.5})
    place.sync()
    assert [step for step, _ in numbers(folder)] == [1, 2, 3, 4]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    events.record({"step": 5, "loss": 0.5})
    place.close()
    assert [step for step, _ in numbers(folder)] == [5]


def test_a_sheet_that_cannot_be_read_costs_the_sheet(tmp_path: Path) -> None:
    events = TensorBoardEvents(tmp_path / "tensorboard", 0)
    sheet = write_png(tmp_path / "sheet.png", np.zeros((40, 40, 3), np.uint8))
    for size in (0, 20, 60):
        os.truncate(sheet, size)
        events.show(1, sheet, [])
    events.show(1, tmp_path / "none.png", [])
    assert events.lacking() == []


# --- dashboards


def test_a_dashboard_that_a_disk_refuses_gets_everything_later(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    logged: list[int] = []
    refusals = iter([OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full"), None])

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            if step == 2 and (error := next(refusals)) is not None:
                raise error
            logged.append(step)

        def finish(self) -> None: ...

    dashboard = Dashboard("json", lambda _module: Run(), told.append)
    place = Outlived(dashboard, told.append, retry_s=0)
    for step in range(1, 6):
        dashboard.record({"step": step, "loss": 0.5})
        place.attend()
    place.close()
    assert logged == [1, 2, 3, 4, 5]
    assert [text.split(":")[0] for text in told] == ["json cannot be written", "json is written again, with what it lacked from step 2 on"]


# --- all of it


def test_a_run_whose_every_record_fails_goes_on_and_its_checkpoints_carry_the_losses(disk: SmallDisk) -> None:
    told: list[str] = []
    run = disk.path / "run"
    run.mkdir()
    disk.fill()
    tracker = Tracker(run, 0, TrackingConfig(), {}, enabled=True, tell=told.append)
    for step in range(1, 301):
        tracker.write(Record(step, {"step": step, "loss": step / 4}))
    tracker.amend(300, {"validation_loss": 1.0}, None, [])
    carried = tracker.before_checkpoint(300)
    tracker.close(last_checkpoint=300)
    assert sorted(text.split(":")[0] for text in told[:2]) == ["metrics.jsonl cannot be written", "tensorboard/ cannot be written"]
    assert [text.split(":")[0] for text in told[2:4]] == ["metrics.jsonl lacks steps 1 to 300", "tensorboard/ lacks steps 1 to 300"]
    assert told[4:] == [f"the checkpoint of step 300 carries these lines in {CARRIED}; the next start of this run writes them"]
    disk.empty()
    Tracker(run, 300, TrackingConfig(), {}, enabled=True, carried=carried[CARRIED]).close()
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(step, step / 4) for step in range(1, 301)]
    assert lines[-1]["validation_loss"] == 1.0
