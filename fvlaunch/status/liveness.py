"""Owns what can be said of the job that owns a run: whether it is still there, on this machine or on the cluster.

Must not change anything. "Nobody can say" is an answer of its own, never "gone".
"""

from __future__ import annotations

import time
from enum import Enum

from ..errors import FvlaunchError
from ..runs.directory import Record
from ..schedulers.local_process import host_identity, local_pid
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm.states import is_over


class Liveness(str, Enum):
    ALIVE = "alive"
    OVER = "over"
    UNKNOWN = "unknown"


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
