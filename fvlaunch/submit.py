"""Owns making a job of a run, exactly one, through submitit's executors; the only module that imports them.

The token is on disk before anything is submitted. When nobody can say whether a submission was taken, the scheduler is
asked for the token, and a job that is there is adopted. As `python -m fvlaunch.submit RUN` it is the detached child that
starts a local job.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from . import jobs, lockfile, slurm, slurm_site, snapshot
from .config.schema import Cluster
from .config.yaml import dump
from .errors import FvlaunchError, Interrupted, RunConflict, SchedulerRefused, SchedulerUnreachable
from .files import publish_text, read_json
from .imports import without
from .index import remember
from .plan import Plan
from .runconfig import load
from .runs import FINAL_STATES, Record, Run, create
from .script import sbatch_options, setup_block, teardown_block

SBATCH_WAIT_S = 60.0
LOCAL_START_WAIT_S = 60.0
LOCAL_LIMIT_MIN = 60 * 24 * 3650
"""submitit's local executor ends a job after two minutes unless told; ours has no limit of its own."""


def submit(plan: Plan, *, take_snapshot: bool, asked: dict[str, Any], fill: Callable[[Run], None] | None = None) -> Run:
    """A new run and its job. If the job is refused, nothing is left behind. `fill` puts in what the job is to find there."""
    check_scheduler(plan)
    run = prepare(plan, take_snapshot=take_snapshot, asked=asked)
    try:
        if fill is not None:
            fill(run)
        start(run, plan)
    except (SchedulerUnreachable, Interrupted, KeyboardInterrupt):
        remember(run.path)  # the job may be there: status and resume will find out
        raise
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    remember(run.path)
    return run


def prepare(plan: Plan, *, take_snapshot: bool, asked: dict[str, Any]) -> Run:
    """The run directory, complete, and no job yet."""
    jobs.check_job_path(plan.path)
    run = create(plan.path, _first_record(plan))
    try:
        if take_snapshot:
            snapshot.take(run)
        _write_config(run, plan, lockfile.make(plan, asked, run))
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def prepare_job(plan: Plan, *, take_snapshot: bool, asked: dict[str, Any]) -> tuple[Run, Path]:
    """A new run with all that its job needs, and the batch script that somebody else will hand to sbatch.

    The job knows the run by its token: its agent records the job's id, and status and resume find it in the queue before that.
    """
    run = prepare(plan, take_snapshot=take_snapshot, asked=asked)
    try:
        folder = _job_folder(run)
        script = _write_job(run, plan, folder)
        run.update(reason=f"prepared, not submitted by fvlaunch: sbatch {shlex.quote(str(script))}, or fvlaunch resume {run.name}")
        run.event("prepared")
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    remember(run.path)
    return run, script


def check_scheduler(plan: Plan) -> None:
    """Refuse a plan for Slurm on a machine without it."""
    if plan.executor == "slurm" and not slurm.available():
        raise FvlaunchError(
            f"cluster {plan.cluster_name} is a Slurm cluster, but sbatch is not on PATH",
            hint="submit from a login node, or use --cluster local",
        )


def executor_of(plan: Plan) -> Literal["slurm", "local"]:
    return "slurm" if plan.executor == "slurm" else "local"


def _first_record(plan: Plan) -> Record:
    now = time.time()
    return Record(
        name=plan.full_name,
        recipe=plan.recipe_name,
        cluster=plan.cluster_name,
        executor=executor_of(plan),
        generation=1,
        token=jobs.new_token(),
        max_steps=plan.max_steps,
        ranks=plan.ranks,
        nodes=plan.nodes,
        scheduler=_scheduler_name(plan),
        submitted_at=now,
        updated_at=now,
        state="submitting" if plan.pipeline is None else "waiting",
    )


def _write_config(run: Run, plan: Plan, lock: dict[str, Any]) -> None:
    head = "# The whole run, resolved. `fvlaunch submit` of this file repeats it.\n"
    value = {"recipe": plan.recipe, "cluster": plan.cluster, "lock": lock}
    publish_text(run.config_file, head + dump(value))


def resubmit(run: Run, plan: Plan, *, assume_dead: str | None = None) -> Run:
    """A new job for a run whose last one is over."""
    renew(run, plan, assume_dead=assume_dead)
    try:
        start(run, plan)
    except FvlaunchError as error:
        if not isinstance(error, SchedulerUnreachable):
            run.update(state="stopped", reason=f"resume failed: {error.message}", job_id=None)
        raise
    return run


def renew(run: Run, plan: Plan, *, assume_dead: str | None = None, state: str = "submitting") -> None:
    """The next generation of a run whose last job is over, with fresh budgets, and no job yet.

    Two shells may try at once: the one that changes the generation first wins, the other is told who.
    """
    before = run.record()
    _check_is_over(run, before, assume_dead)
    scheduler = _scheduler_name(plan)  # may take seconds: not under the lock
    with run.locked():
        record = run.record()
        if (record.generation, record.token) != (before.generation, before.token):
            raise RunConflict(f"{run.name} was just resumed by another command", hint=f"fvlaunch status {run.name}")
        record = replace(
            record, generation=record.generation + 1, token=jobs.new_token(), state=state, reason="",
            job_id=None, host=None, scheduler=scheduler, cluster=plan.cluster_name, executor=executor_of(plan),
            ranks=plan.ranks, nodes=plan.nodes, max_steps=plan.max_steps, submitted_at=time.time(),
        )  # fmt: skip
        run.write_intent("run", record.generation)
        run.write_record(record)
    publish_text(run.path / f"run.{before.generation:04d}.yaml", run.config_file.read_text(encoding="utf-8"))  # what it ran by until now
    _write_config(run, plan, lockfile.renewed(run, plan, before.generation))


def _check_is_over(run: Run, record: Record, assume_dead: str | None) -> None:
    if record.state == "submitting" and record.executor == "slurm":
        found = adopt(run, record)
        if found:
            raise RunConflict(f"{run.name} has a job after all: {found}; adopted", hint=f"fvlaunch status {run.name}")
        return
    if record.state in FINAL_STATES or record.job_id is None:
        alive = jobs.liveness(record) is jobs.Liveness.ALIVE and record.state != "finished"
        if alive:
            raise RunConflict(f"{run.name} is {record.state}, and its job {record.job_id} is just ending", hint="try again in a moment")
        return
    if assume_dead is not None and assume_dead == record.job_id:
        run.event("assumed_dead", job_id=assume_dead)
        return
    found_alive = jobs.liveness(record)
    if found_alive is jobs.Liveness.ALIVE:
        raise RunConflict(f"{run.name} is not over: job {record.job_id} owns it", hint=f"fvlaunch stop {run.name}, or attach to it")
    if found_alive is jobs.Liveness.UNKNOWN:
        raise RunConflict(
            f"nobody can say whether job {record.job_id} of {run.name} still runs",
            hint=f"if you know that it is gone: --assume-dead {record.job_id}",
        )


def start(run: Run, plan: Plan | None = None) -> None:
    """Submit the job that run.json's token announces, and record its id. A local job needs no plan."""
    with run.locked():
        record = run.record()
        if record.state == "waiting":
            run.write_record(replace(record, state="submitting"))
    folder = _job_folder(run)
    if plan is None or plan.executor == "local":
        _start_local(run, folder)
    else:
        _start_slurm(run, plan, folder)
    run.event("submitted", job_id=run.record().job_id, generation=run.record().generation)


def _job_folder(run: Run) -> Path:
    """Of the submission that run.json announces."""
    folder = run.job / run.record().token
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _write_job(run: Run, plan: Plan, folder: Path) -> Path:
    """The batch script, and the pickle that it finds by its own id."""
    with without("asyncio"):  # a twentieth of what submitting takes, for job objects that one may await; none is made here
        from submitit.core.utils import DelayedSubmission

    from .agent.main import run_agent

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
        setup=setup_block(plan, folder, snapshot.code_folder(run)),
        teardown=teardown_block(plan, folder, token),
        srun_args=["--kill-on-bad-exit=0", *plan.srun_args],
        additional_parameters=sbatch_options(plan, folder, token),
    )
    return executor


def _start_slurm(run: Run, plan: Plan, folder: Path) -> None:
    record, script = run.record(), _write_job(run, plan, folder)
    try:
        job_id, interrupted = _sbatch(script)
        _record_job(run, job_id)
    except (FvlaunchError, KeyboardInterrupt) as error:
        adopted = adopt(run, record)
        if not adopted:
            raise
        job_id, interrupted = adopted, isinstance(error, KeyboardInterrupt)
    if interrupted:
        raise Interrupted(f"interrupted, but {run.name} has been submitted: job {job_id}", hint=f"fvlaunch cancel {run.name}")


def _scheduler_name(plan: Plan) -> str | None:
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


def adopt(run: Run, record: Record) -> str | None:
    """The job with this submission's token, recorded as the run's, if the scheduler knows one."""
    for wait_s in (0.0, 0.5, 1.5):
        time.sleep(wait_s)
        found = [job_id for job_id in slurm.find_by_token(record.token) if job_id not in record.job_ids]
        if found:
            _record_job(run, found[0])
            run.event("adopted", job_id=found[0])
            return found[0]
    return None


def _record_job(run: Run, job_id: str) -> None:
    with run.locked():
        record = run.record()
        job_ids = record.job_ids if job_id in record.job_ids else (*record.job_ids, job_id)
        state = "submitted" if record.state == "submitting" else record.state  # a fast job may have ended already
        run.write_record(replace(record, job_id=job_id, job_ids=job_ids, state=state))


def _start_local(run: Run, folder: Path) -> None:
    """Start a child of its own session, which starts the job: neither a closed terminal nor $(…) may hold or end it."""
    log = folder / "start.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "fvlaunch.submit", str(run.path)],
            env={**os.environ, "PYTHONPATH": _python_path(snapshot.source_root())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = child.wait(timeout=LOCAL_START_WAIT_S)
    except subprocess.TimeoutExpired:
        raise FvlaunchError(f"the local job did not start in {LOCAL_START_WAIT_S:.0f} s", hint=f"see {log}") from None
    if code != 0 or run.record().job_id is None:
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        raise FvlaunchError(f"the local job did not start:\n{tail}")


def _python_path(code: Path) -> str:
    return os.pathsep.join(part for part in (str(code), os.environ.get("PYTHONPATH", "")) if part)


def _local_child(run: Run) -> None:
    """In the detached child: hand the agent to submitit's local executor and record who it is."""
    from submitit import LocalExecutor

    from .agent.main import run_agent

    config = load(run)
    os.umask(0o077)
    os.environ.update(config.cluster.env)
    os.environ["PYTHONPATH"] = _python_path(snapshot.code_folder(run))
    executor = LocalExecutor(folder=run.job / run.record().token, python=_with_setup(config.cluster))
    executor.update_parameters(timeout_min=LOCAL_LIMIT_MIN, gpus_per_node=jobs.num_local_gpus(), stderr_to_stdout=True)
    pid = int(executor.submit(run_agent, str(run.path)).job_id)
    job_id = jobs.local_job_id(pid)
    if job_id is None:
        raise FvlaunchError(f"the job's controller, process {pid}, ended at once")
    run.update(host=jobs.host_identity())
    _record_job(run, job_id)


def _with_setup(cluster: Cluster) -> str:
    """The interpreter, after the profile's shell lines. Not submitit's own `setup`: with it the job's id would be that of a shell."""
    python = cluster.python or sys.executable
    setup = cluster.setup.strip()
    return shlex.join(["sh", "-c", f'set -e\n{setup}\nexec "$0" "$@"', python]) if setup else shlex.quote(python)


if __name__ == "__main__":
    _local_child(Run(Path(sys.argv[1])))
    found = read_json(Path(sys.argv[1]) / "run.json")
    sys.stderr.write(f"started {found['job_id'] if found else ''}\n")
