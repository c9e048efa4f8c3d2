"""Owns Slurm as one of the schedulers: each question of the protocol put to the modules beside this one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import FvlaunchError, SchedulerUnreachable
from ..base import Allocation, JobObservation, JobPhase, JobRef, JobSpec, Liveness, NoticeCause, SignalReason, Submission, ToolSpec
from . import commands, observation, site
from .requeue import requeue as patient_requeue


class Slurm:
    name, title = "slurm", "Slurm"
    has_queue = can_requeue = takes_sbatch_options = chains_jobs = True
    runs_here = False
    poll_s = 10.0

    def unusable(self) -> str | None:
        return None if commands.available() else "sbatch is not on PATH"

    def identity(self) -> str | None:
        try:
            return site.identity().name
        except FvlaunchError:
            return None

    def check_answers(self) -> None:
        site.check_answers()

    def host(self) -> str | None:
        return None

    def site_facts(self) -> dict[str, str]:
        try:
            version = site.identity().version
        except FvlaunchError:
            version = None
        return {"slurm": ".".join(map(str, version))} if version else {}

    def batch_script(self, job: JobSpec) -> str | None:
        from .batch_script import batch_script  # here and below: submitit and jinja2 take time to load, and a status needs neither

        return batch_script(job)

    def prepare(self, job: JobSpec) -> Path:
        from .submission import write_job

        return write_job(job)

    def submit(self, job: JobSpec) -> Submission:
        from .submission import sbatch, write_job

        return sbatch(write_job(job))

    def find(self, token: str, *, living: bool = False) -> list[str]:
        return observation.living(token) if living else commands.find_by_token(token)

    def observe(self, jobs: Sequence[JobRef]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
        return observation.observe(jobs)

    def liveness(self, job: JobRef) -> Liveness:
        return observation.liveness(job)

    def phase(self, job: JobRef) -> JobPhase:
        return observation.phase(job)

    def cancel(self, job_id: str) -> None:
        try:
            commands.cancel(job_id)
        except FvlaunchError as error:
            raise type(error)(f"the job {job_id} could not be cancelled: {error.message}", hint=f"scancel {job_id}") from None

    def run_tool(self, tool: ToolSpec) -> int:
        from .tool_job import run_tool

        return run_tool(tool)

    def allocation(self) -> Allocation | None:
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            return None
        from submitit import JobEnvironment

        job = JobEnvironment()
        start, end = (float(text) if (text := os.environ.get(name, "")).isdigit() else None for name in _TIMES)
        return Allocation(
            job_id=str(job.job_id),
            restart_count=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            node=job.node,
            hosts=tuple(job.hostnames),
            token=Path(os.environ["SUBMITIT_FOLDER"]).name,
            end_time=end,
            length_s=None if start is None or end is None else end - start,
            gpus=int(gpus) if (gpus := os.environ.get("SLURM_GPUS_ON_NODE", "")).isdigit() else None,
        )

    def holds(self, job_id: str) -> bool:
        return True

    def can_ask(self) -> bool:
        return commands.can_ask()

    def requeue(self, job_id: str) -> bool:
        return patient_requeue(job_id)

    def exclude_node(self, job_id: str, node: str, num_nodes: int) -> bool:
        if not commands.can_spare(job_id, node, num_nodes):
            return False
        commands.exclude_node(job_id, node)
        return True

    def left_s(self, job_id: str) -> float | None:
        return commands.left_s(job_id)

    def why_signalled(self, job: Allocation) -> SignalReason:
        try:
            details = commands.job(job.job_id)
        except FvlaunchError:
            return SignalReason(NoticeCause.UNKNOWN)
        cause = commands.why_signalled(details, job.restart_count)
        return SignalReason(cause, commands.until_end(details) if details and cause is NoticeCause.PREEMPTION else None)


_TIMES = ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME")
SCHEDULER = Slurm()
