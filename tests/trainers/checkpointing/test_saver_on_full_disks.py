"""Promises of a save on a disk that refuses: whatever the moment, it fails as a whole, nothing stays, and the next one works."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.rows import fault
from tests.support.small_disk import SmallDisk, refusing_writes, small_disk
from tests.support.trainers import checkpoint_ranks
from trainers.checkpointing import saver, store
from trainers.checkpointing.saver import Checkpointer

ROWS = 5000
MOMENTS = ["folder", "shards", "sync", "carried", "manifest", "rename", "sync of the folder"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kb=512, inodes=40) as made:
        yield made


def state(step: int) -> dict[str, Any]:
    return {"roles": {"student": {"net": {"weight": torch.full((ROWS, 2), float(step))}}}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def before(moment: str, harm: Callable[[], None], checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `harm` done once, right before this moment of the next save."""
    done: list[bool] = []

    def first(function: Callable[..., Any], due: Callable[..., bool] = lambda *_a, **_k: True) -> Callable[..., Any]:
        def harmed(*arguments: Any, **options: Any) -> Any:
            if not done and due(*arguments):
                done.append(True)
                harm()
            return function(*arguments, **options)

        return harmed

    if moment == "folder":
        monkeypatch.setattr(store, "new_temporary", first(store.new_temporary))
    elif moment == "shards":
        monkeypatch.setattr(saver.dcp, "save", first(saver.dcp.save))
    elif moment == "sync":
        monkeypatch.setattr(saver, "fsync_path", first(saver.fsync_path))
    elif moment == "carried":
        checkpointer.before_publish = first(lambda _step: {"notes": bytes(9000)})
    elif moment == "manifest":
        monkeypatch.setattr(store.manifests, "write", first(store.manifests.write))
    elif moment == "rename":
        monkeypatch.setattr(store.os, "rename", first(os.rename))
    else:
        monkeypatch.setattr(store, "fsync_path", first(store.fsync_path, lambda path: not path.name.startswith(".step")))


@fault("3", "a disk that gets full, or can only be read, at each moment of a save")
@pytest.mark.parametrize("kind", ["full", "no inodes", "read-only"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_save_that_a_disk_refuses_at_any_moment_costs_that_checkpoint_alone(
    alone: None, disk: SmallDisk, moment: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = checkpoint_ranks.RecordingControl(0)
    checkpointer = checkpoint_ranks.make_checkpointer(str(disk.path / "c"), control)
    checkpointer.save(1, state(1), wait=True)
    inodes = disk.path / "inodes"
    inodes.mkdir()

    def use_up() -> None:
        for number in range(100):
            try:
                (inodes / str(number)).touch()
            except OSError:
                return

    harm = {"full": disk.fill, "no inodes": use_up, "read-only": disk.read_only}[kind]
    with monkeypatch.context() as patched:
        before(moment, harm, checkpointer, patched)
        checkpointer.save(2, state(2), wait=True)
        checkpointer.before_publish = lambda _step: {}
    published = "step-00000002" in names(disk.path / "c")
    told = control.warnings()
    if not published:
        assert (checkpointer.failed_in_a_row == 1 and told and told[0].startswith("the checkpoint of step 2 failed")) or kind == "read-only"
        assert "Traceback" not in str(told) and all("\n" not in text for text in told)
    disk.back()
    disk.empty()
    for path in inodes.iterdir():
        path.unlink()
    checkpointer.save(3, state(3), wait=True)
    assert (checkpointer.failed_in_a_row, checkpointer.last_published) == (0, 3)
    assert names(disk.path / "c") == [f"step-{step:08d}" for step in (1, 2, 3) if step != 2 or published]
    into = state(0)
    assert checkpointer.load(into) == 3 and into["roles"]["student"]["net"]["weight"][0].tolist() == [3.0, 3.0]
    checkpointer.close()


REFUSED = """
import sys
sys.path.insert(0, {root!r})
import torch.distributed as dist, torch
from pathlib import Path
from tests.support.trainers import checkpoint_ranks
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
control = checkpoint_ranks.RecordingControl(0)
checkpointer = checkpoint_ranks.make_checkpointer(sys.argv[1], control)
for step in (2, 3):
    checkpointer.save(step, {{"roles": {{"student": {{"net": {{"weight": torch.zeros(4)}}}}}}}}, wait=True)
print(checkpointer.failed_in_a_row, *control.warnings(), sep="\\n")
"""


@fault("33", "EDQUOT, or EIO, for every file of two saves, given by the kernel")
@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_other_refusals_are_failed_saves_in_their_own_words(tmp_path: Path, code: int) -> None:
    (tmp_path / "c").mkdir()
    made = subprocess.run(
        [sys.executable, "-c", REFUSED.format(root=str(ROOT)), str(tmp_path / "c")],
        capture_output=True, text=True, check=False, preexec_fn=refusing_writes(code), env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    lines = made.stdout.splitlines()
    assert lines[0] == "2" and len(lines) == 3 and all(os.strerror(code) in line for line in lines[1:]), (made.stdout, made.stderr)
    assert names(tmp_path / "c") == []
