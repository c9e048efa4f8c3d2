"""What an agent's records do on disks that are full, read-only or away: kept, told once, caught up in order; a gap is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.agent import own_output, record_writer
from fvlaunch.agent.record_writer import RecordWriter
from fvlaunch.agent.restart_policy import Action, Decision
from fvlaunch.agent.room_wait import when_there_is_room
from fvlaunch.files import publish_json, read_json, read_lines
from fvlaunch.runs.directory import Run
from tests.support.rows import Figures, fault
from tests.support.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kb=256) as made:
        yield made


def line(number: int) -> dict[str, Any]:
    return {"n": number, "text": "x" * 1500}


@fault("32", "an agent's events, on a disk full, read-only, and away")
@pytest.mark.parametrize("how", ["fill", "read_only", "gone"])
def test_lines_that_cannot_be_written_are_kept_told_once_and_written_in_order(
    disk: SmallDisk, how: str, capfd: pytest.CaptureFixture[str], figure: Figures
) -> None:
    told: list[dict[str, Any]] = []
    writer, path = RecordWriter(disk.path, told.append), disk.path / "events.jsonl"
    for number in range(5):
        writer.append(path, line(number))
    getattr(disk, how)()
    for number in range(5, 12):
        writer.append(path, line(number))
        writer.catch_up(now=True)
    assert writer.fails(path) and writer.trouble is not None and str(path) in writer.trouble["why"]
    disk.back()
    disk.empty()
    writer.catch_up(now=True)
    writer.append(path, line(12))
    assert [value["n"] for value in read_lines(path)] == list(range(13))
    assert [(value["lost"], value["until"] >= value["since"]) for value in told] == [(0, True)]
    said = capfd.readouterr().err
    assert (said.count("The run goes on"), said.count("records are written again")) == (1, 1)
    figure.count("caught up in order", 1, 1)


def test_of_more_lines_than_are_kept_the_oldest_are_lost_and_counted(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "MOST_LINES", 4)
    told: list[dict[str, Any]] = []
    writer, path = RecordWriter(disk.path, told.append), disk.path / "events.jsonl"
    disk.read_only()
    for number in range(10):
        writer.append(path, line(number))
    disk.back()
    writer.catch_up(now=True)
    assert [value["n"] for value in read_lines(path)] == [6, 7, 8, 9]
    assert told[0]["lost"] == 6


def test_a_value_is_overwritten_in_place_on_a_full_disk_and_the_newest_counts(disk: SmallDisk) -> None:
    writer, path = RecordWriter(disk.path), disk.path / "heartbeat.json"
    assert writer.put(path, {"time": 1})
    disk.fill()
    assert writer.put(path, {"time": 2}) and read_json(path) == {"time": 2}
    assert not writer.put(path, {"text": "x" * 20_000})
    assert read_json(path) == {"time": 2}  # what stood there stays
    disk.empty()
    writer.catch_up(now=True)
    assert read_json(path) == {"text": "x" * 20_000} and writer.trouble is None


def test_what_cannot_be_printed_comes_before_the_next_line_that_can(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk.fill()
    with (disk.path / "output").open("ab") as output:
        kept = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            own_output.say("first")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    own_output.say("second")
    assert capfd.readouterr().err == "agent: first\nagent: second\n"


def test_what_an_attempt_cannot_begin_without_waits_for_room(disk: SmallDisk, capfd: pytest.CaptureFixture[str]) -> None:
    def interruption(why: str) -> Decision | None:
        assert "No space left on device" in why
        disk.empty()
        return None

    disk.fill()
    write = lambda: publish_json(disk.path / "config.json", {"train": 1})  # noqa: E731
    assert when_there_is_room(write, Run(disk.path), "attempt 2", 60, interruption) is None
    assert read_json(disk.path / "config.json") == {"train": 1}
    said = capfd.readouterr().err
    assert said.count("attempt 2 cannot begin") == 1 and said.count("attempt 2 begins after") == 1


def test_the_waiting_ends_by_a_persons_word_or_with_the_limit_in_words(disk: SmallDisk) -> None:
    disk.read_only()
    write = lambda: publish_json(disk.path / "config.json", {})  # noqa: E731
    cancelled = Decision(Action.END, "cancelled", "fvlaunch cancel")
    assert when_there_is_room(write, Run(disk.path), "attempt 2", 60, lambda why: cancelled) == cancelled
    ended = when_there_is_room(write, Run(disk.path), "attempt 2", 0, lambda why: None)
    assert ended is not None and ended.state == "failed" and "Read-only file system" in ended.reason and "fvlaunch resume" in ended.reason
