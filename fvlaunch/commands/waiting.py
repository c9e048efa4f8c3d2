"""Owns `fvlaunch wait`, `fvlaunch attach` and `--wait`: shows progress until a run is over and prints what follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from . import output as printing

if TYPE_CHECKING:
    pass
from .next_steps import what_next
from .selection import find_any


def wait(word: str, *, quiet: bool, json_: bool, runs_dir: Path | None) -> int:
    found = find_any(word, runs_dir)
    if isinstance(found, Pipeline):
        from . import pipelines as pipeline_commands

        return pipeline_commands.wait(found, quiet=quiet, json_=json_)
    return wait_until_over(found, quiet=quiet, json_=json_)


def wait_until_over(run: Run, *, quiet: bool, json_: bool) -> int:
    from .progress import describe
    from .progress import wait as wait_for

    code, found = wait_for(run, quiet=quiet)
    if found is None:
        return code
    if json_:
        printing.as_json(found.dump())
        return code
    printing.say(f"{describe(found)}")
    if found.state == "finished":
        printing.say(what_next(run, found))
    elif found.state in ("failed", "lost"):
        printing.say(f"{found.reason}\nnext:     fvlaunch logs {run.name}\n          fvlaunch resume {run.name}")
    return code
