"""What a batch script does once the agents have ended: what they could not do themselves, once, and nothing where somebody ends the job."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from fvlaunch.planning.plan import Plan
from fvlaunch.runs.job_folder import ContinuationRequest, handed_over, leave_word, reserve_word
from tests.support.plans import RECIPE, TOKEN, make, script_of
from tests.support.rows import fault
from tests.support.small_disk import small_disk


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    Path("own.yaml").write_text(RECIPE)
    Path("clusters").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("state", "said", "requeued"),
    [
        ("RUNNING", None, True),
        ("RUNNING", "said.7.0", True),
        ("RUNNING", "said.7.2", False),
        ("RUNNING", "said.6.2", True),
        ("COMPLETING", None, False),
    ],
)
def test_a_job_whose_agents_died_without_a_word_gets_another_life_unless_somebody_ends_it(
    tmp_path: Path, state: str, said: str | None, requeued: bool
) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    if said:
        (job / said).touch()
    asked = ended(text, tmp_path, state, restarts=2, srun=f"{attempt(plan, 1)}; exit 137", code=137)
    assert asked == (["scontrol requeue 7"] if requeued else [])


def ended(
    script: str, folder: Path, state: str = "RUNNING", preempted: str = "None", restarts: int = 0, srun: str = "exit 137", code: int = 137
) -> list[str]:
    """Run a batch script with stand-ins that write down how they were called; `srun` is the shell text of that one, `code` the script's."""
    shown = f"JobId=7 JobName=x\n   JobState={state} Reason=None\n   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime={preempted}"
    stand_ins = {
        "srun": srun,
        "scontrol": f'echo scontrol "$@" >>{folder}/asked; echo "{shown}"',
        "squeue": "cat queue 2>/dev/null; exit 0",
        "sbatch": f'echo sbatch "$@" >>{folder}/asked; env >{folder}/env; cat >{folder}/script; echo 8',
    }
    for name, shell in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{shell}\n")
        (folder / name).chmod(0o755)
    (folder / "asked").unlink(missing_ok=True)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "SLURM_CONF": "/conf", "KEPT": "x"}
    done = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr
    lines = (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []
    return [line for line in lines if not line.startswith("scontrol show")]


def job_folder(plan: Plan) -> Path:
    made = plan.path / "job" / TOKEN
    made.mkdir(parents=True)
    (plan.path / "attempts").mkdir()
    (made / "submission.sh").write_text("#!/bin/bash\n#SBATCH --begin=now+1hour\n#SBATCH --dependency=afterok:1\n#SBATCH --mem=1G\ntrue\n")
    os.utime(made / "submission.sh", (1, 1))
    return made


def attempt(plan: Plan, number: int) -> str:
    """What an agent does that begins an attempt, as shell text."""
    return f"touch {shlex.quote(str(plan.path))}/attempts/{number:04d}.jsonl"


def prints(plan: Plan, *lines: str) -> str:
    """What an srun does that prints to the job's output, as shell text."""
    return "; ".join(f"echo {shlex.quote(line)} >>{shlex.quote(str(plan.path / 'job' / TOKEN))}/7_0_log.out" for line in lines)


@pytest.mark.parametrize(
    ("mode", "word", "state", "preempted", "called"),
    [
        ("requeue", "requeue", "RUNNING", "None", ["scontrol requeue 7"]),  # scontrol was missing where the agent ran
        ("requeue", "ask", "RUNNING", "None", ["scontrol requeue 7"]),
        ("requeue", "ask", "COMPLETING", "None", []),
        ("requeue", "", "RUNNING", "None", []),
        ("resubmit", "resubmit", "RUNNING", "None", ["sbatch --parsable --exclude=n1,n2"]),
        ("resubmit", "ask", "COMPLETING", "2026-01-01T00:00:00", ["sbatch --parsable --exclude=n1,n2"]),
        ("resubmit", "ask", "COMPLETING", "None", []),
        ("resubmit", None, "RUNNING", "None", ["sbatch --parsable"]),
        ("resubmit", None, "COMPLETING", "None", []),
    ],
)
def test_the_batch_script_does_what_the_agent_could_not(
    tmp_path: Path, mode: str, word: str | None, state: str, preempted: str, called: list[str]
) -> None:
    plan = make(tmp_path / "runs", setup="", continue_by=mode)
    text, job = script_of(plan), job_folder(plan)
    if word is not None:
        leave_word(job, "7", 0, ContinuationRequest(word), ["n1", "n2"])
    assert ended(text, tmp_path, state, preempted) == called
    assert handed_over(job, "7") is bool(called and "sbatch" in called[0])


def test_a_controller_that_gives_no_answer_is_asked_again_and_a_refusal_is_taken(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    for said, times in (("Unable to contact slurm controller (connect failure)", 3), ("Requested operation is presently disabled", 1)):
        silent = f"""[ "$1" = show ] || [ "$(grep -c requeue {tmp_path}/asked)" -gt 2 ] || {{ echo '{said}' >&2; exit 1; }}"""
        scontrol = f"""#!/bin/sh\necho scontrol "$@" >>{tmp_path}/asked\n{silent}\necho ' JobState=RUNNING '"""
        replaced = f"printf '%s\\n' {shlex.quote(scontrol)} >{tmp_path}/scontrol; cp {tmp_path}/squeue {tmp_path}/sleep; exit 137"
        leave_word(job, "7", 0, ContinuationRequest.ASK)
        assert ended(text, tmp_path, srun=replaced) == ["scontrol requeue 7"] * times


def test_a_job_that_follows_another_gets_neither_its_environment_nor_its_waits(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="", continue_by="resubmit")
    text, job = script_of(plan), job_folder(plan)
    leave_word(job, "7", 0, ContinuationRequest.RESUBMIT)
    assert ended(text, tmp_path) == ["sbatch --parsable"]
    assert (tmp_path / "script").read_text() == "#!/bin/bash\n#SBATCH --mem=1G\ntrue\n"
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {"SLURM_CONF", "KEPT"} <= names and not [
        n for n in names if n.startswith(("SLURM_", "SRUN_", "SUBMITIT_")) and n != "SLURM_CONF"
    ]


def test_a_job_that_follows_is_not_submitted_twice(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="", continue_by="resubmit")
    text, job = script_of(plan), job_folder(plan)
    leave_word(job, "7", 0, ContinuationRequest.RESUBMIT)
    text = text.replace("cd /\n", f"cd {shlex.quote(str(tmp_path))}\n")
    (tmp_path / "queue").write_text(f"7 project x fvlaunch:{TOKEN}\n8 project x fvlaunch:{TOKEN}\n")
    assert ended(text, tmp_path) == []
    (tmp_path / "queue").write_text(f"7 project x fvlaunch:{TOKEN}\n9 other\n")
    assert ended(text, tmp_path) == ["sbatch --parsable"]


EXECVE = "slurmstepd: error: execve(): /gone/bin/python3: No such file or directory"
NO_MODULE = "ModuleNotFoundError: No module named 'submitit'"
KILLED = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."


@pytest.mark.parametrize(
    ("printed", "code", "lives", "told"),
    [
        ((EXECVE, "srun: error: n1: task 0: Exited with exit code 2"), 2, 1, "No such file or directory"),
        (("Traceback (most recent call last):", NO_MODULE, "srun: error: n1: task 0: Exited with exit code 1"), 1, 1, NO_MODULE),
        (("srun: unrecognized option '--container-image=x'",), 1, 1, "--container-image"),
        ((), 0, 1, "ended with exit code 0 before an attempt was begun"),
        (
            ("srun: error: Task launch for StepId=7.0 failed on node n1: Communication connection failure",),
            1,
            3,
            "starts_without_progress: 3",
        ),
        (("srun: error: Unable to create step for job 7: Job/step already completing or completed",), 1, 3, "starts_without_progress: 3"),
        (("srun: error: Slurm job 7 has expired",), 1, 3, "starts_without_progress: 3"),
        ((), 137, 3, "3 starts in a row ended before an attempt was begun"),
        ((KILLED, "srun: error: n1: task 0: Out Of Memory"), 137, 2, "ran out of memory 2 times (limits.out_of_memory: 1)"),
        (("Traceback (most recent call last):", "MemoryError"), 1, 2, "limits.out_of_memory: 1"),
    ],
)
def test_a_job_that_cannot_begin_ends_by_the_budget_of_its_cause_and_says_why(
    tmp_path: Path, printed: tuple[str, ...], code: int, lives: int, told: str
) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    srun = f"{prints(plan, *printed) or 'true'}; exit {code}"
    for life in range(lives):
        assert not (job / "given_up").exists()
        asked = ended(text, tmp_path, restarts=life, srun=srun, code=code or 1)
        assert asked == (["scontrol requeue 7"] if life < lives - 1 else [])
    assert told in (job / "given_up").read_text()


def test_agents_that_run_out_of_memory_end_the_job_by_its_budget_though_each_begins_an_attempt(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    lives = [len(ended(text, tmp_path, restarts=n, srun=f"{attempt(plan, n)}; {prints(plan, KILLED)}; exit 137")) for n in range(2)]
    assert lives == [1, 0] and (job / "died.7.0").read_text().startswith("out_of_memory\n")


def test_a_start_that_fails_in_a_run_that_went_well_before_is_tried_again(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    failing = f"{prints(plan, NO_MODULE)}; exit 1"
    assert len(ended(text, tmp_path, srun=f"{attempt(plan, 1)}; exit 137")) == 1
    assert [len(ended(text, tmp_path, restarts=n, srun=failing, code=1)) for n in (1, 2)] == [1, 1]
    leave_word(job, "7", 3)  # one that went well: it counts anew
    assert [len(ended(text, tmp_path, restarts=n, srun=failing, code=1)) for n in (4, 5, 6)] == [1, 1, 0]


def test_a_job_that_somebody_ends_before_it_began_is_not_judged(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    assert ended(text, tmp_path, "COMPLETING", srun="exit 1", code=1) == [] and not (job / "given_up").exists()


@pytest.mark.parametrize("mode", ["requeue", "resubmit"])
def test_a_line_of_setup_that_fails_ends_the_job_once(tmp_path: Path, mode: str) -> None:
    plan = make(tmp_path / "runs", setup="export A=1\nsource /gone/activate\n", continue_by=mode)
    text, job = script_of(plan), job_folder(plan)
    assert ended(text, tmp_path, srun=f"touch {tmp_path}/started", code=1) == []
    assert (job / "given_up").read_text() == "line 2 of setup ended with exit code 1: source /gone/activate\n"
    assert not (tmp_path / "started").exists()


def test_a_job_without_its_copy_of_the_code_ends_and_runs_no_other(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    (plan.path / "code/fvlaunch").rmdir()
    assert ended(text, tmp_path, srun=f"touch {tmp_path}/started", code=1) == []
    assert "copy of the code is not there" in (job / "given_up").read_text() and not (tmp_path / "started").exists()


def test_a_setup_that_loses_the_path_ends_the_job_in_words(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="export PATH=/gone")
    text, job = script_of(plan), job_folder(plan)
    assert ended(text, tmp_path, code=1) == []
    assert "srun is not found on the PATH" in (job / "given_up").read_text() and "/gone" in (job / "given_up").read_text()


def test_what_setup_sets_does_not_change_what_follows_the_agents(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="set -euo pipefail\nshopt -s failglob\nIFS=/\nexport A=1")
    text, _ = script_of(plan), job_folder(plan)
    assert ended(text, tmp_path, srun=f'{attempt(plan, 1)}; [ "$A" = 1 ] || exit 3; exit 137') == ["scontrol requeue 7"]


@fault("32", "a word that the disk does not take")
@pytest.mark.parametrize(
    ("mode", "word", "agent", "code", "called"),
    [
        ("requeue", "", 1, 1, []),  # the run has failed, or was cancelled: it must not come back
        ("requeue", "", 0, 0, []),  # finished
        ("requeue", "requeue", 1, 1, ["scontrol requeue 7"]),
        ("resubmit", "resubmit", 1, 1, ["sbatch --parsable"]),
    ],
)
def test_where_the_disk_does_not_take_the_agents_word_its_exit_code_says_it(
    tmp_path: Path, mode: str, word: str, agent: int, code: int, called: list[str]
) -> None:
    plan = make(tmp_path / "runs", setup="", continue_by=mode)
    text, job = script_of(plan), job_folder(plan)
    with small_disk(job) as disk:
        (job / "submission.sh").write_text("#!/bin/bash\ntrue\n")
        disk.read_only()
        told = leave_word(job, "7", 0, ContinuationRequest(word), code=agent)
        assert told >= 90
        assert ended(text, tmp_path, srun=f"exit {told}", code=code) == called


def test_a_word_for_which_room_was_reserved_is_left_on_a_full_disk(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="", continue_by="resubmit")
    text, job = script_of(plan), job_folder(plan)
    with small_disk(job) as disk:
        (job / "submission.sh").write_text("#!/bin/bash\ntrue\n")
        reserve_word(job, "7", 0)
        disk.fill()
        assert leave_word(job, "7", 0, ContinuationRequest("resubmit"), ["n1"]) == 1
        assert ended(text, tmp_path, srun="exit 1", code=1) == ["sbatch --parsable --exclude=n1"]
        assert handed_over(job, "7")


def test_starts_that_nobody_can_count_do_not_go_on_for_ever(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    with small_disk(job) as disk:
        disk.read_only()
        assert ended(text, tmp_path) == ["scontrol requeue 7"]
        assert ended(text, tmp_path, restarts=3) == []
        assert ended(text, tmp_path, restarts=3, srun=f"{attempt(plan, 1)}; exit 137") == ["scontrol requeue 7"]  # begun: its number counts
