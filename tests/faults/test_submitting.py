"""Submitting and looking at runs while something goes wrong: Ctrl-C at any moment, a second job, thousands of runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.stubs import Quick, job_id, sleeping, sleeping_profile
from tests.support.paths import ROOT
from tests.support.rows import Figures, fault

TRIALS = 4


@pytest.fixture
def runs(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path, {**os.environ, **slurm.env})
    sleeping_profile(made)
    yield made
    slurm.cancel_all()


def interrupted(runs: Quick, name: str, after_s: float) -> None:
    """Submit a run and press Ctrl-C so many seconds later, unless it is over by then."""
    argv = [
        sys.executable,
        "-m",
        "fvlaunch",
        "submit",
        "tiny",
        "--cluster",
        "asleep",
        "--name",
        name,
        "--ranks",
        "1",
        "--begin",
        "now+1hour",
    ]
    shell = subprocess.Popen(
        argv, cwd=runs.folder, env=runs.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it would be ignored
    )  # fmt: skip
    try:
        shell.wait(after_s)
    except subprocess.TimeoutExpired:
        shell.send_signal(signal.SIGINT)
        shell.wait(120)


@pytest.mark.slurm
@fault("20", "Ctrl-C at a random moment of a submit")
def test_ctrl_c_at_any_moment_leaves_no_job_without_a_run(slurm: SlurmCluster, runs: Quick, figure: Figures) -> None:
    began = time.monotonic()
    interrupted(runs, "whole", 240)
    usual, dice, left = time.monotonic() - began, random.Random(20), []
    for number in range(TRIALS):
        name = f"cut-{number}"
        interrupted(runs, name, usual * dice.random())
        jobs = [line.split()[0] for line in slurm.jobs() if f" {name} " in line]
        if not (runs.runs / name / "run.json").exists():
            assert jobs == [], f"{name} is nothing and has a job"
            assert not (runs.runs / name).exists(), f"{name} is half made"
            continue
        [status] = json.loads(runs.call("status", name, "--json", check=False).stdout)
        assert status["job_id"] == (jobs[0] if jobs else None) and len(jobs) <= 1, (status, jobs)
        assert status["state"] == ("queued" if jobs else "submitting"), status
        left.append(name)
    figure.count(f"nothing, or a run that status explains ({len(left)})", TRIALS, TRIALS)


@pytest.mark.slurm
@fault("18", "resume of a run whose node is dead, with records a day old; then its job cancelled")
def test_a_runs_job_holds_it_however_old_its_records_are(slurm: SlurmCluster, runs: Quick, figure: Figures) -> None:
    job = sleeping(runs, "held")
    slurm.wait_state(job, {"RUNNING"})
    node = slurm.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    for path in (runs.runs / "held").rglob("*"):
        os.utime(path, (time.time() - 86400,) * 2, follow_symlinks=False)
    try:
        slurm.kill_slurmd(node)
        refused = [runs.call("resume", "held", check=False)]
        slurm.node_down(node)
        slurm.wait_state(job, {"PENDING", "RUNNING"})
        refused.append(runs.call("resume", "held", check=False))
    finally:
        slurm.start_slurmd(node)
    assert [(done.returncode, job in done.stderr) for done in refused] == [(1, True)] * 2, refused
    slurm.run("scancel", job)
    slurm.wait_state(job, {"CANCELLED"})
    runs.call("resume", "held", "--begin", "now+1hour")
    assert job_id(runs.runs / "held") != job and [line.split()[0] for line in slurm.jobs()] == [job_id(runs.runs / "held")]
    figure.count("refused until the job was gone", len(refused), 2)


@pytest.mark.long
@pytest.mark.timeout(900)
@fault("25", "10,000 run directories, 20 of them not over")
def test_status_of_ten_thousand_runs_takes_a_second(figure: Figures) -> None:
    done = subprocess.run([sys.executable, "tests/benchmarks/many_runs.py", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("| `fvlaunch status` |")]
    _, _, seconds, _, _, _, squeue, sacct, _ = line.split("|")
    figure.most("processor's seconds of status:", float(seconds), 1, "s")
    figure.most("calls of squeue:", float(squeue), 1)
    figure.most("calls of sacct:", float(sacct), 1)
