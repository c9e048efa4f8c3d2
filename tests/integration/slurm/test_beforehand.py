"""What a real Slurm says before a job is queued, and a batch script that somebody submits by hand."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace

ONE = ("gated", "--cluster", "real", "--ranks", "1", "--set", "train.max_steps=4", "--prepare")


def test_slurm_is_asked_for_each_cluster_and_partition_whether_and_when(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.slurm_cluster("huge", slurm={"partition": "low", "mem": "900000", "time": 60})
    done = workspace.call("submit", "tiny", "--cluster", "real,huge", "-p", "low,high,absent", "--test-only", "--json", check=False)
    found = {(one["cluster"], one["partition"]): one for one in json.loads(done.stdout)}
    assert done.returncode == 0 and list(found) == [(c, p) for c in ("real", "huge") for p in ("low", "high", "absent")]
    assert [one["accepted"] for one in found.values()] == [True, True, False, False, False, False]
    assert "invalid partition" in found["real", "absent"]["reason"].lower() and found["huge", "low"]["reason"]
    free = found["real", "low"]
    assert free["start"] and free["nodes"] == 2 and free["gpu_hours"] == 2 * 10 / 60
    assert slurm.jobs() == [] and not workspace.runs.exists()


def test_where_nobody_takes_the_job_the_exit_code_says_so(workspace: Workspace, slurm: SlurmCluster) -> None:
    done = workspace.call("submit", "tiny", "--cluster", "real", "-p", "absent", "--test-only", check=False)
    assert done.returncode == 1 and "absent" in done.stdout and "GPU-HOURS" in done.stdout


def test_a_script_that_is_submitted_by_hand_is_the_runs_own_job(workspace: Workspace, slurm: SlurmCluster) -> None:
    out = workspace.call("submit", *ONE, "--name", "byhand").stdout
    assert workspace.status("byhand")["state"] == "submitting" and slurm.jobs() == []
    script = Path(out.split()[-1])
    first = slurm.sbatch("--hold", str(script))
    seen = workspace.status("byhand")
    assert (seen["state"], seen["job_id"]) == ("queued", first)  # by its token: no agent of it has run yet
    second = slurm.sbatch(str(script))  # somebody does it twice: the run's is the one that status has taken up
    assert slurm.wait_state(second, {"FAILED", "COMPLETED"}) == "FAILED"
    assert workspace.status("byhand")["job_id"] == first
    slurm.run("scontrol", "release", first)
    workspace.gate("byhand").open()
    assert workspace.finish("byhand")["state"] == "finished"
    assert workspace.status("byhand")["attempts"] == 1


def test_resume_submits_what_was_prepared_and_adopts_what_was_submitted_by_hand(workspace: Workspace, slurm: SlurmCluster) -> None:
    out = workspace.call("submit", *ONE, "--name", "adopted").stdout
    job_id = slurm.sbatch("--hold", out.split()[-1])
    done = workspace.call("resume", "adopted", check=False)
    assert done.returncode == 0 and f"job {job_id}" in done.stdout + done.stderr and len(slurm.jobs()) == 1
    assert json.loads((workspace.runs / "adopted/run.json").read_text())["job_id"] == job_id
    workspace.call("cancel", "adopted")
    workspace.call("submit", *ONE, "--name", "resumed")
    workspace.call("resume", "resumed", "--", "--hold")
    assert len(slurm.jobs()) == 1 and workspace.status("resumed")["state"] == "queued"
    workspace.call("cancel", "resumed")
