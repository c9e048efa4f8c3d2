"""Owns the start of an agent: the one function that a job's pickle names. Must not hold anything that outlives a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config import secrets as secret_values
from ..errors import FvlaunchError
from ..runs.directory import Run
from ..runs.job_folder import ContinuationRequest, leave_word
from ..runs.run_config import load


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
    try:
        config = load(run)
        secrets = secret_values.values(config.cluster.secrets)
        os.environ.update(secrets)  # those that lie in files; the ranks get them from here
        agent = (Head if placement.is_head else Follower)(run, config, placement, signals)
        code = agent.main()
        word = agent.word
        sys.stdout.flush()
        for path in (run.job / placement.token).glob("*.out"):
            secret_values.mask(path, secrets)
    except FvlaunchError as error:
        print(f"agent: {error}", file=sys.stderr, flush=True)
        code = 1
        if placement.is_head and run.record().token == placement.token:
            run.update(state="failed", reason=str(error))
    if placement.is_head:
        leave_word(run.job / placement.token, placement.job_id, placement.restart_count, *word)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # submitit would pickle a result and translate the code
