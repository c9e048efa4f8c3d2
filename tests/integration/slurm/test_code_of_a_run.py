"""Every attempt runs the code that was submitted, whatever becomes of the tree meanwhile."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import GATED, Workspace
from tests.support.source_copy import checkout, environment


@pytest.mark.long
def test_an_edit_between_submit_and_requeue_changes_nothing(workspace: Workspace, slurm: SlurmCluster, tmp_path: Path) -> None:
    source = checkout(tmp_path / "source", git=False)
    own = Workspace(workspace.folder, environment(source, workspace.env))
    own.slurm_cluster()
    own.submit("kept", "--ranks", "1", "--set", "train.max_steps=50", recipe="gated", cluster="real")
    own.gate("kept").reach(45)
    for broken in ("trainers/__main__.py", "fvlaunch/agent/main.py", "fvlaunch/runs/directory.py"):
        (source / broken).write_text("raise SystemExit('this was edited')\n")
    job_id = workspace.status("kept")["job_id"]
    slurm.requeue_now(job_id)
    own.gate("kept").open()
    assert workspace.finish("kept")["state"] == "finished" and slurm.restarts(job_id) == 1
    assert len(workspace.attempts("kept")) == 2


MINE = """
import helper
from gated import GatedFineTune


class Mine(GatedFineTune):
    def on_train_start(self):
        super().on_train_start()
        print("helper says", helper.VALUE, flush=True)
"""


@pytest.mark.long
def test_a_users_module_edited_between_two_lives_changes_nothing_and_data_has_the_persons_umask(
    workspace: Workspace, slurm: SlurmCluster
) -> None:
    workspace.write("helper.py", "VALUE = 'one'\n")
    workspace.write("mine.py", MINE)
    train = {**GATED["train"], "method": {"kind": "./mine.py:Mine"}, "max_steps": 6, "data": {**GATED["train"]["data"], "path": "given"}}
    workspace.write("mine.yaml", {**GATED, "resources": {"ranks": 1, "threads_per_rank": 1}, "train": train})
    workspace.call("submit", "./mine.yaml", "--cluster", "real", "--name", "mine", umask=0o027)
    workspace.gate("mine").reach(3)
    workspace.write("helper.py", "VALUE = 'edited'\n")
    (workspace.folder / "mine.py").unlink()
    slurm.requeue_now(workspace.status("mine")["job_id"])
    workspace.gate("mine").open()
    assert workspace.finish("mine")["state"] == "finished", workspace.told()
    logs = [path.read_text() for path in sorted((workspace.runs / "mine/logs").glob("*/rank-0000.log"))]
    assert len(logs) == 2 and all("helper says one" in text and "edited" not in text for text in logs)
    made = list((workspace.folder / "given").rglob("*"))
    modes = {("d" if path.is_dir() else "f", oct(stat.S_IMODE(path.stat().st_mode))) for path in made}
    assert modes == {("d", "0o750"), ("f", "0o640")}, [(path, oct(path.stat().st_mode)) for path in made]
