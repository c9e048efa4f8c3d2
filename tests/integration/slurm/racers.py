"""Run as a program: shells that resume one run at the same moment, again and again. argv: RUN, trials, shells.

Prints one JSON object a trial: the shells' exit codes, what the losers were told, and the jobs that the run has then. Forked from a
process that has imported everything, so that the shells really meet.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any

from fvlaunch.cli import app
from fvlaunch.runs.run_names import find
from fvlaunch.schedulers.slurm import commands as slurm
from fvlaunch.schedulers.slurm import submission

NAME, TRIALS, SHELLS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ARGUMENTS = ["resume", NAME, "--begin", "now+1hour"]


def main() -> None:
    import submitit  # noqa: F401  # what a shell needs is loaded before they start

    assert submission.SBATCH_WAIT_S
    with contextlib.redirect_stderr(io.StringIO()):
        assert app.run(["cancel", NAME]) == 0
    for _ in range(TRIALS):
        print(json.dumps(trial()), flush=True)


def trial() -> dict[str, Any]:
    start_read, start_write = os.pipe()
    shells = [_shell(start_read, start_write) for _ in range(SHELLS)]
    os.close(start_write)  # all of them read its end at once
    os.close(start_read)
    told = []
    for _, output in shells:
        with os.fdopen(output) as stream:
            told.append(stream.read())
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in shells]
    run = find(NAME)
    token = run.record().token
    jobs = [job.job_id for job in slurm.queue().values() if job.state == "PENDING"]
    owned = [job.job_id for job in slurm.queue().values() if job.state == "PENDING" and token in job.comment]
    with contextlib.redirect_stderr(io.StringIO()):
        assert app.run(["cancel", NAME]) == 0
    return {"codes": codes, "told": told, "jobs": jobs, "owned": owned, "recorded": run.record().job_ids[-1]}


def _shell(start_read: int, start_write: int) -> tuple[int, int]:
    """(pid, the end of a pipe with its stderr)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 2
    try:
        os.close(start_write)
        os.close(read)
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.read(start_read, 1)
        code = app.run(ARGUMENTS)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
