"""Nodes to which Slurm and the file system tell different things: one that lives on when it is given up, one with an old share."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.integration.slurm import processes
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import finished_as, job_of
from tests.support.launcher import LIMITS, Workspace, agent_pids, losses, metrics
from tests.support.rows import Figures, fault

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(900)]

SHORT = ("--set", "train.max_steps=40", "--set", "train.checkpoint.every_steps=10")


@fault("40", "a node cut off with its agent and rank alive, while its job runs anew on another node")
def test_of_two_agents_that_believe_to_be_head_one_trains(workspace: Workspace, slurm: SlurmCluster, figure: Figures) -> None:
    workspace.submit("alone", "--ranks", "1", *SHORT)
    workspace.submit("twice", "--ranks", "1", *SHORT, recipe="gated", cluster="real")
    gate = workspace.gate("twice")
    gate.reach(15)
    job = job_of(workspace, "twice")
    node = slurm.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    [old] = agent_pids(gate.run).values()
    slurm.kill_slurmd(node, jobs=False)
    slurm.node_down(node)
    slurm.wait_state(job, {"PENDING"})
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    gate.waits(attempt=2)
    began = time.monotonic()
    gate.let(30)  # both may go on
    workspace.until(
        lambda: not Path(f"/proc/{old}/cmdline").exists() or not Path(f"/proc/{old}/cmdline").read_bytes(), "the old agent ends"
    )
    figure.most("the old agent ended after", time.monotonic() - began, 60, "s")
    gate.open()
    workspace.finish("alone")
    finished_as(workspace, "twice", losses(workspace.runs / "alone"))
    assert [line["attempt"] for line in metrics(gate.run)] == sorted(line["attempt"] for line in metrics(gate.run))
    processes.kill(processes.of_cluster(slurm.directory, node))
    slurm.start_slurmd(node)
    figure.count("bitwise", 1, 1)


@fault("37", "the second of two nodes sees the runs' folder as it was before the submission, in a mount of its own")
@pytest.mark.skipif(os.geteuid() != 0, reason="NO STALE SHARE HERE: a mount of a node's own needs root")
def test_a_node_with_an_old_copy_of_the_share_trains_nothing_and_is_named(tmp_path: Path, figure: Figures) -> None:
    with SlurmCluster(nodes=2, grace_s=5, kill_wait_s=5) as slurm:
        workspace = Workspace(tmp_path, {**os.environ, **slurm.env})
        workspace.slurm_cluster(
            limits={**LIMITS, "head_silence_s": 8, "phase_s": 20, "interrupted_starts": 2, "starts_without_progress": 2}
        )
        workspace.runs.mkdir()
        stale = shutil.copytree(workspace.runs, tmp_path / "stale")
        slurm.kill_slurmd(slurm.nodes[1])
        mounted = ("unshare", "--mount", "sh", "-c", f'mount --bind {stale} {workspace.runs} && exec "$@"', "sh")
        slurm.start_slurmd(slurm.nodes[1], inside=mounted)
        workspace.submit("stale", *SHORT, cluster="real")
        status = workspace.finish("stale", timeout_s=500)
        print(status)
        assert status["state"] == "failed", status
        assert slurm.nodes[1] in status["reason"], status
        assert metrics(workspace.runs / "stale") == [] and list(stale.rglob("*.distcp")) == []
        figure.most("starts", slurm.restarts(status["job_id"]) + 1, 3)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, whoever has still to hear of it."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
