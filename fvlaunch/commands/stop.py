"""Owns `fvlaunch stop` and `fvlaunch cancel` of a run or a pipeline, and what they print. Must not end anything itself: lifecycle does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..runs.pipeline_directory import Pipeline
from . import output as printing
from .selection import find_any


def end(word: str, want: Literal["stop", "cancel"], runs_dir: Path | None) -> None:
    from ..lifecycle import stop

    found = find_any(word, runs_dir)
    if isinstance(found, Pipeline):
        from . import pipelines as pipeline_commands

        return pipeline_commands.end(found, want)
    printing.say((stop.stop if want == "stop" else stop.cancel)(found))
    return None
