"""One run on two nodes of a real Slurm, through all that ends an attempt: it finishes with the numbers of an undisturbed one.

The tests are in the order in which the run lives; each starts where the one before left it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.faults.local import OWN_METHODS
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, finished_as, job_of
from tests.support.launcher import RECIPE, Workspace, agent_pids, losses, metrics, rank_pids

ONE_JOB_GOES_ON = True
NAME = "lives"
EVERY = 20
"""Steps between checkpoints."""
SHORTER = ("--set", "train.max_steps=150")


@pytest.fixture(scope="module")
def reference(workspace: Workspace, run: Path) -> list[tuple[int, float]]:
    """Steps and losses of an undisturbed local run with the same ranks and threads; it ran while Slurm let the other one wait."""
    assert workspace.finish("reference")["state"] == "finished"
    return losses(workspace.runs / "reference")


@pytest.fixture(scope="module")
def run(workspace: Workspace, slurm: SlurmCluster) -> Path:
    workspace.submit("reference", *SHORTER)
    workspace.write("own.py", OWN_METHODS)
    paced = {"kind": "./own.py:Paced", "pace_s": 0.2}  # else it would end while a command line is still being read
    workspace.write("templates/recipes/paced.yaml", {**RECIPE, "train": {**RECIPE["train"], "method": paced}})
    workspace.submit(NAME, "--set", f"train.checkpoint.every_steps={EVERY}", *SHORTER, recipe="paced", cluster="real")
    return workspace.runs / NAME


def new_steps(workspace: Workspace, attempt: int, count: int = 5) -> int:
    """Wait until an attempt has made steps that none before it made; the last one."""
    run = workspace.runs / NAME
    before = max((line["step"] for line in metrics(run) if line["attempt"] < attempt), default=0)
    workspace.reaches(NAME, before + count, attempt=attempt)
    return int(metrics(run)[-1]["step"])


def test_a_requeue_by_an_administrator_costs_no_step(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    new_steps(workspace, 1)
    job = job_of(workspace, NAME)
    status = workspace.status(NAME)
    assert (status["state"], status["job_ids"], status["attempts"]) == ("running", [job], 1)
    slurm.requeue_now(job)
    new_steps(workspace, 2)
    first, second = workspace.attempts(NAME)
    assert (first["cause"], first["nodes"]) == ("requeued", list(slurm.nodes))
    assert second["step_from"] == first["step_to"]


def test_a_preemption_costs_no_step(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    slurm.preempt(job_of(workspace, NAME))
    new_steps(workspace, 3)
    _, second, third = workspace.attempts(NAME)
    assert second["cause"] == "preemption"
    assert third["step_from"] == second["step_to"]


def test_a_lost_node_costs_what_was_not_saved(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    new_steps(workspace, 3, EVERY + 2)
    job = job_of(workspace, NAME)
    slurm.kill_slurmd(slurm.nodes[1])
    slurm.start_slurmd(slurm.nodes[1], wait=False)
    new_steps(workspace, 4)
    *_, third, fourth = workspace.attempts(NAME)
    assert third["cause"] == "interrupted"
    assert 0 <= third["step_to"] - fourth["step_from"] <= EVERY + 5  # the save of a moment ago may not have been published yet
    assert job_of(workspace, NAME) == job


def test_a_node_set_down_gives_the_job_another_life(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    slurm.node_down(slurm.nodes[1])
    slurm.wait_state(job_of(workspace, NAME), {"PENDING"})
    assert workspace.status(NAME)["state"] == "requeued"
    slurm.node_up(slurm.nodes[1])
    new_steps(workspace, 5)
    assert causes(workspace, NAME)[3] in ("requeued", "interrupted")


def test_stop_saves_ends_the_job_and_resume_makes_another(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    first = job_of(workspace, NAME)
    refused = workspace.call("resume", NAME, check=False)
    assert refused.returncode == 1
    assert first in refused.stderr
    workspace.call("stop", NAME)
    status = workspace.finish(NAME)
    assert status["state"] == "stopped"
    assert status["last_checkpoint_step"] == status["step"] == metrics(run)[-1]["step"]
    slurm.wait_state(first, {"FAILED", "COMPLETED", "CANCELLED"})
    workspace.call("resume", NAME)
    status = workspace.status(NAME)
    assert status["job_ids"] == [first, status["job_id"]]


def test_a_killed_rank_is_told_by_name(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    new_steps(workspace, 6)
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    new_steps(workspace, 7)
    sixth = workspace.attempts(NAME)[5]
    failure = sixth["failure"]
    assert sixth["cause"] == "crash"
    assert (failure["rank"], failure["node"], failure["what"]) == (0, slurm.nodes[0], "killed by SIGKILL")


def test_a_killed_head_takes_its_rank_with_it_and_the_batch_script_acts(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    _kill_agent(run, 0)
    new_steps(workspace, 8)
    assert workspace.attempts(NAME)[6]["cause"] == "interrupted"
    said = next(run.glob(f"job/*/{job_of(workspace, NAME)}_0_log.out")).read_text()
    assert "task 0: Killed" in said and "task 1: Killed" not in said  # the other node's agent did not wait for that


@pytest.mark.long
def test_a_killed_follower_takes_its_rank_with_it_and_the_head_notices(workspace: Workspace, slurm: SlurmCluster, run: Path) -> None:
    _kill_agent(run, 1)
    new_steps(workspace, 9)
    eighth = workspace.attempts(NAME)[7]
    failure = eighth["failure"]
    assert eighth["cause"] == "interrupted"
    assert (failure["rank"], failure["node"]) == (1, slurm.nodes[1])


def test_after_all_that_each_step_stands_once_and_every_loss_is_bitwise(
    workspace: Workspace, slurm: SlurmCluster, run: Path, reference: list[tuple[int, float]]
) -> None:
    finished_as(workspace, NAME, reference)
    assert causes(workspace, NAME)[-1] == "finished"
    assert slurm.wait_state(job_of(workspace, NAME), {"COMPLETED"}) == "COMPLETED"  # exit code 0 only when the run is finished


def _kill_agent(run: Path, rank: int) -> None:
    ranks = rank_pids(run)
    os.kill(agent_pids(run)[rank], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{ranks[rank]}").exists() and _state(ranks[rank]) != "Z":
        assert time.monotonic() < deadline, f"rank {rank} outlived its agent"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
