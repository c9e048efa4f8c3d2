"""Runs on a real Slurm that a person steers, or kills: exactly one job, the last word counts, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.slurm.cluster import SlurmCluster
from tests.slurm.runs import causes, finished_as, job_of
from tests.support.launcher import Workspace, agent_pids, metrics, rank_pids


def test_a_plain_scancel_stays_cancelled(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.submit("scancelled", cluster="real")
    workspace.reaches("scancelled", 5)
    job = job_of(workspace, "scancelled")
    slurm.run("scancel", job)
    assert workspace.finish("scancelled")["state"] == "cancelled"
    slurm.wait_state(job, {"CANCELLED", "FAILED"})
    time.sleep(2)
    assert slurm.jobs() == []
    assert slurm.restarts(job) == 0


def test_cancel_ends_a_running_and_a_waiting_run_for_good(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.submit("cancelled", cluster="real")
    workspace.reaches("cancelled", 5)
    job = job_of(workspace, "cancelled")
    workspace.submit("waiting", "--begin", "now+1hour", cluster="real")
    waiting = workspace.status("waiting")
    assert waiting["state"] == "queued"
    assert "begin time" in waiting["reason"]
    for name in ("cancelled", "waiting"):
        workspace.call("cancel", name)
        assert workspace.finish(name)["state"] == "cancelled"
    slurm.wait_state(job, {"CANCELLED", "FAILED"})
    assert slurm.jobs() == []
    assert slurm.restarts(job) == 0


def test_stop_saves_and_resume_goes_on_bitwise(workspace: Workspace, slurm: SlurmCluster, reference: list[tuple[int, float]]) -> None:
    workspace.submit("stopped", cluster="real")
    workspace.reaches("stopped", 50)
    first = job_of(workspace, "stopped")
    refused = workspace.call("resume", "stopped", check=False)
    assert refused.returncode == 1
    assert first in refused.stderr
    workspace.call("stop", "stopped")
    status = workspace.finish("stopped")
    assert status["state"] == "stopped"
    assert status["last_checkpoint_step"] == status["step"] == metrics(workspace.runs / "stopped")[-1]["step"]
    slurm.wait_state(first, {"FAILED", "COMPLETED", "CANCELLED"})
    workspace.call("resume", "stopped")
    finished_as(workspace, "stopped", reference)
    status = workspace.status("stopped")
    assert status["job_ids"] == [first, status["job_id"]]
    assert causes(workspace, "stopped") == ["stopped", "finished"]


def test_a_killed_rank_and_killed_agents_cost_no_step(
    workspace: Workspace, slurm: SlurmCluster, reference: list[tuple[int, float]]
) -> None:
    """kill -9 of a rank on the first node, then of the other node's agent, then of the head's: their ranks die with them."""
    run = workspace.runs / "killed"
    workspace.submit("killed", cluster="real")
    workspace.reaches("killed", 50)
    os.kill(rank_pids(run)[0], signal.SIGKILL)
    workspace.reaches("killed", 90, attempt=2)
    _kill_agent(run, 1)
    workspace.reaches("killed", 130, attempt=3)
    _kill_agent(run, 0)
    finished_as(workspace, "killed", reference)
    found = workspace.attempts("killed")
    assert [a["cause"] for a in found] == ["crash", "interrupted", "interrupted", "finished"]
    first, second = found[0]["failure"], found[1]["failure"]
    assert (first["rank"], first["node"], first["what"]) == (0, slurm.nodes[0], "killed by SIGKILL")
    assert (second["rank"], second["node"]) == (1, slurm.nodes[1])


def _kill_agent(run: Path, rank: int) -> None:
    ranks = rank_pids(run)
    os.kill(agent_pids(run)[rank], signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{ranks[rank]}").exists() and _state(ranks[rank]) != "Z":
        assert time.monotonic() < deadline, f"rank {rank} outlived its agent"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_lost_reply_of_sbatch_is_adopted_not_repeated(workspace: Workspace, slurm: SlurmCluster, tmp_path: Path) -> None:
    """A wrapper submits and then fails: exactly one job, and the run knows it."""
    wrapper = tmp_path / "sbatch"
    real = slurm.run("which", "sbatch").stdout.strip()
    wrapper.write_text(f'#!/bin/sh\n{real} "$@" >/dev/null\necho "sbatch: error: Socket timed out" >&2\nexit 1\n')
    wrapper.chmod(0o755)
    lossy = Workspace(workspace.folder, {**workspace.env, "PATH": f"{tmp_path}:{workspace.env['PATH']}"})
    lossy.call("submit", "tiny", "--cluster", "real", "--name", "adopted", "--begin", "now+1hour")
    assert len(slurm.jobs()) == 1
    assert slurm.jobs()[0].startswith(job_of(workspace, "adopted"))
    workspace.call("cancel", "adopted")
    assert slurm.jobs() == []


def test_a_refused_submission_leaves_nothing_behind(workspace: Workspace, slurm: SlurmCluster) -> None:
    done = workspace.call("submit", "tiny", "--cluster", "real", "--name", "refused", "-p", "nosuch", check=False)
    assert done.returncode == 1
    assert "partition" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workspace.runs / "refused").exists()


def test_without_slurmctld_status_tells_the_last_known_and_submit_leaves_no_doubt(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.submit("unseen", "--begin", "now+1hour", cluster="real")
    slurm.stop_ctld()
    try:
        began = time.monotonic()
        done = workspace.call("status", "unseen", "--json", check=False)
        assert time.monotonic() - began < 8
        assert done.returncode == 3
        [status] = json.loads(done.stdout)
        assert status["state"] == "queued"
        assert status["stale_s"] > 0
    finally:
        slurm.start_ctld()
    assert workspace.status("unseen")["state"] == "queued"
    workspace.call("cancel", "unseen")


def test_two_shells_resuming_one_run_make_one_job(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.submit("raced", "--begin", "now+1hour", cluster="real")
    workspace.call("cancel", "raced")
    argv = ["resume", "raced", "--begin", "now+1hour"]
    shells = [
        subprocess.Popen(
            [sys.executable, "-m", "fvlaunch", *argv], cwd=workspace.folder, env=workspace.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]  # fmt: skip
    ended: list[tuple[int, Any]] = [(shell.wait(60), shell.communicate()) for shell in shells]
    assert sorted(code for code, _ in ended) == [0, 1, 1], ended
    assert len(slurm.jobs()) == 1
    assert all("raced" in told[1] for code, told in ended if code == 1)
    workspace.call("cancel", "raced")
