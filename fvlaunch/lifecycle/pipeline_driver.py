"""Owns the process that runs a local pipeline's stages in order: `python -m fvlaunch.lifecycle.pipeline_driver FOLDER`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..errors import FvlaunchError
from ..files import in_words
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline
from ..schedulers import local_process
from ..status import run_status
from . import submit as submission

POLL_S = 0.5


def drive(pipeline: Pipeline) -> int:
    """Run the stages that are not finished, one after the other; 0 only when all are. A stage that ends otherwise is the last."""
    own = local_process.local_job_id(os.getpid())
    pipeline.write(replace(pipeline.record(), driver=own, host=local_process.host_identity()))  # whoever started this holds the lock
    for run in pipeline.stages:
        if run.record().state == "waiting":
            try:
                submission.start(run)
            except (FvlaunchError, OSError) as error:
                run.update(state="failed", reason=in_words(error) if isinstance(error, OSError) else error.message)
        state = _await_end(run)
        sys.stderr.write(f"{run.name}: {state}\n")
        sys.stderr.flush()
        if state != "finished":
            return 1
    return 0


def _await_end(run: Run) -> str:
    while True:
        [found], _ = run_status.statuses_of([run])
        if found.is_over:
            return found.state
        time.sleep(POLL_S)


def driver_module(code: Path) -> str:
    """Return the module that drives a pipeline in this copy of the code: copies made before the rooms keep it elsewhere."""
    here = code / "fvlaunch/lifecycle/pipeline_driver.py"
    return "fvlaunch.lifecycle.pipeline_driver" if here.is_file() else "fvlaunch.pipeline_submit"


if __name__ == "__main__":
    sys.exit(drive(Pipeline(Path(sys.argv[1]))))
