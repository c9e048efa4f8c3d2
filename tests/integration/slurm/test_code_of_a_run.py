"""Every attempt runs the code that was submitted, whatever becomes of the tree meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace
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
