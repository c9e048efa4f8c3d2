"""Runs on a real Slurm that the cluster interrupts: they finish with the numbers of an undisturbed one."""

from __future__ import annotations

from tests.faults.local import OWN_METHODS
from tests.slurm.cluster import SlurmCluster
from tests.slurm.runs import causes, finished_as, job_of
from tests.support.launcher import LIMITS, RECIPE, Workspace


def test_two_nodes_train_through_a_requeue_a_preemption_and_a_lost_node(
    workspace: Workspace, slurm: SlurmCluster, reference: list[tuple[int, float]]
) -> None:
    workspace.submit("storm", cluster="real")
    workspace.reaches("storm", 50)
    job = job_of(workspace, "storm")
    status = workspace.status("storm")
    assert (status["state"], status["job_ids"], status["attempts"]) == ("running", [job], 1)
    slurm.requeue_now(job)
    workspace.reaches("storm", 90, attempt=2)
    slurm.preempt(job)
    workspace.reaches("storm", 130, attempt=3)
    slurm.kill_slurmd(slurm.nodes[1])
    slurm.start_slurmd(slurm.nodes[1], wait=False)
    finished_as(workspace, "storm", reference)
    found = workspace.attempts("storm")
    assert [a["cause"] for a in found] == ["requeued", "preemption", "interrupted", "finished"]
    assert all(a["nodes"] == list(slurm.nodes) for a in found)
    assert job_of(workspace, "storm") == job
    assert slurm.wait_state(job, {"COMPLETED"}) == "COMPLETED"  # exit code 0 only when the run is finished
    # after a notice not a step was lost; after a lost node no more than since the last checkpoint
    assert (found[1]["step_from"], found[2]["step_from"]) == (found[0]["step_to"], found[1]["step_to"])
    assert found[2]["step_to"] - found[3]["step_from"] <= 40


def test_a_time_limit_is_seen_coming_and_the_run_goes_on(
    workspace: Workspace, slurm: SlurmCluster, reference: list[tuple[int, float]]
) -> None:
    """Three minutes of allocation, of which the last two are for saving: a slow run needs more than one life."""
    workspace.slurm_cluster("short", limits={**LIMITS, "notice_lead_s": 120})
    workspace.write("own.py", OWN_METHODS)
    paced = {**RECIPE, "train": {**RECIPE["train"], "method": {"kind": "./own.py:Paced", "pace_s": 0.5}}}
    workspace.write("templates/recipes/paced.yaml", paced)
    workspace.submit("limited", "-t", "3", "--set", "train.max_steps=120", recipe="paced", cluster="short")
    finished_as(workspace, "limited", reference[:120])
    *before, last = workspace.attempts("limited")
    assert before, "it did not take more than one life"
    assert {a["cause"] for a in before} == {"time_limit"}
    assert all(a["ended_at"] - a["started_at"] < 110 for a in before)
    assert last["step_from"] == before[-1]["step_to"]


def test_a_node_set_down_gives_the_job_another_life(workspace: Workspace, slurm: SlurmCluster, reference: list[tuple[int, float]]) -> None:
    workspace.submit("downed", cluster="real")
    workspace.reaches("downed", 50)
    slurm.node_down(slurm.nodes[1])
    slurm.wait_state(job_of(workspace, "downed"), {"PENDING"})
    assert workspace.status("downed")["state"] == "requeued"
    slurm.node_up(slurm.nodes[1])
    finished_as(workspace, "downed", reference)
    assert len(causes(workspace, "downed")) == 2
    assert causes(workspace, "downed")[0] in ("requeued", "interrupted")
