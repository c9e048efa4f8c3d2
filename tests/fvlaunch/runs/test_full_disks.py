"""A run's folder on a full or read-only disk: nothing half-made, records rewritten in place, locks that need no writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fvlaunch.errors import FvlaunchError
from fvlaunch.files import publish_json_somehow, read_json, why_not_writable
from fvlaunch.runs import locks
from fvlaunch.runs.directory import Run, create
from tests.support.records import record
from tests.support.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "runs", kb=256) as made:
        yield made


@pytest.mark.parametrize("kb", [0, 4, 8, 12])
def test_a_run_for_which_there_is_no_room_is_refused_and_leaves_nothing(disk: SmallDisk, kb: int) -> None:
    disk.fill(leave=kb * 1024)
    with pytest.raises(FvlaunchError, match="no space left on the device"):
        create(disk.path / "a", record())
    assert not (disk.path / "a").exists()


def test_a_disk_without_a_name_left_is_as_good_as_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "few", inodes=6) as disk:
        with pytest.raises(FvlaunchError, match="no space left on the device"):
            create(disk.path / "a", record())
        assert not (disk.path / "a").exists()


def test_on_a_full_disk_the_record_and_the_intent_are_rewritten_in_place(disk: SmallDisk) -> None:
    run = create(disk.path / "a", record())
    disk.fill()
    run.update(state="failed", reason="no room " * 40)
    run.write_intent("cancel", 1)
    assert (run.record().state, run.intent().want) == ("failed", "cancel")
    with pytest.raises(OSError, match="No space left"):
        publish_json_somehow(run.record_file, {"reason": "x" * 100_000})
    assert run.record().state == "failed"
    assert sorted(path.name for path in run.path.glob(".*.*")) == []


def test_a_lock_is_held_where_nothing_can_be_written(disk: SmallDisk) -> None:
    run = create(disk.path / "a", record())
    busy = FvlaunchError("busy")
    with run.locked():
        pass
    for made in (True, False):
        if not made:
            (run.path / ".lock").unlink()
        disk.read_only()
        with run.locked(), pytest.raises(FvlaunchError, match="busy"), locks.held(run.path / ".lock", 0.1, busy):
            pass
        with run.locked():
            pass
        disk.back()


def test_whether_a_folder_can_be_written_is_found_by_trying_and_leaves_nothing(disk: SmallDisk) -> None:
    run = Run(disk.path)
    assert why_not_writable(run.path, 65536) is None
    disk.fill(leave=8192)
    refused = why_not_writable(run.path, 65536)
    assert refused is not None and refused.filename == str(run.path)
    assert [path.name for path in run.path.iterdir()] == [".filler"]
    assert read_json(run.record_file) is None
