"""What a batch script does once the agents have ended: what they could not do themselves, once, and nothing where somebody ends the job."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from fvlaunch.planning.plan import Plan
from fvlaunch.runs.job_folder import ContinuationRequest, handed_over, leave_word
from tests.support.plans import RECIPE, TOKEN, make, script_of


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
    text, job = script_of(plan), plan.path / "job" / TOKEN
    job.mkdir(parents=True)
    if said:
        (job / said).touch()
    for name, shell in (("srun", "exit 9"), ("scontrol", f'echo "$@" >>{tmp_path}/asked; echo "   JobState={state} Reason=None"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{shell}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    done = subprocess.run(["bash"], input=text, env=env, capture_output=True, text=True, timeout=240, check=False)
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert done.returncode == 9 and ("requeue 7" in asked) is requeued


def ended(script: str, folder: Path, state: str = "RUNNING", preempted: str = "None", restarts: int = 0) -> list[str]:
    """Run a batch script whose agents end with code 9, with stand-ins that write down how they were called."""
    shown = f"JobId=7 JobName=x\n   JobState={state} Reason=None\n   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime={preempted}"
    stand_ins = {
        "srun": "exit 9",
        "scontrol": f'echo scontrol "$@" >>{folder}/asked; echo "{shown}"',
        "squeue": "cat queue 2>/dev/null; exit 0",
        "sbatch": f'echo sbatch "$@" >>{folder}/asked; env >{folder}/env; cat >{folder}/script; echo 8',
    }
    for name, shell in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{shell}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "SLURM_CONF": "/conf", "KEPT": "x"}
    done = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 9
    lines = (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []
    return [line for line in lines if not line.startswith("scontrol show")]


def job_folder(plan: Plan) -> Path:
    made = plan.path / "job" / TOKEN
    made.mkdir(parents=True)
    (made / "submission.sh").write_text("#!/bin/bash\n#SBATCH --begin=now+1hour\n#SBATCH --dependency=afterok:1\n#SBATCH --mem=1G\ntrue\n")
    return made


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


def test_a_job_that_cannot_even_begin_does_not_come_back_for_ever(tmp_path: Path) -> None:
    plan = make(tmp_path / "runs", setup="")
    text, job = script_of(plan), job_folder(plan)
    assert [len(ended(text, tmp_path, restarts=n)) for n in range(6)] == [1, 2, 3, 4, 4, 4]
    (plan.path / "attempts").mkdir()
    (plan.path / "attempts" / "0001.jsonl").touch()  # one was begun: that is another matter, and the ledger's
    assert len(ended(text, tmp_path, restarts=7)) == 5
    leave_word(job, "7", 8)
    assert not (job / "wordless").exists()
