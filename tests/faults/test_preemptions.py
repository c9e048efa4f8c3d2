"""Preemptions on a real Slurm: twenty of one run, one that comes in a save, one that meets a stuck rank, scancel beside them, start-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.faults.local import steps_lost
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, finished_as, job_of
from tests.support.launcher import LIMITS, Workspace, losses, rank_pids
from tests.support.rows import Figures, fault

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(1800)]

STEPS, EVERY, STORM = 60, 10, 20
SHORT = ("--ranks", "1", "--set", f"train.max_steps={STEPS}", "--set", f"train.checkpoint.every_steps={EVERY}")
Reference = list[tuple[int, float]]


@pytest.fixture(scope="module")
def reference(workspace: Workspace) -> Reference:
    """Steps and losses of an undisturbed local run of one rank."""
    workspace.submit("undisturbed", *SHORT)
    assert workspace.finish("undisturbed")["state"] == "finished", workspace.told()
    return losses(workspace.runs / "undisturbed")


@fault("4", "preemptions of one run, one after the other")
def test_a_storm_of_preemptions_costs_no_budget(workspace: Workspace, slurm: SlurmCluster, reference: Reference, figure: Figures) -> None:
    workspace.submit("stormy", *SHORT, recipe="gated", cluster="real")
    gate, step = workspace.gate("stormy"), 0
    for number in range(1, STORM + 1):
        step = gate.reach(step + 1, attempt=number)
        slurm.preempt(job_of(workspace, "stormy"), 0.2)
        step = gate.waits(step, attempt=number + 1)
    gate.open()
    finished_as(workspace, "stormy", reference)
    attempts = workspace.attempts("stormy")
    *before, last = causes(workspace, "stormy")
    assert set(before) <= {"preemption", "interrupted"} and last == "finished"  # interrupted: Slurm was too slow to say why
    assert len(workspace.status("stormy")["job_ids"]) == 1
    figure.count("resumed bitwise", len(attempts) - 1, STORM)
    figure.most("steps lost", steps_lost(attempts), EVERY)


@fault("5", "a preemption while a checkpoint is being written, which takes longer than the grace time")
def test_a_notice_shorter_than_a_save_falls_back_to_the_last_checkpoint(
    workspace: Workspace, slurm: SlurmCluster, reference: Reference, figure: Figures
) -> None:
    workspace.submit("curt", *SHORT, "--set", "train.method.deaf=1", recipe="gated", cluster="real")
    gate = workspace.gate("curt")
    gate.reach(2 * EVERY + 2)
    workspace.until((gate.run / f"checkpoints/step-{2 * EVERY:08d}").exists, "the checkpoint is published")
    gate.hold_saves()
    gate.let(3 * EVERY)
    assert gate.save_waits() == 3 * EVERY
    slurm.preempt(job_of(workspace, "curt"))
    gate.waits(attempt=2)
    gate.open()
    finished_as(workspace, "curt", reference)
    first, second = workspace.attempts("curt")
    assert (first["cause"], second["step_from"]) == ("preemption", 2 * EVERY)
    figure.count("requeued, bitwise", 1, 1)
    figure.most("steps lost", steps_lost([first, second]), EVERY)


@fault("6", "a preemption of a job of which one rank is stopped and the other waits for it")
def test_a_preemption_of_ranks_that_wait_for_each_other_is_over_in_its_grace_time(
    workspace: Workspace, slurm: SlurmCluster, figure: Figures
) -> None:
    both = ("--ranks", "2", *SHORT[2:])
    workspace.submit("both", *both)
    workspace.submit("stuck", *both, "--set", "train.method.freeze={rank: 1, step: 16}", recipe="gated", cluster="real")
    gate = workspace.gate("stuck")
    gate.let(16)
    workspace.until(lambda: is_stopped(rank_pids(gate.run).get(1)), "rank 1 is stopped")
    slurm.preempt(job_of(workspace, "stuck"))
    gate.waits(attempt=2, ranks=2)
    gate.open()
    workspace.finish("both")
    finished_as(workspace, "stuck", losses(workspace.runs / "both"))
    first, second = workspace.attempts("stuck")
    assert (first["cause"], second["step_from"]) == ("preemption", EVERY)
    figure.count("killed by the deadline, requeued, bitwise", 1, 1)


@fault("19", "scancel in the grace time, while the requeued job waits, and before a preemption")
@pytest.mark.parametrize("when", ["in the grace time", "while it waits", "before"])
def test_a_run_that_is_cancelled_and_preempted_never_comes_back(
    workspace: Workspace, slurm: SlurmCluster, figure: Figures, when: str
) -> None:
    name = when.replace(" ", "-")
    workspace.submit(name, *SHORT, recipe="gated", cluster="real")
    workspace.gate(name).reach(EVERY + 2)
    job = job_of(workspace, name)
    if when == "before":
        slurm.run("scancel", job)
    other = slurm.preempt(job, 30) if when != "before" or slurm.state(job) == "RUNNING" else ""
    if when == "while it waits":
        slurm.wait_state(job, {"PENDING"})
    slurm.run("scancel", job, check=False)
    assert workspace.finish(name)["state"] == "cancelled"
    if other:
        slurm.run("scancel", other)
    workspace.until(lambda: slurm.jobs() == [], "no job is left")
    assert workspace.status(name)["state"] == "cancelled" and rank_pids(workspace.runs / name) == {}
    figure.count("cancelled for good", 1, 1)


@fault("24", "a requeue before the first step of each attempt")
def test_a_run_that_never_gets_to_a_step_ends_with_the_reason(workspace: Workspace, slurm: SlurmCluster, figure: Figures) -> None:
    workspace.slurm_cluster("restless", limits={**LIMITS, "interrupted_starts": 3, "grace_s": 1})
    workspace.submit("restless", *SHORT, "--set", "train.method.deaf=99", recipe="gated", cluster="restless")
    gate = workspace.gate("restless")
    for number in range(1, 4):
        gate.waits(attempt=number)
        slurm.requeue_now(job_of(workspace, "restless"))
    status = workspace.finish("restless")
    assert status["state"] == "failed" and "3 starts in a row were interrupted without a new step" in status["reason"], status
    figure.most("starts", len(workspace.attempts("restless")), 3)


def is_stopped(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
