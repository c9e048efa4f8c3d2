"""What the head decides by is what happened, whatever of it could be written; the next life of the job reads the end all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fvlaunch.agent.attempt_records import AttemptRecords
from fvlaunch.agent.placement import Placement
from fvlaunch.files import read_json, read_lines
from fvlaunch.runs.attempts import Cause, read_attempts
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.run_config import World
from fvlaunch.schedulers.base import Allocation
from fvlaunch.schedulers.registry import scheduler
from tests.support.records import record
from tests.support.small_disk import SmallDisk, small_disk

CONFIG: Any = SimpleNamespace(program={"train": {}})
WORLD = World(2, 2, 0, "127.0.0.1", 1234, 1)
PLACEMENT = Placement(scheduler("local"), Allocation("7", 0, 0, ("here",), "t", None))
FAILURE = {"rank": 1, "node": "here", "step": 12, "what": "ValueError: boom", "lines": [f"line {n} {'x' * 300}" for n in range(12)]}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "runs", kb=256) as made:
        yield made


def begun(run: Run) -> AttemptRecords:
    records = AttemptRecords(run, PLACEMENT, {})
    records.load()
    records.begin(CONFIG, 1, WORLD)
    return records


def end(records: AttemptRecords, then: str = "requeue") -> None:
    records.log("ended", cause="crash", failure=FAILURE, step=12)
    records.log("decided", next=then, state="", reason="", exclude=("n1",))
    records.tell_followers(then)


@pytest.mark.parametrize("how", ["fill", "read_only", "gone"])
def test_what_could_not_be_written_is_decided_by_all_the_same(disk: SmallDisk, how: str) -> None:
    run = create(disk.path / "a", record())
    records = begun(run)
    getattr(disk, how)()
    end(records)
    [attempt] = records.attempts()
    assert (attempt.cause, attempt.step_to, attempt.next, attempt.excluded) == (Cause.CRASH, 12, "requeue", ("n1",))
    assert attempt.failure is not None and attempt.failure.what == "ValueError: boom"


def test_the_next_life_knows_how_an_attempt_ended_on_a_full_disk_and_writes_it_where_it_belongs(disk: SmallDisk) -> None:
    run = create(disk.path / "a", record())
    records = begun(run)
    with run.attempt_log(1).open("a") as file:
        file.write(" " * (4095 - run.attempt_log(1).stat().st_size) + "\n")  # not a byte is left of its last block
    disk.fill()
    end(records)
    assert [line["event"] for line in read_lines(run.attempt_log(1))] == ["started"]
    [attempt] = read_attempts(run)
    assert (attempt.cause, attempt.step_to, attempt.next, attempt.excluded) == (Cause.CRASH, 12, "requeue", ("n1",))
    later = AttemptRecords(run, PLACEMENT, {})
    later.load()
    with pytest.raises(OSError, match="No space left"):
        later.begin(CONFIG, 1, WORLD)
    assert later.number == 0 and not run.attempt_log(2).exists()
    disk.empty()
    later.begin(CONFIG, 1, WORLD)
    assert [line["event"] for line in read_lines(run.attempt_log(1))] == ["started", "ended", "decided"]
    assert [attempt.cause for attempt in read_attempts(run)] == [Cause.CRASH, Cause.RUNNING]
    assert (read_json(run.attempt_file) or {})["attempt"] == 2 and "unwritten" not in (read_json(run.attempt_file) or {})


def test_an_attempt_that_could_not_begin_has_no_number_and_is_tried_again_under_the_same(disk: SmallDisk) -> None:
    run = create(disk.path / "a", record())
    records = AttemptRecords(run, PLACEMENT, {})
    records.load()
    disk.read_only()
    with pytest.raises(OSError, match="Read-only"):
        records.begin(CONFIG, 1, WORLD)
    assert (records.number, records.last, records.attempts()) == (0, 0, [])
    disk.back()
    records.begin(CONFIG, 1, WORLD)
    assert records.number == 1 and [a.number for a in read_attempts(run)] == [1]
