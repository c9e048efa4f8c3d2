"""Owns what `status` does between parsing and printing: which runs, once or again and again. Must not judge a run's state:
status/run_status.py does.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import EXIT_SCHEDULER, FvlaunchError, SchedulerUnreachable, render
from ..runs import registry
from ..runs.attempts import Attempt, read_attempts
from ..runs.directory import FINAL_STATES, Run
from ..runs.pipeline_directory import Pipeline
from ..schedulers.registry import scheduler
from ..status.goodput import AttemptCost, spent
from ..status.pipeline_status import PipelineStatus, statuses_of
from ..status.run_status import SILENT_S, RunStatus
from . import output as printing
from .selection import find_several, folders

NEWEST = 10
"""So many are shown even though they are over."""
WATCH_S = 2.0
"""A scheduler is not to be asked more often by somebody who only looks on."""


def status(words: list[str], *, all_: bool, attempts: bool, json_: bool, runs_dir: Path | None, watch: bool = False) -> int:
    def chosen() -> list[Run | Pipeline]:
        return find_several(words, runs_dir) if words else _shown(registry.known_whole(folders(runs_dir)), all_)

    if watch:
        return _watch(chosen, attempts=attempts, json_=json_, named=bool(words) or all_, one=len(words) == 1)
    runs, statuses, unreachable = _judged(chosen(), named=bool(words) or all_)
    closed = [] if runs or json_ else registry.closed(folders(runs_dir))
    if closed:
        names = f"{len(closed)} of them, such as {Path(closed[0]).name}"
        printing.say(f"the runs in {Path(closed[0]).parent} may not be read by you: {names}; their owner can open them to you")
        return 0
    _print(runs, statuses, attempts=attempts, json_=json_, one=len(words) == 1 and len(runs) == 1)
    for run in [part for one in runs for part in _runs_of(one)] if words or attempts else ():
        for mistake in run.damage():
            printing.say(f"note: {run.name}: {mistake}; it is left out")
    return _exit_code_of(unreachable)


def _judged(runs: list[Run | Pipeline], *, named: bool) -> tuple[list[Run | Pipeline], list[RunStatus], SchedulerUnreachable | None]:
    """Return what is shown, and the error if the scheduler of any of it could not be asked.

    What turns out to be over has its place in time like others: a run whose end nobody could record is not among the newest for ever.
    """
    statuses, unreachable = statuses_of(runs)
    if made_up_for(statuses):
        statuses, unreachable = statuses_of(runs)
    newest = {id(run) for run in (runs if named else runs[-NEWEST:])}
    shown = [(run, s) for run, s in zip(runs, statuses, strict=True) if id(run) in newest or _wants_attention(s)]
    unsure = any(s.stale_s is not None and not s.is_over for _, s in shown)
    return [run for run, _ in shown], [s for _, s in shown], unreachable if unsure else None


def made_up_for(statuses: Sequence[RunStatus]) -> bool:
    """Do what was left undone when the scheduler gave no answer, and say so; return whether that was anything."""
    if not any(status.owed or isinstance(status, PipelineStatus) for status in statuses):
        return False
    from ..lifecycle import unanswered  # seldom

    lines = unanswered.made_up_for(statuses)
    for line in lines:
        printing.say(line)
    return bool(lines)


def _wants_attention(status: RunStatus) -> bool:
    """Say whether a run is shown however old: one that is not over, is broken, or was lost of late."""
    lost_of_late = status.state == "lost" and time.time() - status.updated_at < SILENT_S
    return status.state == "broken" or lost_of_late or not status.is_over


def _exit_code_of(unreachable: SchedulerUnreachable | None) -> int:
    if unreachable is None:
        return 0
    message = f"the scheduler gives no answer ({unreachable.message}): shown is what was last known"
    printing.say(render(SchedulerUnreachable(message, hint=unreachable.hint)))
    return EXIT_SCHEDULER


def _shown(runs: list[Run | Pipeline], all_: bool) -> list[Run | Pipeline]:
    newest = len(runs) if all_ else NEWEST
    return [run for place, run in enumerate(runs) if place >= len(runs) - newest or not _is_over(run)]


def _is_over(run: Run | Pipeline) -> bool:
    """Say whether a run, or each stage of a pipeline, is over by its record; one with a broken record is not, and so is always shown."""
    runs = _runs_of(run)
    try:
        return bool(runs) and all(one.state_when_listed() in FINAL_STATES for one in runs)
    except FvlaunchError:
        return False


def _runs_of(run: Run | Pipeline) -> list[Run]:
    """Return the run itself, or the runs of a pipeline's stages; none of a pipeline whose record is broken."""
    if isinstance(run, Run):
        return [run]
    try:
        return run.stages
    except FvlaunchError:
        return []


def _print(runs: Sequence[Run | Pipeline], statuses: Sequence[RunStatus], *, attempts: bool, json_: bool, one: bool) -> None:
    if json_:
        values = [{**s.dump(), "attempts_list": _attempts(run)} if attempts else s.dump() for s, run in zip(statuses, runs, strict=True)]
        printing.as_json(values)
    elif one and isinstance(statuses[0], PipelineStatus):
        printing.one_pipeline(statuses[0], statuses[0].stages)
        if attempts:
            _attempts_of(runs[0])
    elif one and isinstance(runs[0], Run):
        printing.one_status(statuses[0])
        if attempts or statuses[0].attempts > 1:
            printing.out("")
            printing.attempts_table(*_read(runs[0]))
    elif statuses:
        printing.statuses(statuses)
        printing.reasons([s for s in statuses if s.state == "broken" or s.blocked])
        for run in runs if attempts else ():
            _attempts_of(run)
    else:
        printing.say("no runs yet; fvlaunch submit shapes-finetune starts one here")


def _attempts_of(run: Run | Pipeline) -> None:
    for one in _runs_of(run):
        printing.out(f"\n{one.name}")
        printing.attempts_table(*_read(one))


def _read(run: Run) -> tuple[list[Attempt], list[AttemptCost]]:
    attempts = read_attempts(run)
    return attempts, spent(run, attempts)


def _attempts(run: Run | Pipeline) -> list[dict[str, Any]]:
    """Return the attempts of a run, or those of all stages of a pipeline in order, with what each cost."""
    if isinstance(run, Pipeline):
        return [{"stage": stage.path.name, **attempt} for stage in _runs_of(run) for attempt in _attempts(stage)]
    return [{**asdict(attempt), **cost.dump()} for attempt, cost in zip(*_read(run), strict=True)]


def _watch(chosen: Any, *, attempts: bool, json_: bool, named: bool, one: bool) -> int:
    """Print the status until all of it is over: in place on a terminal, elsewhere where it changed. Ctrl-C ends only the watching."""
    before, unreachable = "", None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            runs, statuses, unreachable = _judged(chosen(), named=named)
            with contextlib.redirect_stdout(io.StringIO()) as page:
                _print(runs, statuses, attempts=attempts, json_=json_, one=one and len(runs) == 1)
            text = _one_line(page.getvalue()) if json_ else page.getvalue()
            _show_again(text, before, _exit_code_of(unreachable))
            before = text
            if all(s.is_over for s in statuses) and unreachable is None:
                return 0
            time.sleep(_pause_s(runs))
    return EXIT_SCHEDULER if unreachable is not None else 0


def _one_line(text: str) -> str:
    return json.dumps(json.loads(text)) + "\n"


def _show_again(text: str, before: str, code: int) -> None:
    if sys.stdout.isatty() and not code:
        sys.stdout.write("\x1b[H\x1b[2J")
    if sys.stdout.isatty() or text != before:
        sys.stdout.write(text)
    sys.stdout.flush()


def _pause_s(runs: Sequence[Run | Pipeline]) -> float:
    """Often where that costs nothing, and no more often than the scheduler of a run that is not over likes."""
    return max([WATCH_S, *(_scheduler_poll_s(run) for run in runs if not _is_over(run))])


def _scheduler_poll_s(run: Run | Pipeline) -> float:
    try:
        return scheduler(run.record().executor).poll_s
    except FvlaunchError:
        return 0.0  # its record cannot be read
