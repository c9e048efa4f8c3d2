"""Promises of `export` and `sample` on the command line: what the trainers' programs are started with, and mistakes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.lifecycle.tool_job import arguments, batch_script


def call(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fvlaunch", *argv], cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip


def test_options_become_arguments_that_may_begin_with_a_dash() -> None:
    given = {"num_frames": 9, "merge": True, "step": None, "prompt": ["-a", "b c"], "wide": False, "seed": 0}
    assert arguments(given) == ["--num-frames=9", "--merge", "--prompt=-a", "--prompt=b c", "--seed=0"]


def test_a_run_that_is_not_there_is_told_without_starting_anything(tmp_path: Path) -> None:
    done = call(tmp_path, "export", "nobody", "--to", "x")
    assert done.returncode == 1 and "there are no runs yet" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_without_a_model_is_told_by_the_program(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call(tmp_path, "sample", "empty", "--prompt", "x")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "empty" in done.stderr, done.stderr


PROFILE = """\
executor: slurm
paths: {data: data}
python: /opt/env/bin/python
slurm: {partition: main, gres: "gpu:h100:8", exclusive: true, cpus-per-task: 8, time: "01:00:00"}
srun_args: ["--container-image=/images/a b.sqsh"]
setup: |
  module load cuda
env: {NOTE: it's}
"""


def test_a_job_has_one_process_one_gpu_and_the_profiles_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text(PROFILE)
    cluster = compose("shapes-finetune", "./there.yaml").cluster
    lines = batch_script(cluster, "sample", ["python", "--prompt=a 'cat'; rm"], tmp_path / "x.log").splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    wanted = {"partition=main", "gres=gpu:h100:1", "cpus-per-task=8", "time=01:00:00", "job-name=fvlaunch-sample", "nodes=1", "ntasks=1"}
    assert options == {*wanted, f"output={tmp_path / 'x.log'}", f"error={tmp_path / 'x.err'}", f"chdir={tmp_path}"}
    assert shlex.split(lines[lines.index("module load cuda") - 1]) == ["export", "NOTE=it's"]
    started = ["srun", "--ntasks=1", "--container-image=/images/a b.sqsh", "python", "--prompt=a 'cat'; rm"]
    assert shlex.split(lines[lines.index("code=$?") - 1]) == started


def test_a_local_profile_gives_its_interpreter_setup_and_environment(tmp_path: Path) -> None:
    (tmp_path / "seen.sh").write_text('#!/bin/sh\necho "$SAID $MADE $*"\nexit 7\n')
    (tmp_path / "seen.sh").chmod(0o755)
    (tmp_path / "model").mkdir()
    profile = f"executor: local\npaths: {{data: data}}\npython: {tmp_path / 'seen.sh'}\nenv: {{SAID: hello}}\nsetup: export MADE=up\n"
    (tmp_path / "here.yaml").write_text(profile)
    done = call(tmp_path, "sample", "model", "--prompt", "-x y", "--cluster", "./here.yaml")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("hello up -m trainers.sample model --prompt=-x y --num-videos=1 --seed=0")
