"""Runs that an earlier version stored, on a real Slurm after this version was installed: what it prepared, and what it stopped."""

from __future__ import annotations

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace
from tests.support.stored_runs import assert_same_numbers, unpack


@pytest.fixture(scope="module")
def stored(workspace: Workspace) -> Workspace:
    unpack(workspace.folder)
    return workspace


def test_a_job_that_an_earlier_version_prepared_runs_to_its_end(stored: Workspace, slurm: SlurmCluster) -> None:
    """Batch script, pickle and the code that they run are the earlier version's; `status` and `wait` are today's."""
    run = stored.runs / "prepared"
    assert stored.status("prepared")["state"] == "submitting"
    [script] = run.glob("job/*/submission.sh")
    job = slurm.sbatch("--hold", str(script))
    seen = stored.status("prepared")
    assert (seen["state"], seen["job_id"]) == ("queued", job)  # told by the token: no agent of it has run yet
    slurm.run("scontrol", "release", job)
    status = stored.finish("prepared")
    assert (status["state"], status["job_id"], status["attempts"]) == ("finished", job, 1), stored.told()
    assert_same_numbers(stored.folder, run, "finetune")


@pytest.mark.long
def test_a_stored_local_run_goes_on_as_a_slurm_job_with_its_own_old_code(stored: Workspace, slurm: SlurmCluster) -> None:
    """Batch script and pickle are today's, the agents that they start are the earlier version's."""
    stored.call("resume", "finetune", "--cluster", "there")
    status = stored.finish("finetune")
    assert (status["state"], status["cluster"]) == ("finished", "there"), stored.told()
    assert_same_numbers(stored.folder, stored.runs / "finetune", "finetune")
