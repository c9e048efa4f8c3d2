"""Owns the start of an agent: the one function that a job's pickle names. Must not hold anything that outlives a job."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import FvlaunchError
from ..runconfig import load
from ..runs import Run
from ..script import said_file
from .follower import Follower
from .head import Head
from .notice import Signals
from .placement import discover


def run_agent(run_path: str) -> None:
    """Run this node's part of a run's job, and end the process with the agent's exit code."""
    signals = Signals()
    signals.install()
    run, placement = Run(Path(run_path)), discover()
    try:
        agent = (Head if placement.is_head else Follower)(run, load(run), placement, signals)
        code = agent.main()
    except FvlaunchError as error:
        print(f"agent: {error}", file=sys.stderr, flush=True)
        code = 1
        if placement.is_head and run.record().token == placement.token:
            run.update(state="failed", reason=str(error))
    if placement.is_head:
        said_file(run.job / placement.token, placement.restart_count).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # submitit would pickle a result and translate the code
