"""Owns finding a scheduler by its name: the sub-folder of that name, whose module `scheduler` holds it as SCHEDULER.

A new scheduler is a new sub-folder; there is no list to edit. Must not load one before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from ..errors import FvlaunchError
from .base import Allocation, Scheduler

HERE = "local"
"""What runs things on this machine where no profile is named."""


@functools.cache
def names() -> tuple[str, ...]:
    """Return what `executor:` of a cluster profile may say."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/scheduler.py")))


@functools.cache
def scheduler(name: str) -> Scheduler:
    """Return the scheduler of that name; FvlaunchError with the known names where there is none."""
    if name not in names():
        raise FvlaunchError(f"there is no scheduler {name!r}", hint=f"known: {', '.join(names())}")
    found: Scheduler = importlib.import_module(f"{__package__}.{name}.scheduler").SCHEDULER
    return found


def current() -> tuple[Scheduler, Allocation]:
    """Return the scheduler whose job this process is part of, and where in it."""
    for name in names():
        if (allocation := scheduler(name).allocation()) is not None:
            return scheduler(name), allocation
    raise FvlaunchError("this process is in no job", hint="the agent is started by a job: fvlaunch submit")
