"""Runs on a real Slurm with a time limit, and such as a person steers: exactly one job, the last word counts, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import finished_as, job_of
from tests.support.launcher import LIMITS, Workspace, losses
from tests.support.rows import fault

SHORT = ("--ranks", "1", "--set", "train.max_steps=20")


@fault("27", "scancel and `fvlaunch cancel` of running and waiting jobs")
def test_scancel_and_cancel_end_running_and_waiting_runs_for_good(workspace: Workspace, slurm: SlurmCluster) -> None:
    for name in ("scancelled", "cancelled"):  # a node each
        workspace.submit(name, *SHORT, recipe="gated", cluster="real")
    workspace.submit("waiting", "--begin", "now+1hour", cluster="real")
    waiting = workspace.status("waiting")
    assert waiting["state"] == "queued"
    assert "begin time" in waiting["reason"]
    for name in ("scancelled", "cancelled"):
        workspace.gate(name).reach(5)
    jobs = {name: job_of(workspace, name) for name in ("scancelled", "cancelled")}
    slurm.run("scancel", jobs["scancelled"])
    for name in ("cancelled", "waiting"):
        workspace.call("cancel", name)
    for name in ("scancelled", "cancelled", "waiting"):
        assert workspace.finish(name)["state"] == "cancelled"
    for job in jobs.values():
        slurm.wait_state(job, {"CANCELLED", "FAILED"})
    workspace.until(lambda: slurm.jobs() == [], "no job is left, and with it no batch script that could bring one back")
    assert [slurm.restarts(job) for job in jobs.values()] == [0, 0]


def test_a_time_limit_is_seen_coming_and_the_run_goes_on(workspace: Workspace, slurm: SlurmCluster) -> None:
    """A minute of allocation, of which the last half is for saving: at its gate a run waits that long."""
    workspace.slurm_cluster("short", limits={**LIMITS, "notice_lead_s": 30})
    workspace.submit("limited", "-t", "1", *SHORT, recipe="gated", cluster="short")
    workspace.gate("limited").let(5)
    workspace.submit("unlimited", *SHORT)
    assert workspace.finish("unlimited")["state"] == "finished"
    workspace.until((workspace.runs / "limited/attempts/0002.jsonl").exists, "a second attempt")
    workspace.gate("limited").open()
    finished_as(workspace, "limited", losses(workspace.runs / "unlimited"))
    *before, last = workspace.attempts("limited")
    assert {a["cause"] for a in before} == {"time_limit"}
    assert all(a["ended_at"] - a["started_at"] < 60 for a in before)
    assert last["step_from"] == before[-1]["step_to"]


@fault("16", "the same through the command line")
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


@fault("15", "slurmctld stopped; the command line")
def test_without_slurmctld_status_tells_the_last_known_and_submit_leaves_no_doubt(workspace: Workspace, slurm: SlurmCluster) -> None:
    workspace.submit("unseen", "--begin", "now+1hour", cluster="real")
    began = time.monotonic()
    workspace.status("unseen")
    usual = time.monotonic() - began  # how long a process takes to start here is not the scheduler's doing
    slurm.stop_ctld()
    try:
        began = time.monotonic()
        done = workspace.call("status", "unseen", "--json", check=False)
        assert time.monotonic() - began < 8 + 3 * usual
        assert done.returncode == 3
        [status] = json.loads(done.stdout)
        assert status["state"] == "queued"
        assert status["stale_s"] > 0
    finally:
        slurm.start_ctld()
    assert workspace.status("unseen")["state"] == "queued"
    workspace.call("cancel", "unseen")


@fault("17", "three command lines at once")
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
    ended: list[tuple[int, Any]] = [(shell.wait(240), shell.communicate()) for shell in shells]
    assert sorted(code for code, _ in ended) == [0, 1, 1], ended
    assert len(slurm.jobs()) == 1
    assert all("raced" in told[1] for code, told in ended if code == 1)
    workspace.call("cancel", "raced")
