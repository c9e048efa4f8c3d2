"""Exactly one job, whatever happens to sbatch's reply and however many shells resume a run; the big counts are in the long run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.schedulers.slurm import submission
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.stubs import Quick, sleeping, sleeping_profile
from tests.support.rows import Figures, fault


def counts(many: int) -> list[Any]:
    return [pytest.param(6, id="6"), pytest.param(many, id=str(many), marks=[pytest.mark.long, pytest.mark.timeout(3600)])]


REPLIES = {
    "an error": 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1',
    "nothing": "exit 0",
    "nonsense": "echo Submitted, perhaps",
    "a signal": "kill -KILL $$",
    "silence": "sleep 300",
}
"""What comes back after the job was taken."""


@pytest.fixture
def runs(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Quick]:
    (tmp_path / "bin").mkdir()
    made = Quick(tmp_path, {**slurm.env, "PATH": f"{tmp_path / 'bin'}:{slurm.env['PATH']}"})
    sleeping_profile(made)
    yield made
    slurm.cancel_all(timeout_s=60)


def wrap_sbatch(runs: Quick, slurm: SlurmCluster, before: str, after: str) -> None:
    real = slurm.run("which", "sbatch").stdout.strip()
    wrapper = runs.folder / "bin" / "sbatch"
    wrapper.write_text(f'#!/bin/bash\n{before}\n{real} "$@" >/dev/null 2>&1\n{after}\n')
    wrapper.chmod(0o755)


@fault("16", "after Slurm took the job: an error, nothing, nonsense, a signal, silence")
@pytest.mark.parametrize("count", counts(1000))
def test_a_reply_of_sbatch_that_is_lost_never_makes_a_second_job(
    slurm: SlurmCluster, runs: Quick, monkeypatch: pytest.MonkeyPatch, figure: Figures, count: int
) -> None:
    chance, right = random.Random(7), 0
    for number in range(count):
        reply = list(REPLIES)[number] if number < len(REPLIES) else chance.choice([name for name in REPLIES if name != "silence"])
        wrap_sbatch(runs, slurm, "", REPLIES[reply])
        monkeypatch.setattr(submission, "SBATCH_WAIT_S", 10.0 if reply == "silence" else 240.0)  # enough for Slurm to take the job
        job = sleeping(runs, f"lost-{number}", "--begin", "now+1hour")
        right += [line.split()[0] for line in slurm.jobs() if f" lost-{number} " in line] == [job]
    figure.count("exactly one job", right, count)
    assert len(slurm.jobs()) == count


@fault("16", "an error before Slurm took the job")
def test_a_submission_that_fails_before_sbatch_took_it_leaves_nothing(slurm: SlurmCluster, runs: Quick) -> None:
    wrap_sbatch(runs, slurm, 'echo "sbatch: error: no" >&2; exit 1', "")
    done = runs.call("submit", "tiny", "--cluster", "asleep", "--name", "none", "--no-snapshot", check=False)
    assert done.returncode == 1 and "sbatch refused the job: no" in done.stderr
    assert slurm.jobs() == [] and not (runs.runs / "none").exists()


@fault("17", "two shells, forked, at the same moment")
@pytest.mark.parametrize("count", counts(200))
def test_of_two_shells_that_resume_a_run_one_wins_and_the_other_is_told_who(
    slurm: SlurmCluster, runs: Quick, figure: Figures, count: int
) -> None:
    sleeping(runs, "raced", "--begin", "now+1hour")
    argv = [sys.executable, str(Path(__file__).with_name("racers.py")), "raced", str(count), "2"]
    done = subprocess.run(argv, cwd=runs.folder, env=runs.env, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == count
    for trial in trials:
        assert sorted(trial["codes"]) == [0, 1], trial
        assert trial["jobs"] == trial["owned"] == [trial["recorded"]], trial
        [loser] = [told for code, told in zip(trial["codes"], trial["told"], strict=True) if code == 1]
        assert "raced" in loser and ("resumed by another command" in loser or trial["recorded"] in loser), loser
    figure.count("one won, the other was told who", len(trials), count)
