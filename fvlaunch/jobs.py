"""Owns what can be said of the job that owns a run: its name, and whether it is still there, here or on the cluster.

Must not change anything. "Nobody can say" is an answer of its own, never "gone".
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import time
from enum import Enum
from pathlib import Path

from . import slurm
from .agent.placement import host_identity, local_job_id, process_start_time
from .errors import FvlaunchError
from .runs import Record

__all__ = [
    "Liveness",
    "check_job_path",
    "host_identity",
    "is_over",
    "liveness",
    "local_job_id",
    "local_pid",
    "new_token",
    "num_local_gpus",
    "other_job",
]


_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
}  # fmt: skip


class Liveness(str, Enum):
    ALIVE = "alive"
    OVER = "over"
    UNKNOWN = "unknown"


def new_token() -> str:
    return secrets.token_hex(8)


def check_job_path(path: Path) -> None:
    """Refuse a run directory that a job could not use: Slurm expands %, a line end would run as shell code, PYTHONPATH parts at a colon."""
    if re.search(r"[%:\x00-\x1f\x7f]", str(path.absolute())):
        raise FvlaunchError(f"the run directory {str(path)!r} holds a %, a colon or a control character", hint="choose another --runs-dir")


def local_pid(job_id: str) -> int | None:
    """Pid of a local job's controller, if that very process is alive on this machine."""
    match = re.fullmatch(r"local-(\d+)-(\d+)", job_id)
    if match and process_start_time(int(match[1])) == int(match[2]):
        return int(match[1])
    return None


def is_over(state: str) -> bool:
    """Whether a job in this state of Slurm's has ended for good. PREEMPTED is not final where jobs are requeued."""
    return state.split(" ")[0].split("+")[0] in _OVER


def liveness(record: Record) -> Liveness:
    """Whether the job that owns a run is still there."""
    if record.job_id is None:
        return Liveness.OVER
    if record.executor == "local":
        if record.host is not None and record.host.split("/")[0] != host_identity().split("/")[0]:
            return Liveness.UNKNOWN  # another machine's process
        same_boot = record.host in (None, host_identity())
        return Liveness.ALIVE if same_boot and local_pid(record.job_id) is not None else Liveness.OVER
    try:
        if other_job(record) is not None:
            return Liveness.ALIVE
        details = slurm.job(record.job_id)
        known = (
            details is not None and record.token in details.comment + details.work_dir
        )  # ids come back, and other clusters have the same
        elsewhere = not known and record.scheduler is not None and slurm.cluster_name() != record.scheduler
    except FvlaunchError:
        return Liveness.UNKNOWN
    if elsewhere:
        return Liveness.UNKNOWN
    if details is None or not known:
        return Liveness.OVER  # slurmctld answers and has forgotten it: it forgets none that has not ended
    cut = details.state == "PREEMPTED" and (details.end_at or 0) < time.time() - 10  # final where a site cancels what it preempts
    return Liveness.OVER if cut or is_over(details.state) else Liveness.ALIVE


def other_job(record: Record) -> str | None:
    """A job of this submission besides the recorded one that is not over: one that nobody could record, or that goes on for it."""
    if record.executor != "slurm":
        return None
    mine = (job for job in slurm.queue().values() if job.job_id != record.job_id and record.token in job.comment + job.work_dir)
    return next((job.job_id for job in mine if not is_over(job.state)), None)


def num_local_gpus() -> int:
    """GPUs of this machine, as the driver lists them."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip()])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
