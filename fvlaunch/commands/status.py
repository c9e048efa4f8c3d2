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
from ..status.run_status import RunStatus
from . import output as printing

NEWEST = 10
"""So many are shown even though they are over."""
WATCH_S = 2.0
"""A scheduler is not to be asked more often by somebody who only looks on."""


def status(words: list[str], *, all_: bool, attempts: bool, json_: bool, runs_dir: Path | None, watch: bool = False) -> int:
    folders = [registry.runs_dir_option(runs_dir) or Path("runs")]

    def chosen() -> list[Run | Pipeline]:
        return [registry.find_any(word, folders) for word in words] if words else _shown(registry.known_whole(folders), all_)

    if watch:
        return _watch(chosen, attempts=attempts, json_=json_, one=len(words) == 1)
    runs = chosen()
    statuses, unreachable = statuses_of(runs)
    _print(runs, statuses, attempts=attempts, json_=json_, one=len(words) == 1)
    return _exit_code_of(unreachable)


def _exit_code_of(unreachable: SchedulerUnreachable | None) -> int:
    if unreachable is None:
        return 0
    printing.say(render(unreachable))
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
        printing.reasons([s for s in statuses if s.state == "broken"])
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


def _watch(chosen: Any, *, attempts: bool, json_: bool, one: bool) -> int:
    """Print the status until all of it is over: in place on a terminal, elsewhere where it changed. Ctrl-C ends only the watching."""
    before, unreachable = "", None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            runs = chosen()
            statuses, unreachable = statuses_of(runs)
            with contextlib.redirect_stdout(io.StringIO()) as page:
                _print(runs, statuses, attempts=attempts, json_=json_, one=one)
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
