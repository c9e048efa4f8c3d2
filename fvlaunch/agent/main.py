"""Owns the start of an agent: the one function that a job's pickle names. Must not hold anything that outlives a job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import secrets as secret_values
from ..errors import FvlaunchError
from ..files import in_words
from ..runs.directory import FINAL_STATES, Run
from ..runs.job_folder import ContinuationRequest, leave_word, reserve_word
from ..runs.run_config import load
from . import own_output

if TYPE_CHECKING:
    from .placement import Placement


def run_agent(run_path: str) -> None:
    """Run this node's part of a run's job, and end the process with the agent's exit code."""
    from .follower import Follower  # here: who only names this function, in a pickle, need not load what an agent is
    from .head import Head
    from .placement import discover
    from .stop_notices import Signals

    signals = Signals()
    signals.install()
    run, placement = Run(Path(run_path)), discover()
    word: tuple[ContinuationRequest, Sequence[str]] = (ContinuationRequest.NOTHING, ())
    folder, life = run.job / placement.token, (placement.job_id, placement.restart_count)
    if placement.is_head:
        reserve_word(folder, *life)
    in_order = True
    try:
        config = load(run)
        secrets = secret_values.values(config.cluster.secrets)
        os.environ.update(secrets)  # those that lie in files; the ranks get them from here
        agent = (Head if placement.is_head else Follower)(run, config, placement, signals)
        code = agent.main()
        word = agent.word
        for path in folder.glob("*.out"):
            secret_values.mask(path, secrets)
    except (FvlaunchError, OSError) as error:
        why = str(error) if isinstance(error, FvlaunchError) else f"the agent could not go on: {in_words(error)}"
        code, in_order = 1, _failed(run, placement, why)
    if placement.is_head and in_order:
        code = leave_word(folder, *life, *word, code=code)
    own_output.catch_up()
    os._exit(code)  # submitit would pickle a result and translate the code


def _failed(run: Run, placement: Placement, why: str) -> bool:
    """Say why the agent could not go on. False where a stale or broken disk does not take it: then it is the batch script's to judge
    whether another start may help."""
    own_output.say(why)
    try:
        if placement.is_head and run.record().token == placement.token and run.record().state not in FINAL_STATES:
            run.update(state="failed", reason=why)
    except (FvlaunchError, OSError):
        return False
    return True
