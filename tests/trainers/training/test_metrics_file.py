"""Promises of metrics.jsonl: every step once, in order, whatever the disk does; and of what a checkpoint carries of it meanwhile."""

from __future__ import annotations

import errno
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rows import fault
from tests.support.small_disk import SmallDisk, small_disk
from trainers.training.metrics_file import MetricsFile


def line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "loss": loss}) + "\n"


def opened(path: Path, last_step: int = 0, carried: bytes = b"", **options: Any) -> MetricsFile:
    file = MetricsFile(path, last_step, carried, **options)
    file.write()
    return file


def record(file: MetricsFile, step: int, loss: float = 0.5) -> None:
    """As a step does: a disk that refuses is none of its business."""
    file.record({"step": step, "loss": loss})
    refused(file.write)


def refused(action: Callable[[], None]) -> int | None:
    """The error's number, or None."""
    try:
        action()
    except OSError as error:
        return error.errno
    return None


def steps(path: Path) -> list[int]:
    return [json.loads(text)["step"] for text in path.read_text().splitlines()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kb=256) as made:
        yield made


# --- what it holds


@fault("23", "metrics.jsonl with a cut line, doubled and later steps")
def test_opening_drops_later_steps_a_cut_line_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 1.0) + line(2, 2.0) + line(3, 3.0) + line(2, 2.5) + "[]\n" + line(4, 4.0) + '{"step": 5, "lo')
    file = opened(path, last_step=3)
    record(file, 4, 4.5)
    file.sync()
    assert path.read_text() == line(1, 1.0) + line(2, 2.5) + line(3, 3.0) + line(4, 4.5)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_should_be_there_and_is_not_is_named_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(2, 1.0) + '{"step": 3, "loss": 2.')
    record(opened(path, last_step=4), 5)
    gaps = [json.loads(text).get("missing") for text in path.read_text().splitlines()]
    assert (steps(path), gaps) == ([1, 2, 4, 5], [[1, 1], None, [3, 4], None])
    opened(path, last_step=3)  # a gap is no line: it is cut like them
    assert [json.loads(text).get("missing") for text in path.read_text().splitlines()] == [[1, 1], None, [3, 3]]


def test_an_old_writer_holds_a_dead_file(tmp_path: Path) -> None:
    path, successor = tmp_path / "metrics.jsonl", False
    old = opened(path, is_current=lambda: not successor)
    record(old, 1)
    new = opened(path, last_step=1)
    successor = True
    record(old, 2)
    record(new, 2, 0.25)
    assert refused(old.sync) == errno.ESTALE
    old.amend(2, {"validation_loss": 1.0})
    assert refused(old.write) == errno.ESTALE
    assert [json.loads(text) for text in path.read_text().splitlines()] == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_numbers_survive_in_full_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    file = opened(tmp_path / "metrics.jsonl")
    file.record({"step": 1, "loss": 0.1 + 0.2, "grad_norm": float("nan"), "other": float("inf")})
    file.write()
    (found,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert found == {"step": 1, "loss": 0.1 + 0.2, "grad_norm": None, "other": None}


def test_a_step_is_amended_before_and_after_it_is_on_the_disk_and_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = opened(path)
    assert not file.amend(0, {"validation_loss": 1.0})
    record(file, 1)
    file.amend(1, {"a": 1})
    file.sync()
    file.amend(1, {"b": 2})
    file.write()
    again = opened(path, last_step=1)
    assert again.amend(1, {"c": 3})
    record(again, 2)
    assert [json.loads(text) for text in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5, "a": 1, "b": 2, "c": 3},
        {"step": 2, "loss": 0.5},
    ]


# --- what the disk does


def test_a_full_disk_keeps_lines_back_and_gets_them_in_order_when_there_is_room(disk: SmallDisk) -> None:
    path = disk.path / "metrics.jsonl"
    file = opened(path)
    record(file, 1)
    disk.fill()
    for step in range(2, 400):
        record(file, step)
    assert refused(file.sync) == errno.ENOSPC
    assert all(text.endswith("}") for text in path.read_text().splitlines()), "half a line is cut off at once"
    assert file.lacking()[-1] == 399
    disk.empty()
    record(file, 400)
    file.sync()
    assert steps(path) == list(range(1, 401)) and not file.lacking()


def test_a_disk_that_is_full_at_the_start_keeps_everything(disk: SmallDisk) -> None:
    path = disk.path / "metrics.jsonl"
    path.write_text("".join(line(step, 0.5) for step in range(1, 300)))
    disk.fill()
    file = MetricsFile(path, 200)
    assert refused(file.write) == errno.ENOSPC
    for step in range(201, 301):
        record(file, step, 0.25)
    assert [json.loads(text)["step"] for text in file.carried(250).splitlines()] == list(range(201, 251))
    disk.empty()
    file.sync()
    assert steps(path) == list(range(1, 301)) and path.read_text().splitlines()[200] == line(201, 0.25).strip()
    assert [p.name for p in disk.path.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_takes_new_lines_in_what_is_left_where_it_cannot_take_an_amendment(disk: SmallDisk) -> None:
    path = disk.path / "metrics.jsonl"
    path.write_text("".join(line(step, 0.5) for step in range(1, 3000)))
    file = opened(path, last_step=2999)
    record(file, 3000)
    disk.fill(leave=8192)
    file.amend(3000, {"validation_loss": 1.0})
    for step in (3001, 3002):
        record(file, step)
    assert refused(file.sync) == errno.ENOSPC
    assert steps(path)[-1] == 3002 and file.lacking() == [3000]
    assert json.loads(file.carried(3001)) == {"step": 3000, "loss": 0.5, "validation_loss": 1.0}
    disk.empty()
    file.sync()
    assert steps(path) == list(range(1, 3003)) and '"validation_loss": 1.0' in path.read_text().splitlines()[2999]


def test_a_disk_that_can_only_be_read_or_is_taken_away_loses_nothing(disk: SmallDisk) -> None:
    folder = disk.path / "run"
    folder.mkdir()
    path = folder / "metrics.jsonl"
    path.write_text(line(1, 0.5))
    disk.read_only()
    file = MetricsFile(path, 1)
    record(file, 2)
    assert refused(file.sync) == errno.EROFS
    disk.back()
    file.sync()
    assert steps(path) == [1, 2]
    disk.gone()
    record(file, 3)
    assert refused(file.sync) is not None and file.lacking() == [3]
    disk.back()
    record(file, 4)
    file.sync()
    assert steps(path) == [1, 2, 3, 4]


def test_a_file_that_somebody_moves_removes_or_replaces_is_there_again_at_the_next_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    file = opened(path)
    other = path.with_name("other")
    harms: list[Callable[[], Any]] = [lambda: None, path.unlink, lambda: path.rename(other), lambda: shutil.copy(path, other).rename(path)]
    for step, harm in enumerate(harms, 1):
        record(file, step)
        file.sync()
        harm()
    record(file, 5)
    file.sync()
    assert steps(path) == [1, 2, 3, 4, 5]
    path.write_text("")
    record(file, 6)
    file.sync()
    assert [json.loads(text) for text in path.read_text().splitlines()] == [{"step": 5, "missing": [1, 5]}, {"step": 6, "loss": 0.5}]


@pytest.mark.parametrize("in_the_way", ["folder", "dangling", "loop", "device"])
def test_what_stands_in_its_place_ends_nothing(tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if in_the_way == "folder":
        path.mkdir()
    else:
        path.symlink_to({"dangling": tmp_path / "no/where", "loop": path, "device": "/dev/full"}[in_the_way])
    file = MetricsFile(path, 0)
    record(file, 1)
    if refused(file.sync) is not None:
        assert file.lacking() == [1]
        path.rmdir() if in_the_way == "folder" else path.unlink()
        file.sync()
    assert steps(path) == [1]


def test_a_checkpoints_thread_and_the_steps_share_the_file_on_a_disk_that_comes_and_goes(disk: SmallDisk) -> None:
    """Lines that count as on the disk are there, and those that do not are in what a checkpoint carries: none is in neither."""
    path = disk.path / "metrics.jsonl"
    file = MetricsFile(path, 0, bound=3000)
    over = threading.Event()

    def checkpoints() -> None:
        while not over.wait(0.001):
            refused(file.sync)

    thread = threading.Thread(target=checkpoints)
    thread.start()
    for step in range(1, 600):
        if step % 50 == 0:
            disk.fill() if step % 100 else disk.empty()
        record(file, step)
        if step % 70 == 0:
            file.amend(step, {"amended": step})
    over.set()
    thread.join()
    disk.empty()
    file.sync()
    found = [json.loads(text) for text in path.read_text().splitlines()]
    expected = 1
    for entry in found:
        assert entry.get("missing", [entry["step"]])[0] == expected
        expected = entry["step"] + 1
    assert expected == 600 and not file.lacking()


# --- what is not kept, and what a checkpoint carries


def test_more_than_can_be_kept_is_named_in_its_place(disk: SmallDisk) -> None:
    path = disk.path / "metrics.jsonl"
    file = opened(path, bound=1000)
    record(file, 1)
    file.sync()
    disk.fill()
    for step in range(2, 500):
        record(file, step)
    disk.empty()
    file.sync()
    found = [json.loads(text) for text in path.read_text().splitlines()]
    [gap] = [entry["missing"] for entry in found if "missing" in entry]
    assert [entry["step"] for entry in found] == [*range(1, gap[0]), *range(gap[1], 500)]
    assert 1 < gap[0] < gap[1] < 499 and file.given_up() == gap
    opened(path, last_step=499)
    assert [json.loads(text) for text in path.read_text().splitlines()] == found


def test_what_a_checkpoint_carries_is_caught_up_at_its_resume_and_carried_on_meanwhile(disk: SmallDisk) -> None:
    path = disk.path / "metrics.jsonl"
    path.write_text("".join(line(step, 9.0 if step > 2 else 0.5) for step in range(1, 5)))  # 3 and 4 are of an attempt that was lost
    disk.fill()
    first = MetricsFile(path, 2)
    for step in range(3, 200):
        record(first, step)
    second = MetricsFile(path, 199, first.carried(199))  # the first was killed
    record(second, 200)
    third = MetricsFile(path, 200, second.carried(200))
    disk.empty()
    third.sync()
    assert path.read_text() == "".join(line(step, 0.5) for step in range(1, 201))
    assert third.carried(200) == b""


def test_no_disturbance_at_any_moment_costs_a_line_or_doubles_one(disk: SmallDisk) -> None:
    """Random steps, amendments, checkpoints, deaths, room that comes and goes: what a checkpoint promised is there, once, in order."""
    for seed in range(12):
        dice, folder = random.Random(seed), disk.path / str(seed)
        folder.mkdir()
        path = folder / "metrics.jsonl"
        file, step, checkpoint, carried = MetricsFile(path, 0), 0, 0, b""
        for _ in range(150):
            what = dice.choice(["step"] * 6 + ["amend", "checkpoint", "kill", "fill", "empty", "harm"])
            if what == "step":
                step += 1
                record(file, step, step / 2)
            elif what == "amend" and step:
                file.amend(step, {"amended": step})
            elif what == "checkpoint":
                refused(file.sync)
                checkpoint, carried = step, file.carried(step)
            elif what == "kill":
                file.close()
                file = MetricsFile(path, checkpoint, carried)
                refused(file.write)
                step = checkpoint
            elif what == "fill":
                disk.fill(leave=dice.choice([0, 0, 4096, 8192]))
            elif what == "empty":
                disk.empty()
            elif what == "harm" and path.exists():
                disk.empty()
                file.sync()
                path.rename(path.with_name("gone"))
                file.sync()
        disk.empty()
        file.sync()
        entries = [json.loads(text) for text in path.read_text().splitlines()]
        assert [(e["step"], e.get("loss")) for e in entries] == [(s, s / 2) for s in range(1, step + 1)], seed
        file.close()
        path.unlink()
