"""Owns handing a run's job to Slurm: the batch script through submitit's Slurm executor, and sbatch itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, Interrupted, SchedulerRefused, SchedulerUnreachable
from ..files import publish_text
from ..planning.plan import Plan
from ..runs import code_snapshot
from ..runs.directory import Run
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import site as slurm_site
from .batch_script import sbatch_options, setup_block, teardown_block
from .job_records import adopt, record_job
from .stub_modules import without

SBATCH_WAIT_S = 60.0


def write_job(run: Run, plan: Plan, folder: Path) -> Path:
    """The batch script, and the pickle that it finds by its own id."""
    with without("asyncio"):  # a twentieth of what submitting takes, for job objects that one may await; none is made here
        from submitit.core.utils import DelayedSubmission

    from ..agent.main import run_agent

    script = folder / "submission.sh"
    publish_text(script, batch_script(run, plan, folder, run.record().token))
    DelayedSubmission(run_agent, str(run.path)).dump(folder / "submitted.pkl")
    (folder / "submitted.pkl").chmod(0o600)
    return script


def batch_script(run: Run, plan: Plan, folder: Path, token: str) -> str:
    """The text that sbatch gets. Writes nothing."""
    return str(_slurm_executor(run, plan, folder, token)._make_submission_file_text(_command(plan, folder), ""))


def _command(plan: Plan, folder: Path) -> str:
    python = plan.python or sys.executable
    return f"{shlex.quote(python)} -u -m submitit.core._submit {shlex.quote(str(folder))}"


def _slurm_executor(run: Run, plan: Plan, folder: Path, token: str) -> Any:
    with without("asyncio"):
        from submitit import SlurmExecutor

    class Executor(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 2  # it writes text here; submitit asks for an srun on this machine, where --dry-run may have none

    executor = Executor(folder=folder)
    executor.update_parameters(
        job_name=plan.job_name,
        nodes=plan.nodes,
        ntasks_per_node=1,
        time=None,
        wckey=None,
        signal_delay_s=int(plan.limits.notice_lead_s or 120),
        stderr_to_stdout=True,
        setup=setup_block(plan, folder, code_snapshot.code_folder(run)),
        teardown=teardown_block(plan, folder, token),
        srun_args=["--kill-on-bad-exit=0", *plan.srun_args],
        additional_parameters=sbatch_options(plan, folder, token),
    )
    return executor


def start_slurm(run: Run, plan: Plan, folder: Path) -> None:
    record, script = run.record(), write_job(run, plan, folder)
    try:
        job_id, interrupted = _sbatch(script)
        record_job(run, job_id)
    except (FvlaunchError, KeyboardInterrupt) as error:
        adopted = adopt(run, record)
        if not adopted:
            raise
        job_id, interrupted = adopted, isinstance(error, KeyboardInterrupt)
    if interrupted:
        raise Interrupted(f"interrupted, but {run.name} has been submitted: job {job_id}", hint=f"fvlaunch cancel {run.name}")


def scheduler_name(plan: Plan) -> str | None:
    """Which Slurm is about to be asked; one that does not answer now will not take a job either."""
    try:
        return slurm_site.identity().name if plan.executor == "slurm" else None
    except FvlaunchError:
        return None


def _sbatch(script: Path) -> tuple[str, bool]:
    """Run sbatch in a session of its own and return the job's id, and whether Ctrl-C came: it must not cut sbatch off half-way."""
    started = subprocess.Popen(
        ["sbatch", "--parsable", str(script)],
        env=slurm.environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    interrupted, deadline = False, time.monotonic() + SBATCH_WAIT_S
    while True:
        try:
            answer, said = started.communicate(timeout=max(deadline - time.monotonic(), 0.01))
            break
        except KeyboardInterrupt:
            interrupted = True
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # sites wrap sbatch: what a wrapper started would hold the pipes open
            started.communicate()
            raise SchedulerUnreachable(
                f"sbatch gave no answer in {SBATCH_WAIT_S:.0f} s", hint="fvlaunch status tells whether the job is there"
            ) from None
    job_id = answer.strip().partition(";")[0]
    if started.returncode != 0 or not job_id.isdigit():
        told = (said or answer).strip().removeprefix("sbatch: error: ")
        raise SchedulerRefused(f"sbatch refused the job: {told}", hint="fvlaunch submit … --dry-run shows the batch script")
    return job_id, interrupted
