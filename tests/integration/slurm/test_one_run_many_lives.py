"""Runs on two nodes of a real Slurm, through all that ends an attempt: each finishes with the numbers of an undisturbed one.

Each test has a run of its own, which waits at a gate until the test has done what it does.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, finished_as, job_of
from tests.support.gates import Gate
from tests.support.launcher import Workspace, agent_pids, losses, metrics, rank_pids
from tests.support.rows import fault

STEPS, EVERY = 40, 10
"""Steps, and steps between checkpoints."""
SHORT = ("--set", f"train.max_steps={STEPS}", "--set", f"train.checkpoint.every_steps={EVERY}")
Reference = list[tuple[int, float]]


@pytest.fixture(scope="module")
def reference(workspace: Workspace) -> Reference:
    """Steps and losses of an undisturbed local run with the same ranks and threads."""
    workspace.submit("reference", *SHORT)
    assert workspace.finish("reference")["state"] == "finished", workspace.told()
    return losses(workspace.runs / "reference")


def submit(workspace: Workspace, name: str) -> tuple[str, Gate]:
    """A run on both nodes; its job, which has begun, and its gate."""
    workspace.submit(name, *SHORT, recipe="gated", cluster="real")
    gate = workspace.gate(name)
    gate.reach(5, ranks=2)
    return job_of(workspace, name), gate


def ends(workspace: Workspace, slurm: SlurmCluster, gate: Gate, reference: Reference) -> None:
    """Let it: each step stands once, and every loss is bitwise that of the reference."""
    gate.open()
    finished_as(workspace, gate.name, reference)
    assert causes(workspace, gate.name)[-1] == "finished"
    assert slurm.wait_state(job_of(workspace, gate.name), {"COMPLETED"}) == "COMPLETED"  # exit code 0 only when the run is finished


@fault("4", "a requeue by an administrator, on two nodes")
@pytest.mark.long
def test_a_requeue_by_an_administrator_costs_no_step(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    job, gate = submit(workspace, "requeued")
    status = workspace.status("requeued")
    assert (status["state"], status["job_ids"], status["attempts"]) == ("running", [job], 1)
    slurm.requeue_now(job)
    gate.waits(attempt=2, ranks=2)
    first, second = workspace.attempts("requeued")
    assert (first["cause"], first["nodes"]) == ("requeued", list(slurm.nodes))
    assert second["step_from"] == first["step_to"] == 6  # the step at whose gate the notice came
    ends(workspace, slurm, gate, reference)
    slurm.run("scontrol", "requeue", job)  # a finished run's job once more: Slurm 24.11 does that by itself after a preemption
    slurm.wait_restart(job, 2, states={"RUNNING", "COMPLETING", "COMPLETED"})
    assert slurm.wait_state(job, {"COMPLETED", "FAILED"}) == "COMPLETED"
    finished_as(workspace, gate.name, reference)


@fault("4", "a preemption on two nodes")
def test_a_preemption_costs_no_step(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    job, gate = submit(workspace, "preempted")
    slurm.preempt(job)
    gate.waits(attempt=2, ranks=2)
    first, second = workspace.attempts("preempted")
    assert first["cause"] == "preemption"
    assert second["step_from"] == first["step_to"] == 6
    ends(workspace, slurm, gate, reference)


@fault("8", "slurmd and all processes of one of two nodes killed")
def test_a_lost_node_costs_what_was_not_saved(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    job, gate = submit(workspace, "bereft")
    gate.reach(EVERY + 5, ranks=2)
    workspace.until((gate.run / f"checkpoints/step-{EVERY:08d}").exists, "the checkpoint is published")
    slurm.kill_slurmd(slurm.nodes[1])
    slurm.start_slurmd(slurm.nodes[1], wait=False)
    gate.reach(EVERY + 8, attempt=2, ranks=2)
    first, second = workspace.attempts("bereft")
    assert first["cause"] == "interrupted"
    assert second["step_from"] == EVERY
    assert job_of(workspace, "bereft") == job
    ends(workspace, slurm, gate, reference)


@fault("8", "one of two nodes set down")
@pytest.mark.long
def test_a_node_set_down_gives_the_job_another_life(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    job, gate = submit(workspace, "waiting")
    slurm.node_down(slurm.nodes[1])
    slurm.wait_state(job, {"PENDING"})
    assert workspace.status("waiting")["state"] == "requeued"
    slurm.node_up(slurm.nodes[1])
    gate.waits(attempt=2, ranks=2)
    assert causes(workspace, "waiting")[0] in ("requeued", "interrupted")
    assert job_of(workspace, "waiting") == job
    ends(workspace, slurm, gate, reference)


def test_stop_saves_ends_the_job_and_resume_makes_another(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    first, gate = submit(workspace, "stopped")
    refused = workspace.call("resume", "stopped", check=False)
    assert refused.returncode == 1
    assert first in refused.stderr
    workspace.call("stop", "stopped")
    status = workspace.finish("stopped")
    assert status["state"] == "stopped"
    assert status["last_checkpoint_step"] == status["step"] == metrics(gate.run)[-1]["step"] == 6
    slurm.wait_state(first, {"FAILED", "COMPLETED", "CANCELLED"})
    workspace.call("resume", "stopped")
    status = workspace.status("stopped")
    assert status["job_ids"] == [first, status["job_id"]]
    ends(workspace, slurm, gate, reference)


@fault("1", "SIGKILL to a rank of a job on two nodes")
def test_a_killed_rank_is_told_by_name(workspace: Workspace, slurm: SlurmCluster, reference: Reference) -> None:
    _, gate = submit(workspace, "wounded")
    os.kill(rank_pids(gate.run)[0], signal.SIGKILL)
    gate.reach(12, attempt=2, ranks=2)
    first, _ = workspace.attempts("wounded")
    failure = first["failure"]
    assert first["cause"] == "crash"
    assert (failure["rank"], failure["node"], failure["what"]) == (0, slurm.nodes[0], "killed by SIGKILL")
    ends(workspace, slurm, gate, reference)


@fault("28", "SIGKILL to the head agent on Slurm")
def test_a_killed_head_takes_its_rank_with_it_and_the_batch_script_acts(
    workspace: Workspace, slurm: SlurmCluster, reference: Reference
) -> None:
    job, gate = submit(workspace, "beheaded")
    _kill_agent(workspace, gate.run, 0)
    gate.reach(12, attempt=2, ranks=2)
    assert causes(workspace, "beheaded")[0] == "interrupted"
    said = next(gate.run.glob(f"job/*/{job}_0_log.out")).read_text()
    assert "task 0: Killed" in said and "task 1: Killed" not in said  # the other node's agent did not wait for that
    ends(workspace, slurm, gate, reference)


@fault("28", "SIGKILL to the follower on Slurm")
@pytest.mark.long
def test_a_killed_follower_takes_its_rank_with_it_and_the_head_notices(
    workspace: Workspace, slurm: SlurmCluster, reference: Reference
) -> None:
    _, gate = submit(workspace, "unfollowed")
    _kill_agent(workspace, gate.run, 1)
    gate.reach(12, attempt=2, ranks=2)
    first, _ = workspace.attempts("unfollowed")
    failure = first["failure"]
    assert first["cause"] == "interrupted"
    assert (failure["rank"], failure["node"]) == (1, slurm.nodes[1])
    ends(workspace, slurm, gate, reference)


def _kill_agent(workspace: Workspace, run: Path, rank: int) -> None:
    pid = rank_pids(run)[rank]
    os.kill(agent_pids(run)[rank], signal.SIGKILL)
    workspace.until(lambda: _state(pid) == "Z", f"rank {rank} ends with its agent")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
