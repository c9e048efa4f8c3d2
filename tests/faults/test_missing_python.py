"""An interpreter that somebody deletes between two lives of a run: said by name, and all goes on once it is back."""

from __future__ import annotations

import sys

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import finished_as, job_of
from tests.support.launcher import Workspace, losses
from tests.support.rows import Figures, fault

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(900)]

SHORT = ("--ranks", "1", "--set", "train.max_steps=40", "--set", "train.checkpoint.every_steps=10")


@fault("34", "the profile's python deleted while the run trains, then a requeue; put back, then resume")
def test_an_interpreter_that_is_gone_is_named_and_the_run_goes_on_once_it_is_back(
    workspace: Workspace, slurm: SlurmCluster, figure: Figures
) -> None:
    python = workspace.write("env/bin/python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    workspace.slurm_cluster("own", python=str(python))
    workspace.submit("whole", *SHORT)
    workspace.submit("robbed", *SHORT, recipe="gated", cluster="own")
    gate = workspace.gate("robbed")
    gate.reach(12)
    away = python.rename(python.with_name("away"))
    slurm.run("scontrol", "requeue", job_of(workspace, "robbed"))
    status = workspace.finish("robbed")
    assert status["state"] == "failed" and str(python) in status["reason"], status
    starts = slurm.restarts(status["job_id"])
    away.rename(python)
    gate.open()
    workspace.call("resume", "robbed", "--cluster", "own")
    workspace.finish("whole")
    finished_as(workspace, "robbed", losses(workspace.runs / "whole"))
    figure.most("starts without it", starts, 1)
    figure.count("named, resumed bitwise", 1, 1)
