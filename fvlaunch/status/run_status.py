"""Owns what is said of a run: its records and the scheduler's answer merged into one truthful state.

`judge` is pure. Silence is unknown, never gone; what was last known is shown with its age.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, SchedulerUnreachable
from ..files import open_to_read, parse_json, read_json
from ..runs.attempts import WORKING, Attempt, Cause, read_attempts
from ..runs.directory import FINAL_STATES, Intent, Record, Run
from ..runs.events import read_heartbeat, whole_metrics
from ..runs.last_words import LastWords, last_words
from ..schedulers.base import JobObservation
from ..schedulers.registry import scheduler
from . import unwritten_records
from .cache import MANY, StatusCache
from .job_ends import gone, resume_hint
from .job_queries import ask
from .types import STATES, RunStatus, entries_of

__all__ = ["STATES", "JobObservation", "RunStatus", "judge", "judge_run", "last_metrics", "statuses_of"]

SILENT_S = 14 * 86400.0
"""A run of which nothing was heard for so long, and whose scheduler gives no answer here, is not waited for any more."""
NO_ANSWER = "no_answer"
"""The event of a stop or cancel that the scheduler did not answer."""
HEARD_S = 120.0
"""An agent says every ten seconds that it is there: one heard of so lately may be alive whatever else is silent."""


def statuses_of(runs: Sequence[Run]) -> tuple[list[RunStatus], SchedulerUnreachable | None]:
    """Return the status of each run, and the error if the scheduler could not be asked: one squeue and at most one sacct for all.

    A run whose record cannot be read is `broken`; that says nothing of the others.
    """
    first = [_first_record(run) for run in runs]
    records = [record for record in first if isinstance(record, Record)]
    answers, unreachable = ask(records)
    cache = StatusCache() if sum(r.state in FINAL_STATES for r in records) >= MANY else None
    seen = iter(answers)
    statuses = [
        _broken(run, record) if isinstance(record, FvlaunchError) else _one(run, record, next(seen), cache)
        for run, record in zip(runs, first, strict=True)
    ]
    if cache is not None:
        cache.save()
    return statuses, unreachable


def _first_record(run: Run) -> Record | FvlaunchError:
    try:
        return run.first_record()
    except FvlaunchError as error:
        return error


def _broken(run: Run, error: FvlaunchError) -> RunStatus:
    return RunStatus.broken(run.name, run.path, f"{error.message}; {error.hint}")


def _one(run: Run, listed: Record, seen: JobObservation, cache: StatusCache | None) -> RunStatus:
    try:
        record = _settled(run, listed, seen)
    except FvlaunchError as error:  # damaged, or gone, since it was listed
        return _broken(run, error)
    if cache is None or record.state not in FINAL_STATES:
        return judge_run(run, record, seen)
    status = cache.get(run, record)
    if status is None:
        status = judge_run(run, record, seen)
        cache.put(run, record, status)
    return status


def _settled(run: Run, record: Record, seen: JobObservation) -> Record:
    """Return the record as it is now: a job that is gone may have ended while it was asked about, and its agent's last word is there."""
    return run.record() if seen.alive is False and record.job_id is not None and record.state not in FINAL_STATES else record


def judge_run(run: Run, record: Record, seen: JobObservation) -> RunStatus:
    """Read what the run's files say and judge."""
    attempts = read_attempts(run)
    beat = read_heartbeat(run.heartbeat_file) if attempts else {}
    line = last_metrics(run.metrics_file) if attempts else {}
    unsure = seen.alive is not True and record.state not in FINAL_STATES
    updated = max(record.updated_at, float(beat.get("time", 0)))
    silent_s = max(0.0, time.time() - updated)
    heard_s = _heard_s(beat, attempts)
    state, reason = judge(
        record,
        attempts,
        _remembered(run, record, seen) if unsure else seen,
        run.intent() if unsure else None,
        heard_s,
        silent_s,
        last_words(run, record) if unsure else LastWords(),
        run.last_checkpoint_step() if unsure else None,
        unwritten_records.told(run, record, seen, beat, heard_s),
    )
    step = int(line.get("step", 0)) or _counted(beat, attempts)
    max_steps = record.max_steps or max(step, int(beat.get("max_steps", 0)))
    step_s = beat.get("median_step_s") or line.get("step_s")
    running = state == "running"
    return RunStatus(
        run=run.name,
        recipe=record.recipe,
        cluster=record.cluster,
        state=state,
        reason=reason,
        step=step,
        max_steps=max_steps,
        job_id=seen.job_id or record.job_id,
        job_ids=tuple(dict.fromkeys([*record.job_ids, *([seen.job_id] if seen.job_id else [])])),
        attempts=len(attempts),
        last_checkpoint_step=run.last_checkpoint_step(),
        updated_at=updated,
        path=str(run.path),
        phase=beat.get("phase") if running else None,
        loss=line.get("loss"),
        losses=_losses(run.metrics_file, line),
        step_s=step_s,
        eta_s=(max_steps - step) * step_s if running and step_s else None,
        allocation_left_s=_left_s(beat) if running else None,
        entries=entries_of(read_json(run.entries_file)) if attempts and state in FINAL_STATES else None,
        blocked=seen.blocked.value if seen.blocked is not None and state in ("queued", "requeued") else None,
        stale_s=silent_s if seen.alive is None and state not in FINAL_STATES else None,
        owed=_owed(run, record, seen),
    )


def _owed(run: Run, record: Record, seen: JobObservation) -> str:
    """Return what was left undone for want of an answer and can be done now, as `RunStatus.owed`."""
    if record.state in (*FINAL_STATES, "waiting") or seen.alive is None or not scheduler(record.executor).has_queue:
        return ""
    if seen.alive or record.state == "submitting":
        intent = run.intent()
        meant = intent.want != "run" and intent.generation == record.generation
        if meant and (seen.pending or not seen.alive or (intent.want == "cancel" and _was_not_heard(run))):
            return intent.want
    return "adopt" if seen.job_id is not None and record.job_id is None else ""


def _was_not_heard(run: Run) -> bool:
    """Return whether the scheduler gave no answer when the run was last to be ended."""
    said = [event.get("event") for event in run.events() if event.get("event") in ("stop", "cancel", NO_ANSWER)]
    return said[-1:] == [NO_ANSWER]


def _remembered(run: Run, record: Record, seen: JobObservation) -> JobObservation:
    """squeue forgets an ended job after minutes, and accounts are not everywhere: what was said of its end is kept with the run.

    It is the last word also where the scheduler gives no answer any more.
    """
    if seen.ended:
        if not any(_is_end_of(event, record) for event in run.events()):
            with contextlib.suppress(OSError):  # somebody else's run, or a full disk: what is seen is told all the same
                run.event("job_ended", job_id=record.job_id, state=seen.ended, words=seen.words)
        return seen
    said = [event for event in run.events() if _is_end_of(event, record)] if seen.absent or seen.alive is None else []
    return JobObservation(alive=False, ended=str(said[-1].get("state", "")), words=str(said[-1].get("words", ""))) if said else seen


def _is_end_of(event: dict[str, Any], record: Record) -> bool:
    return event.get("event") == "job_ended" and event.get("job_id") == record.job_id


def heard_of(run: Run) -> float | None:
    """Return seconds since the agent of a run's attempt was heard of; None where none runs, or it was not heard of lately."""
    attempts = read_attempts(run)
    heard = _heard_s(read_heartbeat(run.heartbeat_file) if attempts else {}, attempts)
    return heard if heard is not None and heard < HEARD_S else None


def _heard_s(beat: dict[str, Any], attempts: Sequence[Attempt]) -> float | None:
    """Return seconds since the agent of the attempt that runs was heard of; None where none runs, as far as its records say."""
    if not beat or attempts[-1].cause is not Cause.RUNNING or beat.get("attempt") != attempts[-1].number:
        return None
    return max(0.0, time.time() - float(beat.get("time", 0)))


def _left_s(beat: dict[str, Any]) -> float | None:
    left = beat.get("allocation_left_s")
    return None if left is None else max(0.0, float(left) - max(0.0, time.time() - float(beat.get("time", 0))))


def _losses(path: Path, line: dict[str, Any]) -> dict[str, float]:
    """Return the newest of each loss of the method: a student that is updated every fifth step has none in the steps between."""
    if not any(key.endswith("_loss") for key in line):
        return {}
    lines = list(_objects(_tail(path)))
    return {key: value for line in lines for key, value in line.items() if key.endswith("_loss") and isinstance(value, int | float)}


def _counted(beat: dict[str, Any], attempts: Sequence[Attempt]) -> int:
    """Return how far a job without metrics is: what the rank that is least far on has done."""
    now = int(beat.get("count", 0)) if beat.get("phase") in WORKING and beat.get("phase") not in ("warming", "stepping") else 0
    return max([now, *(attempt.step_to or 0 for attempt in attempts)])


def judge(
    record: Record,
    attempts: Sequence[Attempt],
    seen: JobObservation,
    intent: Intent | None = None,
    heard_s: float | None = None,
    silent_s: float = 0.0,
    words: LastWords = LastWords(),
    checkpoint: int | None = None,
    unwritten: str = "",
) -> tuple[str, str]:
    """(state, reason) of a run. Pure. `heard_s`: seconds since the agent of a running attempt was heard of; `silent_s`: since anything
    of the run was; `words`: what its job left where no agent spoke; `checkpoint`: the newest one's step;
    `unwritten`: what keeps its records from being written."""
    if record.state in FINAL_STATES:
        return record.state, record.reason
    if record.state == "waiting":
        return "queued", "waits for the stage before it"
    mine = [a for a in attempts if a.generation == record.generation]
    if seen.alive is None and (known := _last_known(mine, record, seen, checkpoint))[0] in FINAL_STATES:
        return known
    if seen.alive is None and silent_s > SILENT_S:
        return "lost", _never_heard_again(record, known[0], seen, silent_s)
    if record.job_id is None and seen.job_id is None:
        return "submitting", _not_known_yet(record, intent, seen)
    if seen.alive is None:
        return known
    if seen.alive:
        if seen.pending:
            return ("requeued" if mine or seen.again else "queued"), _waiting(mine, seen)
        silence = f"nothing was heard of its agent for {_minutes(heard_s)}" if (heard_s or 0) > HEARD_S else ""
        return "running", "; ".join(part for part in (seen.words, silence, unwritten) if part)
    if seen.absent and not seen.ended and heard_s is not None and heard_s < HEARD_S:
        return "running", f"its agent was heard of {heard_s:.0f} s ago, but the scheduler does not know its job"
    if seen.ended in _SAY_LESS and mine and mine[-1].next == "end" and mine[-1].cause in _ENDS:
        return _last_known(mine, record, seen, checkpoint)
    state, reason = gone(record, seen, intent, words, checkpoint, began=bool(mine))
    return state, f"{reason}; {unwritten}" if unwritten and state in ("lost", "failed") else reason


def _not_known_yet(record: Record, intent: Intent | None, seen: JobObservation) -> str:
    """Return what is known of a submission whose job nobody has found."""
    text = record.reason or "not known yet whether the scheduler took it"
    if intent and intent.want != "run" and intent.generation == record.generation:
        text += f"; fvlaunch {intent.want} is recorded, and ends it as soon as there is an answer"
    elif "fvlaunch resume" not in text:
        text += f"; fvlaunch resume {record.name} takes up its job, or submits it"
    return text + (f" ({seen.words})" if seen.words else "")


def _minutes(seconds: float | None) -> str:
    return f"{(seconds or 0) / 60:.0f} minutes"


def _last_known(attempts: Sequence[Attempt], record: Record, seen: JobObservation, checkpoint: int | None) -> tuple[str, str]:
    """By its own records only."""
    if not attempts:
        return "queued", seen.words
    last = attempts[-1]
    if last.next == "end" and last.cause in _ENDS:  # its agent has decided, and could not write the record any more
        again = "" if last.cause is Cause.FINISHED else f"; {resume_hint(record, checkpoint, began=True)}"
        return _ENDS[last.cause], (last.failure.explain() if last.failure else f"its last attempt ended it ({last.cause})") + again
    return ("requeued" if last.next == "requeue" else "running"), seen.words


def _never_heard_again(record: Record, known: str, seen: JobObservation, silent_s: float) -> str:
    was = known if record.job_id else "submitting"
    on = f" on {record.scheduler}" if record.scheduler else ""
    return f"nothing was heard of it{on} for {silent_s / 86400:.0f} days, when it was {was}, and nobody here can ask: {seen.words}"


_ENDS = {
    Cause.FINISHED: "finished",
    Cause.STOPPED: "stopped",
    Cause.CANCELLED: "cancelled",
    **dict.fromkeys((Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.NO_GPU, Cause.NO_RESTART), "failed"),
}
"""What a run is when an attempt that ended so was its last."""
_SAY_LESS = ("", "FAILED", "COMPLETED")
"""Words of a scheduler for a job's end that say less of the run than its agent's own decision does."""


def _waiting(attempts: Sequence[Attempt], seen: JobObservation) -> str:
    if not attempts:
        return f"after a requeue: {seen.words}" if seen.again else seen.words
    last = attempts[-1].cause
    return f"{_BACK.get(last, 'its last life ended without a word')}: {seen.words}"


_BACK = {
    Cause.TIME_LIMIT: "after a time limit",
    Cause.PREEMPTION: "after a preemption",
    Cause.REQUEUED: "after a requeue",
    Cause.INTERRUPTED: "after an interruption",
    Cause.CRASH: "after a crash",
    Cause.HANG: "after a hang",
    Cause.OUT_OF_MEMORY: "after running out of memory",
    Cause.NO_GPU: "after a node without its GPUs",
}
"""Why a job that ran before waits again."""


def last_metrics(path: Path) -> dict[str, Any]:
    """Return the last whole line of a metrics file; empty where there is none yet."""
    return next(_objects(reversed(_tail(path))), {})


def _tail(path: Path) -> list[bytes]:
    """Return the last whole lines of a file, at most 8 KB."""
    try:
        with os.fdopen(open_to_read(path), "rb", buffering=0) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            return file.read(8192).split(b"\n")[:-1]
    except OSError:
        return []


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    yield from whole_metrics(value for line in lines if (value := _object(line)) is not None)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
