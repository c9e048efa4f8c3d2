"""The batch script, whatever is in it, and exactly one job, whatever sbatch does.

Stand-ins for srun, sbatch and squeue are used here only to look at an argv and to fail on purpose;
what Slurm does is in tests/integration/slurm.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.errors import FvlaunchError, Interrupted, RunConflict, SchedulerRefused, SchedulerUnreachable
from fvlaunch.lifecycle import job_specs
from fvlaunch.lifecycle import submit as submission
from fvlaunch.planning.plan import Plan
from fvlaunch.runs import registry
from fvlaunch.runs.directory import Run
from fvlaunch.schedulers.local import start as local_start
from fvlaunch.schedulers.python_processes import module_command
from fvlaunch.schedulers.slurm import site
from fvlaunch.schedulers.slurm import submission as slurm_submission
from fvlaunch.schedulers.slurm.batch_script import sbatch_options
from tests.support.paths import ROOT
from tests.support.plans import CLUSTER, RECIPE, TOKEN, make, script_of
from tests.support.rows import fault

GOLDEN = Path(__file__).with_name("golden") / "batch_script.sh"
REFRESH = "FVLAUNCH_REFRESH_GOLDEN=1 python -m pytest tests/fvlaunch/lifecycle/test_submit.py -k golden"
HOSTILE = """it's "x" $(touch CANARY) `touch CANARY`; touch CANARY & * \\ ! #é"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home/state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    Path("own.yaml").write_text(RECIPE)
    Path("clusters").mkdir()
    return tmp_path


# The script


def test_the_batch_script_is_the_golden_one(tmp_path: Path) -> None:
    text = script_of(make(tmp_path / "runs")).replace(str(tmp_path), "/shared") + "\n"
    if os.environ.get("FVLAUNCH_REFRESH_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"the batch script changed; if that is meant: {REFRESH}"


def options_of(plan: Plan) -> dict[str, Any]:
    return sbatch_options(job_specs.of_plan(Run(plan.path), plan, plan.path / "job" / TOKEN))


def test_the_token_stands_in_the_comment_after_the_persons_own_and_in_the_working_directory(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs")
    options = options_of(plan)
    assert options["comment"] == f"project x fvlaunch:{TOKEN}" and options["chdir"].endswith(f"/job/{TOKEN}")
    assert (options["requeue"], options["open-mode"]) == (True, "append")
    bare = make(tmp_path / "runs", slurm={"partition": "main", "gpus-per-node": 8})
    assert options_of(bare)["comment"] == f"fvlaunch:{TOKEN}"


def test_a_command_line_option_is_in_the_script_once(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", environment={"SBATCH_PARTITION": "other", "SBATCH_QOS": "long"})
    lines = [line for line in script_of(plan).splitlines() if "partition" in line or "qos" in line]
    assert lines == ["#SBATCH --partition=other", "#SBATCH --qos=long"]


def test_without_a_snapshot_the_job_runs_the_installed_code(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs")
    text = job_specs.batch_script(Run(plan.path), plan, "x") or ""
    assert f"PYTHONPATH={ROOT}:$" in text.replace("${", "$")
    assert not plan.path.exists()


def run_script(text: str, cwd: Path) -> tuple[list[str], dict[str, str]]:
    """Run a batch script under bash with a stand-in srun: the argv and environment that srun gets."""
    (cwd / "bin").mkdir(parents=True)
    srun = cwd / "bin/srun"
    told = shlex.quote(str(cwd))
    srun.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >{told}/argv\nenv -0 >{told}/env\numask >{told}/umask\n: >"${{!#}}/said.7.0"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{cwd}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "32", "PYTHONPATH": ":/mine::", "LC_ALL": "C"}
    done = subprocess.run(["bash", "-u"], input=text, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    argv = (cwd / "argv").read_bytes().decode().split("\0")[:-1]
    return argv, dict(part.partition("=")[::2] for part in (cwd / "env").read_bytes().decode().split("\0") if part)


@pytest.mark.parametrize("hostile", ["plain", HOSTILE], ids=["plain", "hostile"])
def test_no_value_of_a_run_is_executed_and_every_one_arrives_whole(tmp_path: Path, hostile: str) -> None:
    runs, cwd = tmp_path / hostile.replace("/", ""), tmp_path / "work"
    plan = make(
        runs,
        python=f"/opt/{hostile}/python",
        srun_args=[f"--container={hostile}"],
        env={"VALUE": hostile},
        slurm={**CLUSTER["slurm"], "comment": hostile, "constraint": hostile},
        setup="",
    )
    text = script_of(plan)
    job = plan.path / "job" / TOKEN
    job.mkdir(parents=True)
    argv, env = run_script(text, cwd)
    assert argv[:3] == ["--unbuffered", "--output", str(job / "%j_%t_log.out")] and "--kill-on-bad-exit=0" in argv
    command = module_command(f"/opt/{hostile}/python", "submitit.core._submit", str(job), unbuffered=True)
    assert argv[-7:] == [f"--container={hostile}", *command]
    assert env["VALUE"] == hostile and env["PYTHONPATH"] == f"{plan.path / 'code'}:/mine"
    assert (env["SRUN_CPUS_PER_TASK"], (cwd / "umask").read_text()) == ("32", "0077\n")
    assert {path.name for path in job.iterdir()} == {"7_submitted.pkl", "said.7.0"} and (job / "7_submitted.pkl").readlink() == Path(
        "submitted.pkl"
    )
    assert not list(tmp_path.rglob("CANARY"))


@pytest.mark.parametrize("by", ["setup", "env"])
def test_the_runs_code_comes_first_whatever_the_profile_makes_of_the_path(tmp_path: Path, by: str) -> None:
    changed: dict[str, Any] = (
        {"setup": "export PYTHONPATH=/lib:", "env": {}} if by == "setup" else {"setup": "", "env": {"PYTHONPATH": ":/lib"}}
    )
    plan = make(tmp_path / "runs", **changed)
    (plan.path / "job" / TOKEN).mkdir(parents=True)
    _, env = run_script(script_of(plan), tmp_path / "work")
    assert env["PYTHONPATH"] == f"{plan.path / 'code'}:/lib"


def test_setup_lines_run_before_srun(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="export FROM_SETUP=$SLURM_JOB_ID")
    (plan.path / "job" / TOKEN).mkdir(parents=True)
    _, env = run_script(script_of(plan), tmp_path / "work")
    assert env["FROM_SETUP"] == "7"


@pytest.mark.parametrize("bad", ["a%j", "a\nb", "a\x07"])
def test_a_run_directory_that_a_script_cannot_name_is_refused(tmp_path: Path, slurm: Slurm, bad: str) -> None:
    with pytest.raises(FvlaunchError):
        submission.submit(make(tmp_path / bad), take_snapshot=False, request={})
    assert not list(tmp_path.glob("a*"))


# Exactly one job


class Slurm:
    """Stand-ins on PATH: sbatch does what `answer` says and keeps what it was given; squeue lists the jobs that were taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._script("sbatch", 'env >environment; printf "%s\\n" "$@" >argv; eval "$(cat answer)"')
        self._script("squeue", "[ -e queue ] && cat queue; exit $(cat squeue_code)")
        self._script("scontrol", 'echo "ClusterName = cluster"')
        self._script("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
        fields = ["%s", "run-1", "PENDING", "None", *[""] * 5, "0", "main", "0", "1", "fvlaunch:%s", "/job\\036\\n"]
        line = "\\037".join(fields)
        self._script(
            "take", f"""token=$(sed -n "s/.*fvlaunch:\\([0-9a-f]*\\).*/\\1/p" "$1"); printf '{line}' "${{2:-4711}}" "$token" >queue"""
        )
        self.answers('take "$2"; echo "4711;cluster"')
        self.squeue_ends(0)

    def _script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncd {shlex.quote(str(self.folder))}\n{text}\n")
        path.chmod(0o755)

    def answers(self, shell: str) -> None:
        (self.folder / "answer").write_text(shell)

    def squeue_ends(self, code: int) -> None:
        (self.folder / "squeue_code").write_text(str(code))

    @property
    def environment(self) -> str:
        return (self.folder / "environment").read_text()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm'}:/usr/bin:/bin")
    monkeypatch.setattr(site, "_known", [])
    return Slurm(tmp_path / "slurm")


def submit(plan: Plan) -> Run:
    return submission.submit(plan, take_snapshot=False, request={})


def test_a_submission_records_its_job(tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").touch()  # a real scontrol would look for a missing SLURM_CONF in the network
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_CONF", "SRUN_DEBUG"):
        monkeypatch.setenv(name, "x")
    run = submit(make(tmp_path / "runs"))
    record = run.record()
    assert (record.job_id, record.job_ids, record.state) == ("4711", ("4711",), "submitted")
    assert [known.path for known in registry.known()] == [run.path]
    names = {line.partition("=")[0] for line in slurm.environment.splitlines()}
    assert "SLURM_CONF" in names and not names & {"SBATCH_PARTITION", "SLURM_JOB_ID", "SRUN_DEBUG"}
    assert (slurm.folder / "argv").read_text().split()[0] == "--parsable"
    folder = run.job / record.token
    assert {path.name for path in folder.iterdir()} == {"submission.sh", "submitted.pkl"}


def test_a_refused_job_leaves_nothing_behind(tmp_path: Path, slurm: Slurm) -> None:
    slurm.answers('echo "sbatch: error: invalid partition specified: main" >&2; exit 1')
    with pytest.raises(SchedulerRefused) as caught:
        submit(make(tmp_path / "runs"))
    assert "invalid partition specified: main" in caught.value.message and caught.value.exit_code == 1
    assert not list((tmp_path / "runs").iterdir()) and registry.known() == []


@pytest.mark.parametrize("then", ["exit 1", "echo nonsense", "sleep 600"], ids=["error", "nonsense", "timeout"])
def test_a_job_that_was_taken_although_sbatch_failed_is_adopted(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(slurm_submission, "SBATCH_WAIT_S", 5.0 if "sleep" in then else 240.0)  # enough to take the job
    slurm.answers(f'take "$2"; {then}')
    run = submit(make(tmp_path / "runs"))
    assert (run.record().job_id, run.record().state) == ("4711", "submitted")
    assert [event["event"] for event in run.events()] == ["adopted", "submitted"]


def test_a_submission_of_which_nobody_knows_is_kept_and_found_later(tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_submission, "SBATCH_WAIT_S", 0.5)
    plan = make(tmp_path / "runs")
    slurm.answers("sleep 600")
    with pytest.raises(SchedulerUnreachable) as caught:
        submit(plan)
    [run] = registry.known()
    assert caught.value.exit_code == 3 and (run.record().state, run.record().job_id) == ("submitting", None)
    [script] = run.job.glob("*/submission.sh")
    subprocess.run([slurm.folder / "take", script], check=True, timeout=240)  # it was taken after all, late
    with pytest.raises(RunConflict, match="has a job after all: 4711"):
        submission.resubmit(run, plan)
    assert (run.record().job_id, run.record().generation) == ("4711", 1)


def test_where_squeue_does_not_answer_either_nothing_is_concluded(tmp_path: Path, slurm: Slurm) -> None:
    slurm.answers("exit 1")
    slurm.squeue_ends(1)
    with pytest.raises(SchedulerUnreachable):
        submit(make(tmp_path / "runs"))
    assert registry.known()[0].record().state == "submitting"


@fault("20", "Ctrl-C while sbatch takes a new job")
def test_ctrl_c_during_sbatch_keeps_the_job_that_was_taken(tmp_path: Path, slurm: Slurm) -> None:
    slurm.answers('take "$2"; kill -INT $PPID; sleep 1; echo 4711')
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
    try:
        with pytest.raises(Interrupted, match="has been submitted: job 4711"):
            submit(make(tmp_path / "runs"))
    finally:
        signal.signal(signal.SIGINT, before)
    [run] = registry.known()
    assert (run.record().job_id, run.record().state) == ("4711", "submitted")


@fault("20", "Ctrl-C while sbatch takes a resumed job")
def test_ctrl_c_while_sbatch_takes_a_resumed_job_keeps_that_job_too(tmp_path: Path, slurm: Slurm) -> None:
    plan = make(tmp_path / "runs")
    run = submit(plan)
    run.update(state="stopped", job_id=None)
    slurm.answers('take "$2" 4712; kill -INT $PPID; sleep 1; echo 4712')
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="has been submitted: job 4712"):
            submission.resubmit(run, plan)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (run.record().job_id, run.record().state, run.record().generation) == ("4712", "submitted", 2)


def test_a_resume_where_slurm_is_not_is_one_clear_error_and_changes_nothing(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(tmp_path / "runs")
    run = submit(plan)
    run.update(state="stopped", job_id=None)
    before = run.record()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FvlaunchError, match="sbatch is not on PATH"):
        submission.resubmit(run, plan)
    assert run.record() == before


def test_two_resumes_at_once_make_one_job(tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(tmp_path / "runs")
    run = submit(plan)
    run.update(state="stopped", job_id=None)
    passed = submission._check_is_over

    def overtaken(*words: Any) -> None:
        passed(*words)
        run.update(generation=2, token="other")

    monkeypatch.setattr(submission, "_check_is_over", overtaken)
    with pytest.raises(RunConflict, match="just resumed by another command"):
        submission.resubmit(run, plan)
    assert run.record().token == "other"


def test_the_pickle_names_our_function_and_holds_the_run_directory_only(tmp_path: Path, slurm: Slurm) -> None:
    run = submit(make(tmp_path / "runs"))
    [pickled] = run.job.glob("*/submitted.pkl")
    program = "import pickle,sys; d = pickle.load(open(sys.argv[1],'rb')); print(d.function.__module__, d.function.__name__, *d.args)"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run([sys.executable, "-c", program, pickled], env=env, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["fvlaunch.agent.main", "run_agent", str(run.path)]


def test_a_local_profiles_shell_lines_run_before_the_interpreter_and_keep_its_process(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$$ $PWD $GREETING $5 $PYTHONPATH"\n')
    (tmp_path / "python").chmod(0o755)
    setup = 'if true; then\n  export GREETING="it\'s here"\nfi'
    setup += "\nexport PYTHONPATH=/lib"
    command = local_start.job_command(str(tmp_path / "python"), setup, Path("a b"), tmp_path, code=tmp_path / "it's code")
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out, _ = started.communicate(timeout=240)
    assert out == f"{started.pid} {tmp_path} it's here a b {tmp_path}/it's code:/lib\n"
