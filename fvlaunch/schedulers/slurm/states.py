"""Owns what Slurm's states mean: why a job was signalled, and each state in words. Pure: it asks nobody.

Guards against the two costly misreadings: a cancelled job that requeues itself lives again, and a preempted one that
just ends never comes back. The signal is the same in both; what Slurm says about the job at that moment is not.
"""

from __future__ import annotations

import time

from ..base import NoticeCause
from . import waiting_reasons
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
    "RESIZING": "is changing its size",
    "SIGNALING": "is being signalled",
    "STAGE_OUT": "is writing its files back",
}


def explain(state: str, reason: str = "", exit_code: str = "", job_id: str = "JOBID", priority: int | None = None) -> str:
    """Return a state in words, with the command that helps where there is one: "job 12 is held by its owner; `scontrol release 12`".

    Slurm holds a job by giving it priority 0, whatever the reason says.
    """
    state, _, said_by = state.partition(" ")
    text = f"job {job_id} " + _words(state, "" if reason == "None" else reason, exit_code, priority)
    return text.format(job=job_id) + (f" ({said_by})" if said_by else "")


def _words(state: str, reason: str, exit_code: str, priority: int | None) -> str:
    if is_waiting(state):
        return waiting_reasons.words(reason, state, priority)
    if state == "FAILED":
        return _failed(exit_code, reason)
    if state in _ENDED:
        return _ENDED[state]
    known = _GOING.get(state)
    return known or ("is not known to Slurm" if not state else f"is {_plain(state)}")


def _failed(exit_code: str, reason: str) -> str:
    if reason == "BadConstraints":
        return "never ran: no node has what it asks for (BadConstraints); `scontrol show job {job}` shows what, `sinfo` what there is"
    code, _, number = exit_code.partition(":")
    if number == "53" or (reason == "JobLaunchFailure" and number in ("", "0")):  # it is the reason of a killed batch script, too
        return "could not start (0:53): its output file could not be written, so there is no log; `scontrol show job {job}` shows the path"
    if number not in ("", "0"):
        return f"was ended by signal {number}"
    return f"failed with exit code {code}" if code else "failed"


def _plain(text: str) -> str:
    return text.replace("{", "(").replace("}", ")")


_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
}  # fmt: skip


def is_waiting(state: str) -> bool:
    """Return whether a job in this state waits for its start, for the first time or again."""
    return state in ("PENDING", *waiting_reasons.HELD_STATES)


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
