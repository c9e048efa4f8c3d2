"""A third scheduler, as small as one can be: a job is a JSON file in the folder $TOY_QUEUE, and runner.py runs what lies there.

The tests copy this folder to fvlaunch/schedulers/toy of a checkout; nothing else there knows of it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvlaunch.errors import FvlaunchError, SchedulerUnreachable
from fvlaunch.files import publish_json
from fvlaunch.schedulers.base import (
    Allocation,
    JobObservation,
    JobPhase,
    JobRef,
    JobSpec,
    Liveness,
    NoticeCause,
    SignalReason,
    Submission,
    ToolSpec,
)
from fvlaunch.schedulers.python_processes import python_path

PHASES = {"waiting": JobPhase.WAITING, "running": JobPhase.STARTED}


def queue() -> dict[str, dict[str, Any]]:
    folder = os.environ.get("TOY_QUEUE")
    if folder is None:
        raise SchedulerUnreachable("TOY_QUEUE is not set")
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}


def write(job_id: str, job: dict[str, Any]) -> None:
    publish_json(Path(os.environ["TOY_QUEUE"]) / f"{job_id}.json", job)


class Toy:
    name, title = "toy", "toy"
    has_queue = runs_here = True
    can_requeue = takes_sbatch_options = chains_jobs = False
    poll_s = 0.2

    def unusable(self) -> str | None:
        return None if "TOY_QUEUE" in os.environ else "TOY_QUEUE is not set"

    def identity(self) -> str | None:
        return os.environ.get("TOY_QUEUE")

    def check_answers(self) -> None:
        queue()

    def host(self) -> str | None:
        return None

    def site_facts(self) -> dict[str, str]:
        return {}

    def batch_script(self, job: JobSpec) -> str | None:
        return None

    def prepare(self, job: JobSpec) -> Path:
        raise FvlaunchError("a toy job has no batch script")

    def submit(self, job: JobSpec) -> Submission:
        job_id = f"toy-{secrets.token_hex(3)}"
        program = f"from {job.function.__module__} import {job.function.__qualname__} as run; run({job.argument!r})"
        environment = {"PYTHONPATH": python_path(job.code), "TOY_JOB": job_id, "TOY_TOKEN": job.token, **(job.environment or {})}
        argv = [job.python or sys.executable, "-c", program]
        write(job_id, {"token": job.token, "state": "waiting", "argv": argv, "env": environment, "folder": str(job.folder)})
        return Submission(job_id)

    def find(self, token: str, *, living: bool = False) -> list[str]:
        return [key for key, job in queue().items() if job["token"] == token and (job["state"] in PHASES or not living)]

    def observe(self, jobs: Sequence[JobRef]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
        try:
            known = queue()
        except SchedulerUnreachable as error:
            return [JobObservation(None, words=error.message) for _ in jobs], error
        return [self._observe(known.get(job.job_id or "")) for job in jobs], None

    def _observe(self, job: dict[str, Any] | None) -> JobObservation:
        state = job["state"] if job else "gone"
        return JobObservation(alive=state in PHASES, pending=state == "waiting", words=f"is {state}", absent=job is None)

    def liveness(self, job: JobRef) -> Liveness:
        try:
            return Liveness.OVER if self.phase(job) is JobPhase.OVER else Liveness.ALIVE
        except SchedulerUnreachable:
            return Liveness.UNKNOWN

    def phase(self, job: JobRef) -> JobPhase:
        found = queue().get(job.job_id or "")
        return PHASES.get(found["state"], JobPhase.OVER) if found else JobPhase.OVER

    def cancel(self, job_id: str) -> None:
        job = queue()[job_id]
        if job["state"] == "waiting":
            write(job_id, {**job, "state": "cancelled"})
        elif job["state"] == "running":
            os.kill(job["pid"], signal.SIGTERM)

    def run_tool(self, tool: ToolSpec) -> int:
        raise FvlaunchError("toys run no tools")

    def allocation(self) -> Allocation | None:
        job_id = os.environ.get("TOY_JOB")
        return Allocation(job_id, 0, 0, (socket.gethostname(),), os.environ["TOY_TOKEN"], None) if job_id else None

    def holds(self, job_id: str) -> bool:
        return True

    def can_ask(self) -> bool:
        return True

    def requeue(self, job_id: str) -> bool:
        return False

    def exclude_node(self, job_id: str, node: str, num_nodes: int) -> bool:
        return False

    def left_s(self, job_id: str) -> float | None:
        return None

    def why_signalled(self, job: Allocation) -> SignalReason:
        return SignalReason(NoticeCause.UNKNOWN)


SCHEDULER = Toy()
