"""Doctor and rehearse on a real Slurm: its configuration read, a node looked at, a run really preempted."""

from __future__ import annotations

import json

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace


def test_the_real_configuration_is_read_and_a_node_looked_at(workspace: Workspace, slurm: SlurmCluster) -> None:
    done = workspace.call("doctor", "--cluster", "real", "--json")
    said = {one["check"]: one for one in json.loads(done.stdout)}
    assert said["Slurm"]["found"].startswith("test, version") and said["partition"]["verdict"] == "OK"
    assert "GraceTime 20 s, and a save takes 120 s (assumed" in said["grace time"]["found"] and said["grace time"]["cure"]
    assert said["user signal"]["verdict"] == "OK" and said["accounting"]["verdict"] == "WARN"
    assert said["python on a node"]["verdict"] == "OK" and said["shared folder"]["verdict"] == "OK"
    workspace.until(lambda: not slurm.jobs(), "doctor leaves no job")
    assert list(workspace.runs.iterdir()) == []


def test_a_profile_that_cannot_work_fails(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.slurm_cluster("wrong", python="/no/such/python", slurm={"partition": "low", "time": "00:10:00"})
    done = workspace.call("doctor", "--cluster", "wrong", check=False)
    assert done.returncode == 1 and "/no/such/python" in done.stdout and "setup or container" in done.stderr
    workspace.slurm_cluster("absent", slurm={"partition": "absent"})
    done = workspace.call("doctor", "--cluster", "absent", check=False)
    assert done.returncode == 1 and "there is no partition 'absent'" in done.stdout and "low, high" in done.stderr


def test_a_node_that_is_not_free_is_not_waited_for_for_ever(workspace: Workspace, slurm: SlurmCluster) -> None:
    job_id = slurm.sbatch("-N2", "--exclusive", "-p", "low", "-o", "/dev/null", "--wrap", "sleep 600")
    slurm.wait_state(job_id, "RUNNING")
    done = workspace.call("doctor", "--cluster", "real", "--wait-s", "2", "--json")
    said = {one["check"]: one for one in json.loads(done.stdout)}
    assert "none was free within 2 s" in said["a node"]["found"]
    workspace.until(lambda: [line.split()[0] for line in slurm.jobs()] == [job_id], "its own job is gone")
    slurm.cancel_all()


@pytest.mark.long
def test_a_rehearsal_is_really_preempted_and_its_losses_are_the_same(workspace: Workspace, slurm: SlurmCluster) -> None:
    sets = [
        word for text in ("train.models.student.architecture.num_layers=1", "train.checkpoint.every_steps=10") for word in ("--set", text)
    ]
    done = workspace.call("rehearse", "--cluster", "real", "--preempt-with", "high", "--steps", "60", "--json", *sets)
    said = json.loads(done.stdout)
    assert said["ok"] and all(said["checks"].values()) and said["steps"] == 60
    assert said["causes"] == ["preemption", "finished"] and said["steps_done_again"] == 0
    assert not any(path.is_dir() for path in workspace.runs.glob("rehearsal-*"))
