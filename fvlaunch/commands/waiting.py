"""Owns `fvlaunch wait`, `fvlaunch attach` and `--wait`: shows progress until a run is over and prints what follows.

Must not be able to harm the run.
"""

from __future__ import annotations

from pathlib import Path

from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from . import output as printing
from .next_steps import what_next
from .selection import find_any


def wait(word: str, *, quiet: bool, json_: bool, runs_dir: Path | None) -> int:
    run = find_any(word, runs_dir)
    if isinstance(run, Pipeline):
        from . import pipelines as pipeline_commands

        return pipeline_commands.wait(run, quiet=quiet, json_=json_)
    return wait_until_over(run, quiet=quiet, json_=json_)


def wait_until_over(run: Run, *, quiet: bool, json_: bool) -> int:
    from .progress import describe
    from .progress import wait as wait_for

    code, status = wait_for(run, quiet=quiet)
    if status is None:
        return code
    if json_:
        printing.as_json(status.dump())
        return code
    printing.say(f"{describe(status)}")
    if status.state == "finished":
        printing.say(what_next(run, status))
    elif status.blocked is not None:
        printing.say(f"it does not start as it is, and its job stays in the queue\nnext:     fvlaunch cancel {run.name}")
    elif status.state in ("failed", "lost"):
        printing.say(f"{status.reason}\nnext:     fvlaunch logs {run.name}\n          fvlaunch resume {run.name}")
    return code
