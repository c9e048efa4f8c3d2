"""What is said of one job, asked about alone or among many, is the same."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fvlaunch.schedulers.base import JobPhase, JobRef, Liveness
from fvlaunch.schedulers.slurm import commands as slurm
from fvlaunch.schedulers.slurm.parsing import JobDetails, QueuedJob
from fvlaunch.schedulers.slurm.scheduler import SCHEDULER

JOB = JobRef("0123456789abcdef", "7")


@pytest.mark.parametrize(
    ("state", "ended_s_ago", "alive"),
    [
        ("PREEMPTED", None, True),
        ("PREEMPTED", 2, True),
        ("PREEMPTED", 60, False),
        ("RUNNING", None, True),
        ("COMPLETING", 60, True),
        ("CANCELLED", 2, False),
        ("COMPLETED", None, False),
    ],
)
def test_a_job_is_over_for_resume_and_prune_when_it_is_over_for_status(
    state: str, ended_s_ago: float | None, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = None if ended_s_ago is None else int(time.time() - ended_s_ago)
    told: dict[str, Any] = {"job_id": "7", "state": state, "end_at": end, "comment": f"fvlaunch:{JOB.token}", "work_dir": "", "reason": ""}
    details = JobDetails(**{**dict.fromkeys(JobDetails.__dataclass_fields__), **told})
    queued = QueuedJob(**{**dict.fromkeys(QueuedJob.__dataclass_fields__), "exit_code": "0:0", "restarts": 0, **told})
    monkeypatch.setattr(slurm, "job", lambda _id: details)
    monkeypatch.setattr(slurm, "queue", lambda timeout_s=0.0: {"7": queued})
    [seen], unreachable = SCHEDULER.observe([JOB])
    assert (seen.alive, unreachable) == (alive, None)
    assert SCHEDULER.liveness(JOB) is (Liveness.ALIVE if alive else Liveness.OVER)
    assert SCHEDULER.phase(JOB) is (JobPhase.STARTED if alive else JobPhase.OVER)
    assert SCHEDULER.find(JOB.token, living=True) == (["7"] if alive else [])
