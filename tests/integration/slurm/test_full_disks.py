"""Runs on a real Slurm whose disk is full or read-only: no agent ends by it, on no node, and a cancelled job never comes back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, finished_as, job_of
from tests.support.gates import Gate
from tests.support.launcher import LIMITS, Workspace, losses
from tests.support.rows import Figures, fault
from tests.support.small_disk import SmallDisk, small_disk

SILENCE_S = 4


@pytest.fixture(scope="module")
def on_disk(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, SmallDisk]]:
    """A workspace for the tests' Slurm whose runs lie on a small disk."""
    folder = tmp_path_factory.mktemp("small")
    with small_disk(folder / "runs", kb=24_000) as disk:
        made = Workspace(folder, {**os.environ, **slurm.env})
        made.slurm_cluster(limits={**LIMITS, "head_silence_s": SILENCE_S})
        yield made, disk
        disk.back()
        slurm.cancel_all()


def gated(workspace: Workspace, name: str, *arguments: str) -> Gate:
    workspace.submit(name, *arguments, recipe="gated", cluster="real")
    gate = workspace.gate(name)
    gate.move(workspace.folder / "gates" / name)
    return gate


@pytest.mark.long
@fault("32", "a disk read-only under two nodes for longer than they may be silent, and full at a requeue")
def test_a_run_on_two_nodes_outlives_a_read_only_disk_and_waits_for_room_after_a_requeue(
    slurm: SlurmCluster, on_disk: tuple[Workspace, SmallDisk], figure: Figures
) -> None:
    workspace, disk = on_disk
    steps = ("--set", "train.max_steps=60")
    workspace.submit("whole", *steps, cluster="real")
    assert workspace.finish("whole")["state"] == "finished", workspace.told()
    gate = gated(workspace, "shaken", *steps)
    gate.reach(42, ranks=2)
    disk.read_only()
    read_only_at = time.monotonic()
    workspace.until(lambda: "Read-only file system" in workspace.status("shaken")["reason"], "status says what is wrong")
    assert time.monotonic() - read_only_at > 2 * SILENCE_S  # and nobody takes the others for gone
    gate.reach(45, ranks=2)
    disk.back()
    disk.fill()
    job = job_of(workspace, "shaken")
    slurm.requeue_now(job)
    slurm.start_waiting(job)
    workspace.until(lambda: "waits for room" in workspace.status("shaken")["reason"], "it waits for room")
    disk.empty()
    gate.open()
    finished_as(workspace, "shaken", losses(workspace.runs / "whole"))
    assert causes(workspace, "shaken") == ["requeued", "finished"]
    figure.count("bitwise", 1, 1)


@fault("32", "cancel of a Slurm run whose disk is read-only")
@pytest.mark.long
def test_a_run_that_was_cancelled_on_a_read_only_disk_never_comes_back(
    slurm: SlurmCluster, on_disk: tuple[Workspace, SmallDisk], figure: Figures
) -> None:
    workspace, disk = on_disk
    gate = gated(workspace, "given-up")
    gate.reach(3, ranks=2)
    disk.read_only()
    job = job_of(workspace, "given-up")
    workspace.call("cancel", "given-up")
    slurm.wait_state(job, "CANCELLED")
    disk.back()
    assert not slurm.jobs()
    assert workspace.finish("given-up")["state"] == "cancelled"
    figure.count("ended for good", 1, 1)
