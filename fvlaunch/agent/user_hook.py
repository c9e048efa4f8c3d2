"""Owns telling a person's command what became of a run. Must not be able to harm the run: whatever the command does is only noted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..config.schema import Notify
from ..errors import FvlaunchError
from ..runs.attempts import Attempt, Cause
from ..runs.directory import Run
from . import own_output


def event_of(state: str, attempts: Sequence[Attempt]) -> str | None:
    """Return what to tell after an attempt: the run's final state, or that it stalls. None: nothing."""
    if state:
        return state
    if not attempts:
        return None
    last, best = attempts[-1], max((a.step_to or 0 for a in attempts[:-1]), default=0)
    fruitless = len(attempts) > 1 and last.cause is Cause.CRASH and (last.step_to or 0) <= best
    return "stalled" if last.cause is Cause.HANG or fruitless else None


def tell(notify: Notify | None, run: Run, event: str | None, reason: str) -> None:
    """Run the command with the event on its stdin, in the run directory and a session of its own, for as long as it may take."""
    if notify is None or event is None or event not in notify.on:
        return None
    try:
        record = run.record()
    except FvlaunchError as error:
        return own_output.say(f"notify {event}: not told: {error}")
    value: dict[str, Any] = {
        "event": event, "run": run.name, "reason": reason, "recipe": record.recipe, "cluster": record.cluster, "job_id": record.job_id,
        "attempts": len(run.attempt_numbers()), "max_steps": record.max_steps, "last_checkpoint_step": run.last_checkpoint_step(),
        "path": str(run.path), "time": time.time(),
    }  # fmt: skip
    try:
        problem = _run(notify, run, json.dumps(value) + "\n")
    except OSError as error:
        problem = f"cannot start {notify.command[0]}: {error.strerror}"
    return own_output.say(f"notify {event}: {problem or 'told'}")


def _run(notify: Notify, run: Run, text: str) -> str:
    """Return what went wrong; empty where nothing did."""
    output = run.logs / "notify.log"
    with os.fdopen(os.memfd_create("event"), "r+b") as event, _log(output) as log:  # no disk may keep a person from being told
        event.write(text.encode())
        event.seek(0)
        started = subprocess.Popen(notify.command, stdin=event, stdout=log, stderr=log, cwd=run.path, start_new_session=True)
        try:
            code = started.wait(timeout=notify.timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            return f"killed after {notify.timeout_s:g} s"
    return "" if code == 0 else f"it ended with {code}; see {output.name}"


def _log(path: Path) -> BinaryIO:
    """Open the file for what the command prints; where it cannot be opened that is thrown away."""
    try:
        return path.open("ab")
    except OSError:
        return os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb")
