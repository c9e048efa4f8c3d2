"""Owns waiting for a run while showing how it gets on: a live line on a terminal, plain lines elsewhere.

Must not be able to harm the run: Ctrl-C detaches, and the run goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import SchedulerUnreachable
from ..runs.directory import FINAL_STATES, Run
from ..runs.pipeline_directory import Pipeline
from ..schedulers.registry import scheduler
from ..status.pipeline_status import PipelineStatus, of_one
from ..status.run_status import RunStatus, statuses_of
from ..status.types import entries_text, role_of
from .output import duration
from .status import made_up_for

EXIT_DETACHED = 130
POLL_S = 0.5
"""Records are read so often; the scheduler is asked no more often than its own `poll_s`."""
PLAIN_EVERY_S = 15.0


def wait(run: Run, *, quiet: bool = False) -> tuple[int, RunStatus | None]:
    """Wait until a run is over: (exit code, its last status). 0 finished, 1 any other end, 130 detached by Ctrl-C.

    1 too where its job can never start as it is. One that is held may be released: that is said, and waited for.
    """
    try:
        status = _until_over(run, shower(quiet), _hold_teller())
    except KeyboardInterrupt:
        sys.stderr.write(f"\ndetached; {run.name} goes on. fvlaunch attach {run.name} comes back to it, fvlaunch stop {run.name} ends it\n")
        return EXIT_DETACHED, None
    return (0 if status.state == "finished" else 1), status


def _until_over(run: Run, show: Callable[[RunStatus | None], None], tell_hold: Callable[[RunStatus], None]) -> RunStatus:
    asked_at, status, tell_silence = float("-inf"), None, _silence_teller(run.name)
    try:
        while True:
            due = time.monotonic() - asked_at >= scheduler(run.record().executor).poll_s or run.record().state in FINAL_STATES
            if due:
                asked_at = time.monotonic()
                [status], unreachable = statuses_of([run])
                tell_silence(unreachable)
                if made_up_for([status]):
                    [status], unreachable = statuses_of([run])
            elif status is not None:
                status = _refreshed(run, status)
            if status is not None:
                tell_hold(status)
                show(status)
                if (status.is_over or status.blocked == "never") and not isinstance(unreachable, SchedulerUnreachable):
                    return status
            time.sleep(POLL_S)
    finally:
        show(None)


def _hold_teller() -> Callable[[RunStatus], None]:
    """Return a function that says once of each hold that somebody has to release the job: also where nothing else is shown."""
    told: str | None = None

    def tell(status: RunStatus) -> None:
        nonlocal told
        held = status.reason if status.blocked == "held" else None
        if held is not None and held != told:
            sys.stderr.write(f"{status.run} waits for somebody: {held}\n")
            sys.stderr.flush()
        told = held

    return tell


def _silence_teller(name: str) -> Callable[[SchedulerUnreachable | None], None]:
    """Return a function that says once that the scheduler gives no answer, and once that it does again: waiting outlasts that."""
    silent = False

    def tell(unreachable: SchedulerUnreachable | None) -> None:
        nonlocal silent
        if unreachable is not None and not silent:
            hint = f"hint: {unreachable.hint}\n" if unreachable.hint else ""
            sys.stderr.write(f"{name}: the scheduler gives no answer ({unreachable.message}); waiting goes on, Ctrl-C leaves it\n{hint}")
        elif unreachable is None and silent:
            sys.stderr.write(f"{name}: the scheduler answers again\n")
        sys.stderr.flush()
        silent = unreachable is not None

    return tell


def rarely_over(run: Run) -> Callable[[], bool]:
    """Return a function that says whether a run is over: it reads files each time, and asks a scheduler every ten seconds."""
    asked_at, over = float("-inf"), False

    def is_over() -> bool:
        nonlocal asked_at, over
        record = run.record()
        now = time.monotonic()
        if record.state in FINAL_STATES or now - asked_at >= scheduler(record.executor).poll_s:
            asked_at = now
            over = statuses_of([run])[0][0].is_over
        return over

    return is_over


def _refreshed(run: Run, status: RunStatus) -> RunStatus:
    """Return a status with the newest step, read from files; the job's state stays as the scheduler said it."""

    from ..status.run_status import last_metrics

    line = last_metrics(run.metrics_file)
    step = int(line.get("step", status.step))
    eta = (status.max_steps - step) * status.step_s if status.step_s and status.state == "running" else None
    return replace(status, step=step, loss=line.get("loss", status.loss), eta_s=eta)


def shower(quiet: bool) -> Callable[[RunStatus | None], None]:
    if quiet:
        return lambda _status: None
    return _live() if sys.stderr.isatty() else _plain()


def _plain() -> Callable[[RunStatus | None], None]:
    """Print a line when the state changes, and now and then. How a run ended is printed by whoever waited for it."""
    last: dict[str, object] = {"shown": None, "at": 0.0}

    def show(status: RunStatus | None) -> None:
        if (
            status is None
            or status.is_over
            or ((status.run, status.state) == last["shown"] and time.monotonic() - float(str(last["at"])) < PLAIN_EVERY_S)
        ):
            return
        last.update(shown=(status.run, status.state), at=time.monotonic())
        sys.stderr.write(describe(status) + "\n")
        sys.stderr.flush()

    return show


def _live() -> Callable[[RunStatus | None], None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.fields[run]}"), BarColumn(), TextColumn("{task.fields[told]}"))
    progress = Progress(*columns, console=Console(stderr=True), transient=False)
    task = progress.add_task("run", total=None, run="", told="")
    progress.start()

    def show(status: RunStatus | None) -> None:
        if status is None:
            progress.stop()
        else:
            total = status.max_steps if status.step else None
            progress.update(task, total=total, completed=status.step, run=status.run, told=describe(status, name=False))

    return show


def describe(status: RunStatus, *, name: bool = True) -> str:
    """Return a status in one line: state, step, losses, seconds a step, time to go beside the allocation's end, attempt."""
    parts = [status.run] if name else []
    phase = {"starting": "starting", "loading": "loading", "preparing": "preparing data", "saving": "saving"}.get(status.phase or "")
    parts.append(phase if phase and status.state == "running" else status.state)
    if status.step:
        parts.append(f"step {status.step}/{status.max_steps}")
    if status.loss is not None and status.step:
        parts.append(f"loss {status.loss:.4f}")
        parts += [f"{role_of(name)} {value:.4f}" for name, value in status.losses.items()]
    if status.step_s:
        parts.append(f"{status.step_s:.3g} s/step")
    if status.eta_s is not None:
        parts.append(f"ETA {duration(status.eta_s)}")
        if status.allocation_left_s is not None and status.eta_s > status.allocation_left_s:
            parts.append(f"allocation ends in {duration(status.allocation_left_s)}")
    if status.entries is not None:
        parts.append(entries_text(status.entries))
    if status.attempts > 1:
        parts.append(f"attempt {status.attempts}")
    if status.reason and status.state not in ("running", "finished"):
        parts.append(f"({status.reason.splitlines()[0]})")
    return "  ".join(parts)


def wait_for_pipeline(pipeline: Pipeline, *, quiet: bool = False) -> tuple[int, PipelineStatus | None]:
    """Follow a pipeline through its stages: (exit code, its last status). 0 all finished, 1 any other end, 130 detached by Ctrl-C."""
    show, tell_hold, tell_silence = shower(quiet), _hold_teller(), _silence_teller(pipeline.name)
    try:
        while True:
            whole, unreachable = of_one(pipeline)
            tell_silence(unreachable)
            if made_up_for([whole]):
                whole, unreachable = of_one(pipeline)
            tell_hold(whole.current)
            show(whole.current)
            if (whole.is_over or whole.current.blocked == "never") and unreachable is None:
                return (0 if whole.state == "finished" else 1), whole
            _pause(pipeline, whole)
    except KeyboardInterrupt:
        name = pipeline.name
        sys.stderr.write(f"\ndetached; {name} goes on. fvlaunch attach {name} comes back to it, fvlaunch stop {name} ends it\n")
        return EXIT_DETACHED, None
    finally:
        show(None)


def _pause(pipeline: Pipeline, whole: PipelineStatus) -> None:
    """Wait until it is time to ask again: every ten seconds, or when a file says that a stage is over; files are read twice a second."""
    until = time.monotonic() + scheduler(pipeline.record().executor).poll_s
    run = Run(Path(whole.current.path))
    before = run.record().state
    while True:
        time.sleep(POLL_S)
        if time.monotonic() >= until or (run.record().state != before and run.record().state in FINAL_STATES):
            return
