"""Owns `fvlaunch stop` and `fvlaunch cancel` of runs and pipelines, and what they print. Must not end anything itself: lifecycle does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..runs import ownership
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from . import output as printing
from .selection import find_several


def end(words: Sequence[str], want: Literal["stop", "cancel"], runs_dir: Path | None) -> int:
    """End all that was named, each by itself, and say what was done to it; return the exit code."""
    return printing.each(find_several(words, runs_dir), lambda one: _end(one, want))


def _end(found: Run | Pipeline, want: Literal["stop", "cancel"]) -> int:
    from ..lifecycle import stop

    ownership.check_mine(found, want)
    if isinstance(found, Pipeline):
        from . import pipelines as pipeline_commands

        pipeline_commands.end(found, want)
    else:
        printing.say((stop.stop if want == "stop" else stop.cancel)(found))
    return 0
