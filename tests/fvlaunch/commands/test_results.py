"""Promises of `export` and `sample` on the command line: what the trainers' programs are started with, and mistakes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fvlaunch.commands.next_steps import what_next
from fvlaunch.config.compose import compose
from fvlaunch.lifecycle.tool_job import arguments, make, tool_of
from fvlaunch.runs.directory import Record, create
from fvlaunch.schedulers.slurm.tool_job import batch_script
from fvlaunch.status.types import RunStatus

RECORD = Record(
    name="a", recipe="r", cluster="c", executor="local", generation=1, token="t", max_steps=10, ranks=1, nodes=1, submitted_at=1.0,
    updated_at=1.0,
)  # fmt: skip


def call(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fvlaunch", *argv], cwd=folder, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), **environment},
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


def test_a_checkout_as_the_working_directory_is_not_what_a_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers/__init__.py").write_text("raise SystemExit('poisoned')\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert make("sample", Path("empty"), {"prompt": ["x"]}, None) == 1
    said = capfd.readouterr().err
    assert "poisoned" not in said and "empty" in said


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
    tool = tool_of("sample", ["python", "--prompt=a 'cat'; rm"], "there", cluster)
    lines = batch_script(tool, tmp_path / "x.log").splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    wanted = {"partition=main", "gres=gpu:h100:1", "cpus-per-task=8", "time=01:00:00", "job-name=fvlaunch-sample", "nodes=1", "ntasks=1"}
    assert options == {*wanted, f"output={tmp_path / 'x.log'}", f"error={tmp_path / 'x.err'}", f"chdir={tmp_path}"}
    before_setup = lines[: lines.index("module load cuda")]
    assert ["export", "NOTE=it's"] in [shlex.split(line) for line in before_setup if line.startswith("export NOTE")]
    started = ["srun", "--ntasks=1", "--container-image=/images/a b.sqsh", "python", "--prompt=a 'cat'; rm"]
    assert shlex.split(lines[lines.index("code=$?") - 1]) == started


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A secret that lies in its file, and is not in the environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "it's config"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    path = tmp_path / "it's config/fvlaunch/secrets/HF_TOKEN"
    path.parent.mkdir(parents=True)
    path.write_text("hf_from_the_file\n")
    path.chmod(0o600)
    return path


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("model", "size"), [("tiny-wan", " --set tiny=true"), ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "")])
def test_what_follows_a_preprocess_is_of_its_size_wherever_it_wrote(tmp_path: Path, model: str, size: str) -> None:
    run = create(tmp_path / "runs/a", RECORD)
    composed = compose("preprocess", "local", cwd=tmp_path, sets=[f"preprocess.model={model}", "preprocess.output=/clips"])
    run.config_file.write_text(yaml.safe_dump({"recipe": composed.recipe_data, "cluster": composed.cluster_data}))
    status = RunStatus("a", "r", "c", "finished", "", 1, 1, None, (), 1, None, 1.0, str(run.path))
    assert what_next(run, status).endswith(f"fvlaunch submit finetune{size} --set train.data.path=/clips")


@pytest.mark.parametrize("where", [[], ["--cluster", "./here.yaml"]])
def test_a_secret_in_its_file_reaches_the_program_here(tmp_path: Path, token_file: Path, where: list[str]) -> None:
    tell = executable(tmp_path / "tell.sh", '#!/bin/sh\necho "token $HF_TOKEN"\n')
    cluster = {"executor": "local", "paths": {"data": "data"}, "python": str(tell), "secrets": ["HF_TOKEN"]}
    (tmp_path / "here.yaml").write_text(yaml.safe_dump(cluster))
    run = create(tmp_path / "runs/a", RECORD)
    composed = compose("shapes-finetune", str(tmp_path / "here.yaml"))
    run.config_file.write_text(yaml.safe_dump({"recipe": composed.recipe_data, "cluster": composed.cluster_data}))
    done = call(tmp_path, "export", "a", "--to", "x", *where)
    assert (done.returncode, done.stdout) == (0, "token hf_from_the_file\n"), done.stderr
    assert "hf_from_the_file" not in run.config_file.read_text()


def test_a_secret_in_its_file_reaches_the_job_and_never_its_script(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("executor: slurm\npaths: {data: data}\nslurm: {partition: main}\nsecrets: [HF_TOKEN]\n")
    tell = executable(tmp_path / "tell.sh", '#!/bin/sh\necho "token $HF_TOKEN"\n')
    executable(tmp_path / "bin/srun", '#!/bin/sh\nshift\nexec "$@"\n')  # srun starts the command with the environment that it has
    tool = tool_of("export", [str(tell)], "there", compose("shapes-finetune", "./there.yaml").cluster)
    script = batch_script(tool, tmp_path / "x.log")
    assert "hf_from_the_file" not in script
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for given, wanted in ((None, "hf_from_the_file"), ("hf_own", "hf_own")):
        env = {**os.environ, "PATH": path, **({"HF_TOKEN": given} if given else {})}
        (tmp_path / "x.job").touch()  # somebody waits for it
        done = subprocess.run(["bash"], input=script, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"token {wanted}\n"), done.stderr
    token_file.unlink()
    (tmp_path / "x.job").touch()
    done = subprocess.run(["bash"], input=script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "token \n"), done.stderr


def test_a_secret_that_others_could_read_is_refused_before_anything_is_started(tmp_path: Path, token_file: Path) -> None:
    token_file.chmod(0o644)
    (tmp_path / "model").mkdir()
    (tmp_path / "here.yaml").write_text("executor: local\npaths: {data: data}\nsecrets: [HF_TOKEN]\n")
    done = call(tmp_path, "sample", "model", "--prompt", "x", "--cluster", "./here.yaml")
    assert done.returncode == 1 and "only you can read" in done.stderr and "chmod 600" in done.stderr


def test_a_local_profile_gives_its_interpreter_setup_and_environment(tmp_path: Path) -> None:
    (tmp_path / "seen.sh").write_text('#!/bin/sh\necho "$SAID $MADE $*"\nexit 7\n')
    (tmp_path / "seen.sh").chmod(0o755)
    (tmp_path / "model").mkdir()
    profile = f"executor: local\npaths: {{data: data}}\npython: {tmp_path / 'seen.sh'}\nenv: {{SAID: hello}}\nsetup: export MADE=up\n"
    (tmp_path / "here.yaml").write_text(profile)
    done = call(tmp_path, "sample", "model", "--prompt", "-x y", "--cluster", "./here.yaml")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("hello up -c ") and " trainers.sample model --prompt=-x y --num-videos=1 --seed=0" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sample", "model", "--prompt", "x", "--steps", "0"], ["--steps: 0 is not 1 or more", "hint: fvlaunch sample --help"]),
        (["export", "a", "--to", "x", "--dtype", "fp8"], ["--dtype: invalid choice: 'fp8'", "hint: fvlaunch export --help"]),
    ],
)
def test_what_a_job_would_refuse_is_told_here_and_nothing_is_submitted(tmp_path: Path, words: list[str], told: list[str]) -> None:
    executable(tmp_path / "bin/sbatch", f"#!/bin/sh\ntouch {tmp_path}/submitted\necho 'sbatch: error: no' >&2\nexit 1\n")
    executable(tmp_path / "bin/scontrol", "#!/bin/sh\necho 'ClusterName = here'\n")
    create(tmp_path / "runs/a", RECORD)
    (tmp_path / "model").mkdir()
    (tmp_path / "there.yaml").write_text("executor: slurm\npaths: {data: data}\nslurm: {partition: main}\n")
    done = call(tmp_path, *words, "--cluster", "./there.yaml", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 1 and all(text in done.stderr for text in told) and done.stderr.count("error:") == 1, done.stderr
    assert not (tmp_path / "submitted").exists()


def test_what_sbatch_says_is_told_also_where_it_ends_before_it_reads_the_script(tmp_path: Path) -> None:
    executable(tmp_path / "bin/sbatch", "#!/bin/sh\nexec </dev/null\necho 'sbatch: error: not today' >&2\nexit 1\n")
    executable(tmp_path / "bin/scontrol", "#!/bin/sh\necho 'ClusterName = here'\n")
    (tmp_path / "model").mkdir()
    no_torch = executable(tmp_path / "bin/python-of-nodes", "#!/bin/sh\nexit 1\n")
    (tmp_path / "there.yaml").write_text(f"executor: slurm\npaths: {{data: data}}\npython: {no_torch}\n")
    prompt = "x" * 100_000  # more than a pipe holds: to write it takes somebody who reads
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = call(tmp_path, "sample", "model", "--prompt", prompt, "--cluster", "./there.yaml", PATH=path)
    assert done.returncode == 1 and "sbatch refused the job: not today" in done.stderr


def test_a_program_that_cannot_check_here_is_submitted(tmp_path: Path) -> None:
    executable(tmp_path / "bin/sbatch", f"#!/bin/sh\ntouch {tmp_path}/submitted\necho 'sbatch: error: no' >&2\nexit 1\n")
    executable(tmp_path / "bin/scontrol", "#!/bin/sh\necho 'ClusterName = here'\n")
    (tmp_path / "model").mkdir()
    no_torch = executable(tmp_path / "bin/python-of-nodes", "#!/bin/sh\necho 'Traceback: no module named torch' >&2\nexit 1\n")
    profile = f"executor: slurm\npaths: {{data: data}}\npython: {no_torch}\nslurm: {{partition: main}}\n"
    (tmp_path / "there.yaml").write_text(profile)
    done = call(tmp_path, "sample", "model", "--prompt", "x", "--cluster", "./there.yaml", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert (tmp_path / "submitted").exists() and "asks for no GPU" in done.stderr and "sbatch refused the job: no" in done.stderr


@pytest.mark.parametrize(
    ("profile", "given"),
    [
        ("slurm: {gres: 'gpu:h100:8'}", "1"), ("slurm: {partition: main}", None), ("device: cpu\nslurm: {gpus-per-node: 2}", "0"),
        ("device: gpu\nslurm: {exclusive: true}", "1"),
    ],
)  # fmt: skip
def test_a_sample_must_find_the_gpu_that_its_job_was_given(tmp_path: Path, profile: str, given: str | None) -> None:
    (tmp_path / "there.yaml").write_text(f"executor: slurm\npaths: {{data: data}}\n{profile}\n")
    executable(tmp_path / "bin/srun", '#!/bin/sh\nshift\nexec "$@"\n')
    tool = tool_of(
        "sample", ["sh", "-c", "echo ${TRAINER_GPUS-none}"], "there", compose("shapes-finetune", str(tmp_path / "there.yaml")).cluster
    )
    script = batch_script(tool, tmp_path / "x.log")
    for on_node, wanted in ((None, given or "none"), ("1", given or "1")):  # where the partition gives one without being asked
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **({"SLURM_GPUS_ON_NODE": on_node} if on_node else {})}
        (tmp_path / "x.job").touch()  # somebody waits for it
        done = subprocess.run(["bash"], input=script, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout == f"{wanted}\n", done.stderr
