"""Owns what is said of a run: its records and the scheduler's answer merged into one truthful state.

`judge` is pure. Silence is unknown, never gone; the last known is told with its age.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import jobs, slurm
from .attempts import WORKING, Attempt, read_attempts
from .errors import FvlaunchError, SchedulerUnreachable
from .files import read_json
from .runs import FINAL_STATES, Intent, Record, Run

STATES = ("submitting", "queued", "running", "requeued", "stopped", "finished", "failed", "cancelled", "lost")
_PATIENCE_S = 3.5
"""For all that is asked of the scheduler for one status: without an answer, the last known is told within 5 s."""


@dataclass(frozen=True)
class RunStatus:
    run: str
    recipe: str
    cluster: str
    state: str
    reason: str
    step: int
    max_steps: int
    job_id: str | None
    job_ids: tuple[str, ...]
    attempts: int
    last_checkpoint_step: int | None
    updated_at: float
    path: str
    phase: str | None = None
    loss: float | None = None
    step_s: float | None = None
    eta_s: float | None = None
    allocation_left_s: float | None = None
    stale_s: float | None = None
    """The scheduler could not be asked: seconds since this was last known."""

    @property
    def is_over(self) -> bool:
        return self.state in (*FINAL_STATES, "lost")

    def dump(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """What the scheduler, or the process table, says of a run's job."""

    alive: bool | None
    """None: nobody can say."""
    pending: bool = False
    words: str = ""
    """Its state and reason, explained."""
    ended: str = ""
    """The scheduler's word for an end: COMPLETED, CANCELLED, TIMEOUT…"""


def of(runs: Sequence[Run]) -> tuple[list[RunStatus], SchedulerUnreachable | None]:
    """The status of runs, with one squeue call for all; the error, if the scheduler could not be asked."""
    records = [run.record() for run in runs]
    open_ids = [r.job_id for r in records if r.executor == "slurm" and r.job_id and r.state not in FINAL_STATES]
    queue: dict[str, slurm.QueuedJob] = {}
    unreachable: SchedulerUnreachable | None = None
    deadline = time.monotonic() + _PATIENCE_S
    if open_ids:
        try:
            queue = slurm.queue(open_ids, timeout_s=_PATIENCE_S)
        except SchedulerUnreachable as error:
            unreachable = error
    seen = [_seen(record, queue, unreachable, deadline) for record in records]
    return [judge_run(run, _settled(run, r, s), s) for run, r, s in zip(runs, records, seen, strict=True)], unreachable


def _settled(run: Run, record: Record, seen: Seen) -> Record:
    """A job that is gone may have ended while it was asked about: its agent's last word is in the record by now."""
    return run.record() if seen.alive is False and record.job_id is not None and record.state not in FINAL_STATES else record


def _seen(record: Record, queue: dict[str, slurm.QueuedJob], unreachable: SchedulerUnreachable | None, deadline: float) -> Seen:
    if record.state in FINAL_STATES or record.job_id is None:
        return Seen(alive=False)
    if record.executor == "local":
        answer = jobs.liveness(record)
        here = "" if answer is not jobs.Liveness.UNKNOWN else f"it runs on {(record.host or '').split('/')[0]}; ask there"
        return Seen(alive={jobs.Liveness.ALIVE: True, jobs.Liveness.OVER: False, jobs.Liveness.UNKNOWN: None}[answer], words=here)
    if unreachable is not None:
        return Seen(alive=None, words="the scheduler cannot be reached")
    job = queue.get(record.job_id)
    if job is not None and not jobs.is_over(job.state):
        return Seen(alive=True, pending=job.state == "PENDING", words=slurm.explain(job.state, job.reason, job_id=record.job_id))
    try:
        details = slurm.job(record.job_id, timeout_s=max(0.1, deadline - time.monotonic()))
    except FvlaunchError:
        return Seen(alive=None, words="the scheduler cannot be reached")
    if details is not None and not jobs.is_over(details.state):
        return Seen(
            alive=True,
            pending=details.state == "PENDING",
            words=slurm.explain(details.state, details.reason, details.exit_code, record.job_id),
        )
    return Seen(alive=False, ended=details.state if details else "")


def judge_run(run: Run, record: Record, seen: Seen) -> RunStatus:
    """Read what the run's files say and judge."""
    attempts = read_attempts(run)
    beat = read_json(run.heartbeat_file) or {}
    line = last_metrics(run.metrics_file)
    state, reason = judge(record, attempts, seen, run.intent())
    step = int(line.get("step", 0)) or _counted(beat, attempts)
    max_steps = record.max_steps or max(step, int(beat.get("max_steps", 0)))
    step_s = beat.get("median_step_s") or line.get("step_s")
    running = state == "running"
    updated = max(record.updated_at, float(beat.get("time", 0)))
    return RunStatus(
        run=run.name,
        recipe=record.recipe,
        cluster=record.cluster,
        state=state,
        reason=reason,
        step=step,
        max_steps=max_steps,
        job_id=record.job_id,
        job_ids=record.job_ids,
        attempts=len(attempts),
        last_checkpoint_step=run.last_checkpoint_step(),
        updated_at=updated,
        path=str(run.path),
        phase=beat.get("phase") if running else None,
        loss=line.get("loss"),
        step_s=step_s,
        eta_s=(max_steps - step) * step_s if running and step_s else None,
        allocation_left_s=beat.get("allocation_left_s") if running else None,
        stale_s=time.time() - updated if seen.alive is None and state not in FINAL_STATES else None,
    )


def _counted(beat: dict[str, Any], attempts: Sequence[Attempt]) -> int:
    """How far a job without metrics is: what the rank that is least far on has done."""
    now = int(beat.get("count", 0)) if beat.get("phase") in WORKING and beat.get("phase") not in ("warming", "stepping") else 0
    return max([now, *(attempt.step_to or 0 for attempt in attempts)])


def judge(record: Record, attempts: Sequence[Attempt], seen: Seen, intent: Intent | None = None) -> tuple[str, str]:
    """(state, reason) of a run. Pure."""
    if record.state in FINAL_STATES:
        return record.state, record.reason
    if record.state == "waiting":
        return "queued", "waits for the stage before it"
    if record.job_id is None:
        return "submitting", "not known yet whether the scheduler took it; fvlaunch resume adopts its job or submits again"
    mine = [a for a in attempts if a.generation == record.generation]
    if seen.alive is None:
        return ("running" if mine else "queued"), seen.words
    if seen.alive:
        if seen.pending:
            return ("requeued" if mine else "queued"), _waiting(mine, seen)
        return "running", seen.words
    return _gone(record, seen, intent)


def _waiting(attempts: Sequence[Attempt], seen: Seen) -> str:
    cause = f"after {attempts[-1].cause.value.replace('_', ' ')}: " if attempts and attempts[-1].cause.value != "running" else ""
    return cause + seen.words


def _gone(record: Record, seen: Seen, intent: Intent | None) -> tuple[str, str]:
    """The job is over, but no agent of it said how the run ended."""
    again = f"fvlaunch resume {record.name} goes on from the last checkpoint"
    word = seen.ended.split(" ")[0]
    if word == "COMPLETED":  # a job exits 0 only when its run is finished; the record is late
        return "finished", ""
    if word == "CANCELLED":
        return "cancelled", "cancelled through the scheduler"
    if word == "TIMEOUT":
        return "stopped", f"the time limit ended it before it could be requeued; {again}"
    if word in ("FAILED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"):
        return "failed", f"the job ended as {word} before its agent could say why; {again}"
    if intent and intent.want != "run" and intent.generation == record.generation:  # its agent had not begun to listen
        return ("stopped" if intent.want == "stop" else "cancelled"), f"fvlaunch {intent.want}; its job ended at once; {again}"
    return "lost", f"its job is gone without a word; {again}"


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics file; empty where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}
