"""Owns what the launcher and the agents may ask where jobs are processes of this machine. Must not know what a job does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import FvlaunchError, SchedulerUnreachable
from ..base import Allocation, JobObservation, JobPhase, JobRef, JobSpec, Liveness, NoticeCause, SignalReason, Submission, ToolSpec
from ..local_process import host_identity, local_job_id, local_pid
from ..python_processes import after_setup


class Local:
    name, title = "local", "this machine"
    has_queue = can_requeue = takes_sbatch_options = chains_jobs = False
    runs_here = True
    poll_s = 0.5

    def unusable(self) -> str | None:
        return None

    def identity(self) -> str | None:
        return None

    def check_answers(self) -> None:
        return None

    def host(self) -> str | None:
        return host_identity()

    def site_facts(self) -> dict[str, str]:
        return {}

    def batch_script(self, job: JobSpec) -> str | None:
        return None

    def prepare(self, job: JobSpec) -> Path:
        raise FvlaunchError("a local job has no batch script", hint="choose a Slurm cluster with --cluster")

    def submit(self, job: JobSpec) -> Submission:
        from .start import start

        return Submission(start(job))

    def find(self, token: str, *, living: bool = False) -> list[str]:
        return []  # whoever starts a job learns its id, or that there is none

    def observe(self, jobs: Sequence[JobRef]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
        return [self._observe(job) for job in jobs], None

    def _observe(self, job: JobRef) -> JobObservation:
        answer = self.liveness(job)
        if answer is Liveness.UNKNOWN:
            return JobObservation(None, words=f"it runs on {(job.host or '').split('/')[0]}; ask there")
        return JobObservation(alive=answer is Liveness.ALIVE)

    def liveness(self, job: JobRef) -> Liveness:
        if job.job_id is None:
            return Liveness.OVER
        if job.host is not None and job.host.split("/")[0] != host_identity().split("/")[0]:
            return Liveness.UNKNOWN  # another machine's process
        same_boot = job.host in (None, host_identity())
        return Liveness.ALIVE if same_boot and local_pid(job.job_id) is not None else Liveness.OVER

    def phase(self, job: JobRef) -> JobPhase:
        return JobPhase.OVER if self.liveness(job) is Liveness.OVER else JobPhase.STARTED

    def cancel(self, job_id: str) -> None:
        pid = local_pid(job_id)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # the controller passes it on to the agent, which reads the intent

    def run_tool(self, tool: ToolSpec) -> int:
        argv = after_setup(tool.setup, tool.argv)
        try:
            return subprocess.run(argv, env={**os.environ, **(tool.environment or {}), **(tool.secrets or {})}, check=False).returncode
        except OSError as error:
            hint = "`python` of the cluster profile names the interpreter"
            raise FvlaunchError(f"cannot start {argv[0]}: {error.strerror}", hint=hint) from None

    def allocation(self) -> Allocation | None:
        if os.environ.get("SUBMITIT_EXECUTOR") != "local":
            return None
        from submitit import JobEnvironment

        job_id = local_job_id(int(JobEnvironment().job_id)) or ""
        return Allocation(job_id, 0, 0, (socket.gethostname(),), Path(os.environ["SUBMITIT_FOLDER"]).name, None)

    def holds(self, job_id: str) -> bool:
        return local_pid(job_id) is not None

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


SCHEDULER = Local()
