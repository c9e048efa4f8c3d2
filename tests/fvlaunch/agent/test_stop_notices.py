"""What the agent makes of a signal: the intent, then the scheduler's word, then its own clock."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from fvlaunch.agent import stop_notices
from fvlaunch.agent.head import Head
from fvlaunch.agent.placement import Placement
from fvlaunch.config.compose import compose
from fvlaunch.errors import SchedulerUnreachable
from fvlaunch.runs.attempts import Cause
from fvlaunch.runs.directory import Intent, Record, create
from fvlaunch.runs.run_config import RunConfig
from fvlaunch.schedulers.base import Allocation
from fvlaunch.schedulers.registry import scheduler
from fvlaunch.schedulers.slurm import commands as slurm
from fvlaunch.schedulers.slurm.parsing import JobDetails

TERM, USR2 = [signal.SIGTERM], [signal.SIGUSR2]
RUN = Intent("run", 1)


def placement(end_in_s: float | None = 3600, name: str = "slurm", restarts: int = 0) -> Placement:
    end = None if end_in_s is None else time.time() + end_in_s
    return Placement(scheduler(name), Allocation("7", restarts, 0, ("n1",), "t", end))


def job(state: str, **changes) -> JobDetails:
    base = {"job_id": "7", "name": "x", "reason": "", "restarts": 0, "exit_code": "0:0", "requeue": True, "submitted_at": 1, "start_at": 1}
    rest = {
        "end_at": None,
        "preempted_at": None,
        "nodes": "n1",
        "excluded_nodes": "",
        "partition": "p",
        "work_dir": "",
        "comment": "",
        "output": "",
    }
    return JobDetails(**{**base, **rest, "state": state, **changes})


def understood(signums, monkeypatch, answer, *, where=None, intent=RUN, lead_s=None):
    where = where or placement()

    def ask(_job_id: str) -> JobDetails | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "job", ask)
    return stop_notices.understand(signums, where, intent, stop_notices.Clock(where, lead_s), grace_s=30)


UNREACHABLE = SchedulerUnreachable("no answer")
NOW = int(time.time())


@pytest.mark.parametrize(
    ("signums", "answer", "cause", "requeued"),
    [
        (TERM, job("RUNNING", preempted_at=NOW, end_at=NOW + 20), Cause.PREEMPTION, False),
        (TERM, job("COMPLETING", reason="TimeLimit"), Cause.TIME_LIMIT, False),
        (TERM, job("COMPLETING", restarts=1), Cause.REQUEUED, True),
        (TERM, job("COMPLETING", exit_code="0:15"), Cause.CANCELLED, False),
        (TERM, UNREACHABLE, Cause.INTERRUPTED, True),
    ],
)
def test_a_sigterm_means_what_the_scheduler_says(signums, answer, cause, requeued, monkeypatch) -> None:
    found = understood(signums, monkeypatch, answer)
    assert found is not None
    assert (found.cause, found.requeued) == (cause, requeued)


def test_a_preempted_job_has_until_the_end_of_its_grace_time(monkeypatch) -> None:
    """By the scheduler's clock, whatever this machine's says."""
    monkeypatch.setattr(slurm, "now", lambda *_: 5000)
    found = understood(TERM, monkeypatch, job("RUNNING", preempted_at=5000, start_at=4000, end_at=8000))
    assert found is not None
    assert found.deadline - time.monotonic() == pytest.approx(3000, abs=30)


def test_slurms_early_reminder_does_not_end_an_attempt_before_its_time(monkeypatch) -> None:
    assert understood(USR2, monkeypatch, job("RUNNING")) is None
    assert understood(USR2, monkeypatch, UNREACHABLE) is None


def test_our_own_clock_decides_where_nobody_can_be_asked(monkeypatch) -> None:
    found = understood(USR2, monkeypatch, UNREACHABLE, where=placement(end_in_s=50), lead_s=60)
    assert found is not None
    assert (found.cause, found.requeued) == (Cause.TIME_LIMIT, False)


@pytest.mark.parametrize(("want", "cause"), [("stop", Cause.STOPPED), ("cancel", Cause.CANCELLED)])
def test_the_persons_intent_comes_before_the_schedulers_word(want, cause, monkeypatch) -> None:
    found = understood(TERM, monkeypatch, job("RUNNING", preempted_at=NOW), intent=Intent(want, 1))
    assert found is not None
    assert found.cause is cause


def test_a_signal_to_a_local_agent_stops_the_run(monkeypatch) -> None:
    found = understood(TERM, monkeypatch, UNREACHABLE, where=placement(None, name="local"))
    assert found is not None
    assert found.cause is Cause.STOPPED


def test_the_lead_follows_the_measured_save_time() -> None:
    clock = stop_notices.Clock(placement(end_in_s=24 * 3600), None)
    assert clock.lead_s() == stop_notices.FIRST_LEAD_S
    clock.saved(200)
    clock.saved(20)
    assert clock.lead_s() == 430
    assert stop_notices.Clock(placement(end_in_s=24 * 3600), 77).lead_s() == 77


def test_the_lead_never_eats_most_of_a_short_allocation() -> None:
    assert stop_notices.Clock(placement(end_in_s=90), None).lead_s() == pytest.approx(30, abs=5)


def test_an_extended_limit_is_noticed_before_the_ranks_are_told(monkeypatch) -> None:
    clock = stop_notices.Clock(placement(end_in_s=5), 60)
    monkeypatch.setattr(slurm, "left_s", lambda _job: 7200)
    assert not clock.due()
    assert clock.left_s() == pytest.approx(7200, abs=60)
    clock = stop_notices.Clock(placement(end_in_s=5), 60)
    monkeypatch.setattr(slurm, "left_s", lambda _job: 5)
    assert clock.due()


def test_a_machine_whose_clock_is_wrong_knows_how_much_time_is_left(monkeypatch) -> None:
    monkeypatch.setattr(slurm, "left_s", lambda _job: 3500)
    for wrong_s in (7200, -7200):
        allocation = Allocation("7", 0, 0, ("n1",), "t", time.time() + 3600 - wrong_s, length_s=3600)
        clock = stop_notices.Clock(Placement(scheduler("slurm"), allocation), None)
        assert not clock.due()
        assert clock.left_s() == pytest.approx(3500, abs=120) and clock.lead_s() == stop_notices.FIRST_LEAD_S


def test_the_lead_follows_from_the_saves_of_earlier_lives_too(tmp_path: Path) -> None:
    where = placement(end_in_s=24 * 3600)
    now = time.time()
    run = create(tmp_path / "r", Record("r", "tiny", "lab", "slurm", 1, where.token, 9, 1, 1, now, now, job_id=where.job_id))
    events = [{"event": "started", "time": now, "generation": 1, "job_id": where.job_id}, {"event": "checkpoint", "step": 5, "save_s": 200}]
    run.attempt_log(1).write_text("".join(json.dumps(event) + "\n" for event in events))
    composed = compose("shapes-finetune", "local", cwd=tmp_path)
    head = Head(run, RunConfig(composed.recipe, composed.cluster, 1), where, stop_notices.Signals())
    assert head.clock.lead_s() == stop_notices.FIRST_LEAD_S
    head._claim()
    assert head.clock.lead_s() == 430
