"""Slurm freezes or dies in the midst of a command: the person hears what may have happened and what to type, and there is one job."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fvlaunch.errors import SchedulerUnreachable
from fvlaunch.schedulers import patience
from fvlaunch.schedulers.base import ToolSpec
from fvlaunch.schedulers.slurm import requeue as slurm_requeue
from fvlaunch.schedulers.slurm import site as slurm_site
from fvlaunch.schedulers.slurm.scheduler import SCHEDULER
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.silence import LOST, PATIENT, SUBMIT, Silence
from tests.integration.slurm.stubs import Quick, sleeping
from tests.support.rows import Figures, fault

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]
SMOKE = ["--set", "train.max_steps=40", "--ranks", "1"]
FOLLOWED = ("status", "resume", "submit", "cancel", "stop", "wait")
"""What a person types next, whichever they think of."""


@pytest.fixture(scope="module")
def site() -> Iterator[SlurmCluster]:
    with SlurmCluster(nodes=1, extra=PATIENT) as cluster:
        yield cluster


@pytest.fixture
def silence(site: SlurmCluster, tmp_path: Path) -> Iterator[Silence]:
    made = Silence(site, tmp_path)
    yield made
    site.resume_ctld()
    site.cancel_all()


@pytest.fixture
def quick(site: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    monkeypatch.setattr(slurm_site, "_known", [])  # a test asks anew whether anybody answers
    made = Silence(site, tmp_path, Quick)
    yield made
    site.resume_ctld()
    made.answers_again()
    site.cancel_all()


def follow(silence: Silence, name: str, command: str) -> None:
    """Type a command after Slurm has answered nothing to a submission and is back: it finds that submission's job."""
    if command == "submit":
        assert "no second one" in silence.call(*SUBMIT, "--name", name, code=0).stderr
    elif command == "wait":
        silence.slurm.run("scancel", "--name", name)
        silence.call("wait", name, code=1)
    else:
        silence.call(command, name, code=0)
    record = silence.record(name)
    if command in ("cancel", "stop"):
        assert record["state"] == {"cancel": "cancelled", "stop": "stopped"}[command]
    else:
        assert (record["state"], len(record["job_ids"]), bool(record["job_id"])) == ("submitted", 1, True)


@fault("20", "kill -9 of submit as sbatch has taken the job, its runs folder known to nobody else")
def test_a_submit_that_is_killed_behind_sbatch_leaves_a_run_that_status_finds_from_anywhere(quick: Silence) -> None:
    quick.wrap("sbatch", "", "kill -9 $PPID", silent=True)
    cut = quick.begun(*SUBMIT, "--runs-dir", "elsewhere", "--name", "cut")
    assert (cut.communicate(timeout=60)[0], cut.returncode) == ("", -signal.SIGKILL)
    quick.answers_again()
    assert "queued" in quick.call("status", "cut", code=0).stdout
    assert quick.jobs_ever()["cut"] == 1
    quick.call("cancel", "cut", code=0)


@fault("16", "the reply is lost, nobody answers then, and any command is typed next")
@pytest.mark.parametrize("count", [pytest.param(len(FOLLOWED), id="6"), pytest.param(1000, id="1000", marks=LONG)])
def test_a_lost_reply_and_silence_after_it_end_in_one_job_whatever_is_typed_next(quick: Silence, figure: Figures, count: int) -> None:
    chance, names = random.Random(7), [f"lost-{number}-of-{count}" for number in range(count)]
    ever = quick.jobs_ever()
    for number, name in enumerate(names):
        quick.loses_the_reply()
        done = quick.call(*SUBMIT, "--name", name, code=3)
        assert f"when {name} was submitted" in done.stderr and "may have been queued all the same" in done.stderr
        assert "nothing is submitted twice" in done.stderr and f"fvlaunch resume {name}" in done.stderr
        quick.answers_again()
        follow(quick, name, FOLLOWED[number] if number < len(FOLLOWED) else chance.choice(FOLLOWED))
        if number % 50 == 49 or number == count - 1:
            ever |= quick.jobs_ever()  # Slurm forgets jobs that ended five minutes ago
            quick.slurm.cancel_all()
    figure.count("exactly one job", sum(ever[name] == 1 for name in names), count)


@fault("36", "frozen as sbatch asks")
def test_a_submission_in_whose_midst_slurm_freezes_is_told_and_its_job_adopted(quick: Silence) -> None:
    quick.wrap("sbatch", f"kill -STOP {quick.slurm.controller_pid}")
    done = quick.call(*SUBMIT, code=3)
    [name] = [path.name for path in quick.shell.runs.iterdir()]
    assert f"when {name} was submitted" in done.stderr and f"fvlaunch resume {name}" in done.stderr
    quick.slurm.resume_ctld()
    quick.answers_again()
    quick.shell.until(lambda: quick.jobs_ever()[name], "the request that lay there is taken")
    again = quick.call(*SUBMIT, code=0)
    assert again.stdout == f"{name}\n" and "no second one" in again.stderr
    assert quick.jobs_ever()[name] == 1 and len(list(quick.shell.runs.iterdir())) == 1


@fault("16", "kill -9 of slurmctld between the request and its reply")
def test_slurm_that_dies_between_the_request_and_its_reply_leaves_one_job_or_none_that_resume_submits(quick: Silence) -> None:
    lost = LOST.replace("Socket timed out on send/recv operation", "Zero Bytes were transmitted or received")
    quick.wrap("sbatch", "", f"kill -KILL {quick.slurm.controller_pid}; touch {quick.folder}/down; {lost}", silent=True)
    assert "when killed was submitted" in quick.call(*SUBMIT, "--name", "killed", code=3).stderr
    quick.slurm.stop_ctld(signal.SIGKILL)
    quick.slurm.start_ctld()
    quick.answers_again()
    quick.call("resume", "killed", code=0)
    assert [line.split()[0] for line in quick.slurm.jobs() if " killed " in line] == [quick.record("killed")["job_id"]]


CASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("status", "kept"): ("no answer", "last known", "queued"),
    ("resume", "kept"): ("kept: ", "nothing was submitted, it is as it was", "fvlaunch resume kept"),
    ("prune", "kept", "--keep-last", "2"): ("kept: ", "nothing was deleted"),
    ("cancel", "ends"): ("`cancel` is recorded", "of ends", "fvlaunch cancel ends again", "never comes back"),
    ("stop", "saves"): ("`stop` is recorded", "of saves", "fvlaunch stop saves again"),
    (*SUBMIT, "--name", "new"): ("new: ", "it was not made, and nothing was submitted", "the same command"),
    ("submit", "shapes", "--cluster", "asleep", "--name", "chain"): ("chain: ", "it was not made, and nothing was submitted"),
}
"""What each command says while nobody answers: the run, what has become of it, and what to type."""
DOWN = [
    pytest.param("unreachable", id="unreachable"),
    *[pytest.param(how, id=how, marks=pytest.mark.long) for how in ("frozen", "gone", "without munge")],
]


@fault("36", "each command while nobody answers: frozen, gone, without munge")
@pytest.mark.parametrize("how", DOWN)
def test_while_nobody_answers_each_command_names_the_run_and_what_to_type_and_ends_with_3(quick: Silence, how: str) -> None:
    for name in ("waits", "ends", "saves", "kept"):
        sleeping(quick.shell, name, "--begin", "now+1hour")
    quick.goes_down(how)
    quick.forget()
    for command, fragments in CASES.items():
        done = quick.call(*command, code=3)
        said = done.stdout + done.stderr
        assert said.count("error: ") == 1 and said.count("hint: ") == 1, said
        assert not [one for one in fragments if one not in said], (command, said)
    assert "a run named 'kept' exists already" in quick.call(*SUBMIT, "--name", "kept", "--set", "train.seed=2", code=1).stderr
    assert not (quick.shell.runs / "new").exists() and not (quick.shell.runs / "chain").exists()
    quick.comes_back(how)
    told = quick.call("status", "--all", code=0)
    assert "ends: cancelled" in told.stderr and "saves: stopped" in told.stderr
    states = [quick.record(name)["state"] for name in ("waits", "ends", "saves", "kept")]
    assert states == ["submitted", "cancelled", "stopped", "submitted"]
    assert sorted(line.split()[1] for line in quick.slurm.jobs()) == ["kept", "waits"]
    assert "kept is queued (job" in quick.call("prune", "kept", "--keep-last", "2", code=1).stderr


@fault("36", "frozen while a run trains: stop and wait")
@pytest.mark.long
def test_a_run_that_trains_is_stopped_without_slurm_and_waiting_for_it_outlasts_the_silence(silence: Silence) -> None:
    silence.shell.slurm_cluster()
    silence.shell.submit("trains", *SMOKE, recipe="gated", cluster="real")
    gate = silence.shell.gate("trains")
    gate.reach(3)
    silence.slurm.pause_ctld()
    with silence.begun("wait", "trains") as waiting:
        assert waiting.stderr is not None and any("trains: the scheduler gives no answer" in line for line in waiting.stderr)
        done = silence.call("stop", "trains", code=0)
        assert re.search(r"trains: its agent, heard of \d+ s ago, saves and ends it", done.stderr), done.stderr
        gate.open()
        silence.shell.until(lambda: silence.record("trains")["state"] == "stopped", "its agent has read what is wanted")
        assert waiting.wait(60) == 1
    silence.slurm.resume_ctld()
    assert silence.shell.status("trains")["last_checkpoint_step"] >= 3


@fault("20", "Ctrl-C, twice, while sbatch gives no answer")
def test_ctrl_c_while_sbatch_gives_no_answer_is_told_and_the_second_leaves_with_the_runs_name(silence: Silence) -> None:
    silence.wrap("sbatch", "touch here; sleep 60")
    with silence.begun(*SUBMIT, "--name", "left") as process:
        silence.shell.until((silence.folder / "here").exists, "sbatch has begun")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None and any("once more leaves without it" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "not known whether the job of left was taken" in said and "fvlaunch resume left" in said
    silence.answers_again()
    silence.call("resume", "left", code=0)
    assert silence.jobs_ever()["left"] == 1


@fault("36", "frozen as a running job is requeued from inside")
def test_a_job_is_requeued_once_slurm_answers_again_and_one_that_was_cancelled_meanwhile_is_not_revived(
    site: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_requeue, "_PAUSE_S", 0.2)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, site.env[name])
    script = ("-o", "/dev/null", "--requeue", "--mem=100", "--wrap", "exec sleep 600")
    jobs = [site.sbatch(*script), site.sbatch(*script)]
    for job in jobs:
        site.wait_state(job, "RUNNING")
    site.pause_ctld()
    with ThreadPoolExecutor() as pool:
        cancelled = subprocess.Popen(["scancel", jobs[1]], env=site.env, stderr=subprocess.DEVNULL)
        answers = [pool.submit(SCHEDULER.requeue, job) for job in jobs[:1]]
        cancelled.wait(60)
        site.resume_ctld()
        site.wait_state(jobs[1], "CANCELLED")
        answers.append(pool.submit(slurm_requeue.after_silence, jobs[1]))
        assert [answer.result(60) for answer in answers] == [True, False]
    site.wait_restart(jobs[0], 1)
    assert site.state(jobs[1]) == "CANCELLED"
    site.cancel_all()


@fault("16", "the reply for a program that runs as a job is lost")
@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "begun"])
def test_a_program_whose_reply_is_lost_is_followed_if_it_has_begun_and_else_ends_as_it_starts(
    silence: Silence, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], begun: bool
) -> None:
    first = f"until ls {silence.folder}/.fvlaunch-*.run 2>/dev/null; do sleep 0.05; done >/dev/null; sleep 0.2"
    silence.wrap("sbatch", f"set -- --parsable {'' if begun else '--hold'}", f"{first if begun else ''}\n{LOST}", silent=True)
    monkeypatch.chdir(silence.folder)
    for name, value in silence.shell.env.items():
        monkeypatch.setenv(name, value)
    tool = ToolSpec("sample", ["sh", "-c", "sleep 1; echo made"], cluster="asleep", options={"partition": "low", "mem": "100"})
    if begun:
        assert SCHEDULER.run_tool(tool) == 0
    else:
        with pytest.raises(SchedulerUnreachable, match="it ends as it starts, for nobody waits for it"):
            SCHEDULER.run_tool(tool)
        [job] = [line.split()[0] for line in silence.slurm.jobs()]
        silence.slurm.run("scontrol", "release", job)
        silence.slurm.wait_state(job, "COMPLETED")
    assert capfd.readouterr().out == ("made\n" if begun else "")
    assert list(silence.folder.glob(".fvlaunch-sample*")) == []


def test_a_program_is_not_submitted_where_nobody_answers(quick: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", quick.shell.env["PATH"])
    quick.goes_down("unreachable")
    with pytest.raises(SchedulerUnreachable, match="nothing was submitted"):
        SCHEDULER.run_tool(ToolSpec("sample", ["true"]))


def test_waiting_is_told_with_how_long_it_lasts(quick: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUIET_S", 0.5)
    quick.wrap("sbatch", "sleep 1.5", "")
    done = quick.call(*SUBMIT, "--name", "slow", code=0)
    assert "Slurm has not answered sbatch for 0.5 s; waiting up to 30 s" in done.stderr


# The long form


@fault("36", "SIGSTOP at a random moment of submit, resume, cancel and stop")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_slurm_frozen_at_a_random_moment_of_each_command_ends_in_one_job(silence: Silence, figure: Figures) -> None:
    chance, trials = random.Random(11), 24
    for number in range(trials):
        name = f"frozen-{number}"
        commands = {"submit": (*SUBMIT, "--name", name), "resume": ("resume", name), "cancel": ("cancel", name), "stop": ("stop", name)}
        what = list(commands)[number % 4]
        if what != "submit":
            sleeping(silence.shell, name, "--begin", "now+1hour")
        if what == "resume":
            silence.call("cancel", name, code=0)
        process = silence.begun(*commands[what])
        time.sleep(chance.uniform(0.2, 1.6))
        silence.slurm.pause_ctld()
        said = "".join(process.communicate(timeout=240))
        assert process.returncode in (0, 3) and "Traceback" not in said, (what, said)
        assert process.returncode == 0 or name in said, said
        silence.slurm.resume_ctld()
        time.sleep(1.0)  # what lay in the controller's queue is taken
        after = silence.call("status", name)
        if what in ("cancel", "stop"):
            assert not [line for line in silence.slurm.jobs() if f" {name} " in line], (what, said, after.stdout)
            continue
        if after.returncode == 0 and what == "resume" and silence.record(name)["state"] in ("cancelled", "stopped"):
            silence.call("resume", name, code=0)
        if after.returncode == 1:  # it was not made
            silence.call(*SUBMIT, "--name", name, code=0)
        if silence.record(name)["job_id"] is None:
            silence.call("resume", name, code=0)
        jobs = [line.split()[0] for line in silence.slurm.jobs() if f" {name} " in line]
        assert jobs == [silence.record(name)["job_id"]], (what, said, after.stdout)
    figure.count("one job, or none where it was ended,", trials, trials)


@fault("20", "Ctrl-C, once or twice, at a random moment")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ctrl_c_at_a_random_moment_of_submit_leaves_nothing_or_a_run_that_status_explains(silence: Silence, figure: Figures) -> None:
    chance, trials = random.Random(5), 30
    silence.wrap("sbatch", "sleep 0.4", "")
    for number in range(trials):
        name = f"cut-{number}"
        process = silence.begun(*SUBMIT, "--name", name)
        time.sleep(chance.uniform(0.3, 2.0))
        process.send_signal(signal.SIGINT)
        if number % 2:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        said = "".join(process.communicate(timeout=60))
        time.sleep(0.5)
        jobs = [line.split()[0] for line in silence.slurm.jobs() if f" {name} " in line]
        if not (silence.shell.runs / name).exists():
            assert jobs == [], said
            continue
        silence.call("status", name, code=0)
        assert name in said and jobs == [job for job in [silence.record(name)["job_id"]] if job], said
    figure.count("nothing, or a run that is explained,", trials, trials)
