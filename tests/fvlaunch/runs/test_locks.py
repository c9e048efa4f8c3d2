"""Locks where the file system has none of its own: one holder at a time, one clear error, and none that outlives its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch.errors import FvlaunchError
from fvlaunch.runs import locks
from fvlaunch.runs.locks import held
from fvlaunch.schedulers.local_process import host_identity, local_job_id

BUSY = FvlaunchError("somebody else is at work", hint="try again")


class NoLocks(locks.FileLock):
    """What filelock says where flock is not there."""

    def acquire(self, *_words: object, **_named: object) -> None:  # type: ignore[override]
        raise NotImplementedError("no flock here")


@pytest.fixture(autouse=True, params=["soft", "kernel"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "soft":
        monkeypatch.setattr(locks, "FileLock", NoLocks)
    return str(request.param)


def test_a_lock_that_is_held_is_one_clear_error_and_is_free_afterwards(tmp_path: Path) -> None:
    mine, other = held(tmp_path / ".lock", 1, BUSY), held(tmp_path / ".lock", 0.2, BUSY)
    with mine, pytest.raises(FvlaunchError, match="somebody else is at work"), other:
        pass
    with held(tmp_path / ".lock", 0, BUSY):
        pass
    assert not (tmp_path / ".lock.soft").exists()


def test_a_lock_whose_holder_was_killed_is_taken_over(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from fvlaunch.runs import locks\n"
        "marker = locks._marked(Path(sys.argv[1]), 1, None)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / ".lock.soft")], timeout=60, check=False)
    assert (tmp_path / ".lock.soft").exists()
    with held(tmp_path / ".lock", 5, BUSY):
        pass


@pytest.mark.parametrize(
    ("holder", "age_s", "gone"),
    [
        (f"{host_identity()} {local_job_id(os.getpid())}", 1e6, False),
        (f"{host_identity().split('/')[0]}/another-boot {local_job_id(os.getpid())}", 0, True),
        ("elsewhere/boot local-1-1", 60, False),
        ("elsewhere/boot local-1-1", 1e6, True),
        ("", 0, False),
        ("", 1e6, True),
    ],
    ids=["this process", "before a boot", "elsewhere", "elsewhere, old", "unnamed", "unnamed, old"],
)
def test_who_cannot_be_asked_about_keeps_a_lock_for_an_hour(tmp_path: Path, holder: str, age_s: float, gone: bool) -> None:
    marker = tmp_path / ".lock.soft"
    marker.write_text(holder)
    then = marker.stat().st_mtime - age_s
    os.utime(marker, (then, then))
    locks._take_away_if_left(marker)
    assert marker.exists() != gone and list(tmp_path.iterdir()) == ([] if gone else [marker])
