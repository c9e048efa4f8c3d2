"""Owns looking again, when a run is resumed, at what `submit` looked at: its inputs and notify. Must not change anything.

A checkpoint may hold what a model was first made from, so a model that is missing is then told and not refused; the ranks know.
"""

from __future__ import annotations

from ..config.compose import Composed
from ..errors import ConfigError, Problem
from ..runs.directory import Run
from .input_contents import check_contents
from .notify_check import problems_of
from .preflight import check_inputs

_LOOKED_AT = ("train", "preprocess")
"""Programs whose inputs are looked at: an export or a download that was cut off may have made what it must not find at a submission."""
_MODELS = ("train.models.", "train.callbacks.validation.model")


def look_again(run: Run, composed: Composed, *, stage: bool) -> tuple[str, ...]:
    """Return what a person is to be told, a line each; ConfigError where the next job could not run either.

    Of a pipeline's `stage` only notify is looked at: what it reads may be made as its turn comes.
    """
    if stage or composed.recipe.program not in _LOOKED_AT:
        if problems := list(problems_of(composed)):
            raise ConfigError(problems)
        return ()
    has_checkpoint = run.last_checkpoint_step() is not None
    try:
        check_inputs(composed)
        missing: list[Problem] = []
    except ConfigError as error:
        missing = [one for one in error.problems if has_checkpoint and one.key.startswith(_MODELS)]
        if len(missing) < len(error.problems):
            raise ConfigError(one for one in error.problems if one not in missing) from None
    told = [f"warning: {one.message}; where the checkpoint does not hold it, the job will say so\nhint: {one.hint}" for one in missing]
    return (*told, *check_contents(composed))
