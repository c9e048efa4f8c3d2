"""A job's task that writes down, from inside its signal handler, what fvlaunch.schedulers.slurm.commands says of the job. Run by srun.

argv: FILE (one JSON object a line is appended), then what to do on SIGTERM: "stay"; "end"; "requeue": on a preemption
requeue and wait for the SIGTERM of that, else end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from fvlaunch.errors import FvlaunchError
from fvlaunch.schedulers.slurm import commands as slurm

OUTPUT, HABIT = Path(sys.argv[1]), sys.argv[2]
JOB, RESTARTS = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def note(signal_name: str) -> str:
    found = slurm.job(JOB)
    seen = {"life": RESTARTS, "node": os.environ["SLURMD_NODENAME"], "signal": signal_name, "cause": "", "at": time.time()}
    if signal_name != "start":
        seen["cause"] = slurm.why_signalled(found, RESTARTS).name
    if found is not None:
        seen.update(state=found.state, reason=found.reason, restarts=found.restarts, exit=found.exit_code, end_at=found.end_at)
    with OUTPUT.open("a") as out:
        out.write(json.dumps(seen) + "\n")
    return str(seen["cause"])


def on_signal(number: int, _frame: FrameType | None) -> None:
    cause = note(signal.Signals(number).name)
    if HABIT == "requeue" and cause != "REQUEUED" and cause != "CANCELLED":
        with contextlib.suppress(
            FvlaunchError
        ):  # no answer in time, or Slurm has requeued it by itself: ending here would complete the job
            if cause == "PREEMPTION":
                slurm.requeue(JOB)
    elif number == signal.SIGTERM and HABIT != "stay":
        sys.exit(0)


signal.signal(signal.SIGTERM, on_signal)
signal.signal(signal.SIGUSR2, on_signal)
note("start")
while True:
    time.sleep(0.05)
