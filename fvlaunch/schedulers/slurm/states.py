"""Owns what Slurm's states mean: why a job was signalled, and each state in words. Pure: it asks nobody.

Guards against the two costly misreadings: a cancelled job that requeues itself lives again, and a preempted one that
just ends never comes back. The signal is the same in both; what Slurm says about the job at that moment is not.
"""

from __future__ import annotations

import time

from ..base import NoticeCause
from .parsing import JobDetails


def why_signalled(details: JobDetails | None, my_restarts: int) -> NoticeCause:
    """Read inside the signal's handler. `my_restarts`: SLURM_RESTART_COUNT of this life, 0 where it is not set."""
    if details is None:
        return NoticeCause.UNKNOWN
    if details.restarts > my_restarts:
        return NoticeCause.REQUEUED
    if details.state == "RUNNING":
        return NoticeCause.PREEMPTION if _preempted_in_this_life(details) else NoticeCause.NOTICE
    if details.state == "PREEMPTED":
        return NoticeCause.PREEMPTION
    if details.reason == "TimeLimit" or details.state in ("TIMEOUT", "DEADLINE"):
        return NoticeCause.TIME_LIMIT
    if details.state == "COMPLETING" and not details.reason and _preempted_in_this_life(details):
        return NoticeCause.PREEMPTION  # at a site that cancels what it preempts; where it requeues, the restarts have grown by now
    if details.state == "CANCELLED" or (details.state == "COMPLETING" and not details.reason):
        return NoticeCause.CANCELLED  # whatever the exit code: 0:15 once the batch shell's end is known, 0:0 before, 143:0 with a trap
    return NoticeCause.UNKNOWN


def _preempted_in_this_life(details: JobDetails) -> bool:
    return details.preempted_at is not None and (details.start_at is None or details.preempted_at >= details.start_at)


_WAITING = {
    "BeginTime": "waits for its begin time; after a requeue that is about two minutes on a usual site",
    "Resources": "is next in line and waits for nodes to become free",
    "Priority": "waits behind jobs of higher priority; `sprio -j {job}` shows the parts, `squeue --start -j {job}` a guessed start",
    "Dependency": "waits for the job it depends on to end",
    "DependencyNeverSatisfied": "waits for ever: the job it depends on failed; `scancel {job}`",
    "JobHeldUser": "is held by its owner; `scontrol release {job}`",
    "JobHeldAdmin": "is held by an administrator; ask them to release it",
    "JobHoldMaxRequeue": "was requeued too often (MaxBatchRequeue), so Slurm holds it; `scontrol release {job}`",
    "launch_failed_requeued_held": "could not be launched on its node and is held; `scontrol release {job}`",
    "ReqNodeNotAvail": "waits for a node that is down, drained or reserved; `sinfo -R` says why, `scontrol show job {job}` which",
    "Reservation": "waits for its reservation to begin",
    "PartitionDown": "waits: its partition is down; `sinfo` shows it",
    "PartitionInactive": "waits: its partition takes no jobs at present; `sinfo` shows it",
    "PartitionNodeLimit": "asks for more nodes than its partition allows; `scontrol show partition` shows the limit",
    "PartitionTimeLimit": "asks for more time than its partition allows; `scontrol update jobid={job} TimeLimit=...` shortens it",
    "BadConstraints": "asks for what no node has; `scontrol show job {job}` shows it",
    "Licenses": "waits for a licence",
    "InvalidAccount": "has an account that is not valid here; `sacctmgr show associations user=$USER` lists yours",
    "InvalidQOS": "has a QOS that is not valid here; `sacctmgr show associations user=$USER` lists yours",
}
_ENDED = {
    "COMPLETED": "ended by itself with exit code 0",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit",
    "PREEMPTED": "was preempted, and ended by that instead of being requeued",
    "NODE_FAIL": "lost a node and was not requeued",
    "OUT_OF_MEMORY": "used more memory than it had asked for; raise mem in the cluster file",
    "BOOT_FAIL": "ended because a node did not boot",
    "DEADLINE": "ended at its deadline",
    "REVOKED": "was moved to another cluster",
}
_GOING = {
    "RUNNING": "runs",
    "CONFIGURING": "has its nodes, which are being made ready",
    "COMPLETING": "is ending: its processes are being stopped; if that lasts for minutes, a node hangs: `scontrol show job {job}`",
    "SUSPENDED": "is suspended by the scheduler and goes on by itself",
    "STOPPED": "is stopped by a signal; `scancel --signal=CONT {job}`",
    "REQUEUED": "is being requeued",
    "REQUEUE_HOLD": "was requeued and is held; `scontrol release {job}`",
    "SPECIAL_EXIT": "was requeued and is held, marked for attention; `scontrol release {job}`",
    "RESIZING": "is changing its size",
    "SIGNALING": "is being signalled",
    "STAGE_OUT": "is writing its files back",
}


def explain(state: str, reason: str = "", exit_code: str = "", job_id: str = "JOBID") -> str:
    """Return a state in words, with the command that helps where there is one: "job 12 is held by its owner; `scontrol release 12`"."""
    state, _, said_by = state.partition(" ")
    text = f"job {job_id} " + _words(state, "" if reason == "None" else reason, exit_code)
    return text.format(job=job_id) + (f" ({said_by})" if said_by else "")


def _words(state: str, reason: str, exit_code: str) -> str:
    if state == "PENDING":
        return _waiting(reason)
    if state == "FAILED":
        return _failed(exit_code, reason)
    if state in _ENDED:
        return _ENDED[state]
    known = _GOING.get(state)
    return known or ("is not known to Slurm" if not state else f"is {_plain(state)}")


def _waiting(reason: str) -> str:
    key = reason.split(",")[0].split("(")[0].strip()  # "ReqNodeNotAvail, UnavailableNodes:n7"
    if key in _WAITING:
        return _WAITING[key]
    if "DOWN" in reason or "DRAINED" in reason:
        return "waits for nodes that are down, drained or reserved; `sinfo -R` says why"
    if key.startswith(("QOS", "Assoc", "Max")):
        return f"waits: a limit of your account or QOS is reached ({_plain(key)}); `sacctmgr show associations user=$USER` shows it"
    return f"waits ({_plain(reason)})" if key not in ("", "None") else "waits to be looked at by the scheduler"


def _failed(exit_code: str, reason: str) -> str:
    code, _, number = exit_code.partition(":")
    if exit_code == "0:53" or reason == "JobLaunchFailure":
        return "could not start (0:53): its output file could not be written, so there is no log; `scontrol show job {job}` shows the path"
    if number not in ("", "0"):
        return f"was ended by signal {number}"
    return f"failed with exit code {code}" if code else "failed"


def _plain(text: str) -> str:
    return text.replace("{", "(").replace("}", ")")


_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
}  # fmt: skip


def is_over(state: str) -> bool:
    """Return whether a job in this state of Slurm's has ended for good. PREEMPTED is not among them: `has_ended` can tell."""
    return state.split(" ")[0].split("+")[0] in _OVER


_PREEMPTED_S = 10.0


def has_ended(state: str, end_at: float | None) -> bool:
    """Return whether a job in this state, that ended or is to end at `end_at` (seconds since 1970), will not go on by itself.

    PREEMPTED is final only where a site cancels what it preempts: a job that is requeued is in that state for a moment at most. One
    without a time may be such a moment, so it is not taken for ended.
    """
    if state.split(" ")[0].split("+")[0] == "PREEMPTED":
        return end_at is not None and end_at < time.time() - _PREEMPTED_S
    return is_over(state)
