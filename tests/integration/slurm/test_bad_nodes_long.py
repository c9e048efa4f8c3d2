"""A node on which a run hangs twice: the job stays away from it, by Slurm's own list, and the run finishes elsewhere."""

from __future__ import annotations

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, finished_as, job_of
from tests.support.launcher import RECIPE, STRICT, Workspace, losses
from tests.support.rows import fault

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

BAD_NODE = '''
"""Finetuning that hangs on the node where it was started first: as hardware does."""
import os
import time
from pathlib import Path

from trainers.methods.finetune import FineTuneMethod

FIRST = Path("FOLDER/first-node")  # the module is copied into the run


class BadNode(FineTuneMethod):
    def __init__(self, cfg, role_models):
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)
        if not FIRST.exists():
            FIRST.write_text(os.environ["SLURMD_NODENAME"])

    def single_train_step(self, batch, iteration):
        time.sleep(0.1)  # so that steps are timed one by one
        if iteration == 25 and os.environ["SLURMD_NODENAME"] == FIRST.read_text():
            time.sleep(1000)
        return super().single_train_step(batch, iteration)
'''


@fault("8", "a node on which the run hangs twice")
def test_a_run_leaves_the_node_on_which_it_hung_twice(workspace: Workspace, slurm: SlurmCluster) -> None:
    train = {**RECIPE["train"], "max_steps": 60, "checkpoint": {"every_steps": 10, "every_minutes": None}}
    workspace.write("bad_node.py", BAD_NODE.replace("FOLDER", str(workspace.folder)))
    workspace.write("templates/recipes/good.yaml", {**RECIPE, "resources": {"ranks": 1, "threads_per_rank": 1}, "train": train})
    workspace.write("templates/recipes/bad.yaml", {"extends": "good", "train": {"method": {"kind": "./bad_node.py:BadNode"}}})
    workspace.slurm_cluster("strict", limits=STRICT)
    workspace.submit("reference", recipe="good", cluster="here")
    assert workspace.finish("reference")["state"] == "finished", workspace.told()
    workspace.submit("hung", recipe="bad", cluster="strict")
    finished_as(workspace, "hung", losses(workspace.runs / "reference"))
    assert causes(workspace, "hung") == ["hang", "hang", "finished"]
    bad = (workspace.folder / "first-node").read_text()
    first, second, last = workspace.attempts("hung")
    assert first["nodes"] == second["nodes"] == [bad] and last["nodes"] and bad not in last["nodes"]
    assert slurm.run("scontrol", "show", "job", job_of(workspace, "hung")).stdout.count(f"ExcNodeList={bad}") == 1
