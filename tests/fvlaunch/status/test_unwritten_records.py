"""Status tells the truth of a run whose records cannot be written: it runs, since when nothing was heard, and what is in the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.files import append_line, overwrite_json
from fvlaunch.runs.directory import Run, create
from fvlaunch.schedulers.base import JobObservation
from fvlaunch.status.run_status import judge_run
from tests.support.records import record
from tests.support.small_disk import SmallDisk, small_disk

RUNS, GONE = JobObservation(alive=True), JobObservation(alive=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "runs", kb=256) as made:
        yield made


def running(disk: SmallDisk, silent_s: float, **beat: Any) -> Run:
    """Make a run whose agent was heard of so many seconds ago."""
    run = create(disk.path / "a", record(job_id="7", state="submitted"))
    append_line(run.attempt_log(1), {"event": "started", "time": 1.0, "generation": 1, "job_id": "7", "nodes": ["n"]})
    overwrite_json(run.heartbeat_file, {"time": time.time() - silent_s, "attempt": 1, "job_id": "7", **beat})
    return run


@pytest.mark.parametrize(("how", "words"), [("fill", "No space left on device"), ("read_only", "Read-only file system")])
def test_a_run_that_is_not_heard_of_on_a_disk_that_cannot_be_written_runs_and_the_disk_is_named(
    disk: SmallDisk, how: str, words: str
) -> None:
    run = running(disk, 600)
    getattr(disk, how)()
    status = judge_run(run, run.record(), RUNS)
    assert status.state == "running"
    assert "nothing was heard of its agent for 10 minutes" in status.reason and words in status.reason and "df " in status.reason


def test_what_its_agent_says_of_the_disk_is_told_and_a_sound_disk_is_not_blamed(disk: SmallDisk) -> None:
    run = running(disk, 0, unwritten={"since": time.time() - 300, "why": "/r/attempts/0001.jsonl: Disk quota exceeded"})
    assert (
        "for 5 minutes its records cannot all be written: /r/attempts/0001.jsonl: Disk quota" in judge_run(run, run.record(), RUNS).reason
    )
    overwrite_json(run.heartbeat_file, {"time": time.time(), "attempt": 1, "job_id": "7", "phase": "waiting", "waits_for": "/r: no room"})
    assert "its next attempt waits for room: /r: no room" in judge_run(run, run.record(), RUNS).reason
    overwrite_json(run.heartbeat_file, {"time": time.time() - 600, "attempt": 1, "job_id": "7"})
    assert "written" not in judge_run(run, run.record(), RUNS).reason
    assert sorted(path.name for path in run.path.glob(".*")) == []


def test_a_run_whose_agent_decided_its_end_and_could_not_write_it_is_what_was_decided(disk: SmallDisk) -> None:
    run = running(disk, 600)
    append_line(run.attempt_log(1), {"event": "ended", "time": 2.0, "cause": "crash", "step": 3})
    append_line(run.attempt_log(1), {"event": "decided", "time": 2.0, "next": "end", "state": "failed"})
    disk.read_only()
    assert judge_run(run, run.record(), GONE).state == "failed"


def test_a_job_that_is_gone_without_a_word_on_a_full_disk_is_lost_and_the_disk_is_named(disk: SmallDisk) -> None:
    run = running(disk, 600)
    disk.fill()
    status = judge_run(run, run.record(), GONE)
    assert status.state == "lost" and "its records cannot be written" in status.reason and "No space left on device" in status.reason
