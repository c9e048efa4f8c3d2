"""What is said of a run: one truthful state from its records and the scheduler's answer; progress in words; logs as they come."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.commands import output, progress
from fvlaunch.errors import SchedulerUnreachable
from fvlaunch.runs.attempts import Attempt, Cause
from fvlaunch.runs.directory import FINAL_STATES, Intent, Run, create
from fvlaunch.schedulers import local_process
from fvlaunch.schedulers.slurm import commands as slurm
from fvlaunch.schedulers.slurm.parsing import QueuedJob
from fvlaunch.schedulers.slurm.scheduler import Slurm
from fvlaunch.status import run_status
from fvlaunch.status.run_status import JobObservation, RunStatus, judge, last_metrics
from fvlaunch.status.types import entries_of, entries_text
from tests.support.records import record

RECORD = record(executor="slurm", generation=2, max_steps=100, state="submitted", job_id="7", job_ids=("7",))
RUNNING = Attempt(1, 2, "7", ("n1",), 1.0, None, Cause.RUNNING, None, 30)
PREEMPTED = replace(RUNNING, ended_at=2.0, cause=Cause.PREEMPTION)
BEFORE_RESUME = replace(PREEMPTED, generation=1)
ALIVE, PENDING = JobObservation(alive=True, words="on n1"), JobObservation(alive=True, pending=True, words="waits for resources")
SILENT = JobObservation(alive=None, words="the scheduler cannot be reached")


def gone(word: str = "") -> JobObservation:
    return JobObservation(alive=False, ended=word)


@pytest.mark.parametrize(
    ("changes", "attempts", "seen", "state", "reason"),
    [
        ({"state": "submitting", "job_id": None}, [], gone(), "submitting", "fvlaunch resume a takes up its job, or submits it"),
        ({}, [], PENDING, "queued", "waits for resources"),
        ({}, [], SILENT, "queued", "cannot be reached"),
        ({}, [BEFORE_RESUME], PENDING, "queued", "waits for resources"),
        ({}, [], ALIVE, "running", "on n1"),
        ({}, [RUNNING], ALIVE, "running", "on n1"),
        ({}, [RUNNING], SILENT, "running", "cannot be reached"),
        ({}, [PREEMPTED], PENDING, "requeued", "after a preemption: waits for resources"),
        ({}, [RUNNING], PENDING, "requeued", "its last life ended without a word: waits for resources"),
        ({}, [replace(PREEMPTED, next="requeue")], SILENT, "requeued", "cannot be reached"),
        ({"state": "submitting", "job_id": None}, [], replace(PENDING, job_id="8"), "queued", "waits for resources"),
        ({"state": "submitting", "job_id": None}, [], replace(ALIVE, job_id="8"), "running", "on n1"),
        ({"state": "submitting", "job_id": None}, [], SILENT, "submitting", "cannot be reached"),
        ({}, [], gone("PREEMPTED"), "stopped", "ended by that instead of being requeued; fvlaunch resume a"),
        ({}, [PREEMPTED], gone("CANCELLED by 1000"), "cancelled", "through the scheduler"),
        ({}, [RUNNING], gone("TIMEOUT"), "stopped", "fvlaunch resume a"),
        ({}, [RUNNING], gone("NODE_FAIL"), "failed", "NODE_FAIL before its agent could say why"),
        ({}, [], gone("FAILED"), "failed", "FAILED before its agent could say why"),
        ({}, [RUNNING], gone("OUT_OF_MEMORY"), "failed", "OUT_OF_MEMORY"),
        ({}, [RUNNING], gone(), "lost", "gone without a word; fvlaunch resume a"),
        ({"executor": "local", "job_id": "local-1-1"}, [RUNNING], gone(), "lost", "gone without a word"),
        *[({"state": final, "reason": "so it was"}, [RUNNING], seen, final, "so it was") for final in FINAL_STATES
          for seen in (ALIVE, PENDING, SILENT, gone("FAILED"))],
    ],
)  # fmt: skip
def test_the_state_of_a_run(changes: dict[str, Any], attempts: list[Attempt], seen: JobObservation, state: str, reason: str) -> None:
    judged, why = judge(replace(RECORD, **changes), attempts, seen)
    assert judged == state and reason in why
    assert judged in run_status.STATES


# With a scheduler that answers, and one that does not


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "a", RECORD)


def listed(state: str, **changes: Any) -> dict[str, QueuedJob]:
    blank: dict[str, Any] = {
        **dict.fromkeys(QueuedJob.__dataclass_fields__),
        "reason": "",
        "exit_code": "0:0",
        "work_dir": "",
        "restarts": 0,
    }
    return {"7": QueuedJob(**{**blank, "job_id": "7", "state": state, "comment": "fvlaunch:t", **changes})}


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What squeue and the accounts answer, and how often they were asked."""
    told: dict[str, Any] = {"queue": {}, "accounts": None, "asked": []}

    def queue(timeout_s: float) -> Any:
        told["asked"].append("squeue")
        return told["queue"]() if callable(told["queue"]) else told["queue"]

    def accounted(ids: Any, timeout_s: float, since: int | None = None) -> Any:
        told["asked"].append("sacct")
        return told["accounts"]

    monkeypatch.setattr(slurm, "queue", queue)
    monkeypatch.setattr(slurm, "accounted", accounted)
    return told


def test_an_unreachable_scheduler_is_told_with_the_age_of_what_is_known(run: Run, scheduler: dict[str, Any]) -> None:
    def silent() -> Any:
        raise SchedulerUnreachable("no answer")

    scheduler["queue"] = silent
    run.record_file.write_text(json.dumps({**json.loads(run.record_file.read_text()), "updated_at": time.time() - 90}))
    [found], unreachable = run_status.statuses_of([run])
    assert found.state == "queued" and not found.is_over and unreachable is not None
    assert found.stale_s is not None and 89 < found.stale_s < 120


def test_a_job_that_nobody_knows_is_lost_unless_its_agent_was_heard_of(run: Run, scheduler: dict[str, Any]) -> None:
    assert run_status.statuses_of([run])[0][0].state == "lost"
    assert scheduler["asked"] == ["squeue", "sacct"]
    run.attempt_log(1).write_text('{"time": 1, "event": "started", "generation": 2, "job_id": "7"}\n')
    run.heartbeat_file.write_text(json.dumps({"time": time.time() - 10, "attempt": 1}))
    [found], _ = run_status.statuses_of([run])
    assert found.state == "running" and "the scheduler does not know its job" in found.reason
    run.heartbeat_file.write_text(json.dumps({"time": time.time() - 1000, "attempt": 1}))
    assert run_status.statuses_of([run])[0][0].state == "lost"


def test_an_end_that_was_seen_once_is_not_forgotten_when_the_scheduler_forgets_it(run: Run, scheduler: dict[str, Any]) -> None:
    scheduler["queue"] = listed("CANCELLED")
    assert run_status.statuses_of([run])[0][0].state == "cancelled"
    assert run_status.statuses_of([run])[0][0].state == "cancelled"
    scheduler["queue"] = {}
    assert run_status.statuses_of([run])[0][0].state == "cancelled"
    assert [event["event"] for event in run.events()] == ["job_ended"]


def test_a_job_of_the_same_number_that_is_not_the_runs_says_nothing_of_it(run: Run, scheduler: dict[str, Any]) -> None:
    scheduler["queue"] = listed("RUNNING", comment="somebody's", work_dir="/elsewhere")
    assert run_status.statuses_of([run])[0][0].state == "lost"
    scheduler["queue"] = listed("RUNNING", comment="", work_dir="/runs/a/job/t")
    assert run_status.statuses_of([run])[0][0].state == "running"


def test_a_job_on_another_slurm_is_unknown_here_not_gone(run: Run, scheduler: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "cluster_name", lambda timeout_s: "here")
    run.update(scheduler="away")
    [found], _ = run_status.statuses_of([run])
    assert (found.state, found.is_over) == ("queued", False) and "on the Slurm cluster away; ask there" in found.reason
    assert scheduler["asked"] == ["squeue"]
    run.update(scheduler="here")
    assert run_status.statuses_of([run])[0][0].state == "lost"


def test_an_agent_that_fell_silent_is_told_of_beside_a_job_that_runs(run: Run, scheduler: dict[str, Any]) -> None:
    scheduler["queue"] = listed("RUNNING")
    run.attempt_log(1).write_text('{"time": 1, "event": "started", "generation": 2, "job_id": "7"}\n')
    for age, told in ((5, False), (600, True)):
        run.heartbeat_file.write_text(json.dumps({"time": time.time() - age, "attempt": 1}))
        assert ("nothing was heard of its agent for 10 minutes" in run_status.statuses_of([run])[0][0].reason) is told


def test_preempted_is_final_only_once_it_stays_so(run: Run, scheduler: dict[str, Any]) -> None:
    scheduler["queue"] = listed("PREEMPTED", end_at=int(time.time()))
    assert run_status.statuses_of([run])[0][0].state == "running"
    scheduler["queue"] = listed("PREEMPTED", end_at=int(time.time()) - 60)
    assert run_status.statuses_of([run])[0][0].state == "stopped"


@pytest.mark.parametrize(("want", "state"), [("stop", "stopped"), ("cancel", "cancelled"), ("run", "lost")])
def test_a_job_that_ended_before_its_agent_listened_ended_as_the_person_wanted(want: Any, state: str) -> None:
    gone = JobObservation(alive=False)
    assert judge(replace(RECORD, state="submitted"), [], gone, Intent(want, RECORD.generation))[0] == state
    assert judge(replace(RECORD, state="submitted"), [], gone, Intent(want, RECORD.generation - 1))[0] == "lost"


def test_a_run_that_ends_while_it_is_asked_about_is_not_lost(run: Run, scheduler: dict[str, Any]) -> None:
    def ends() -> Any:
        run.update(state="finished", reason="")
        return listed("COMPLETED")

    scheduler["queue"] = ends
    assert run_status.statuses_of([run])[0][0].state == "finished"
    assert run.events() == []


def test_a_run_that_is_over_costs_the_scheduler_nothing(run: Run, scheduler: dict[str, Any]) -> None:
    run.update(state="failed", reason="crashed")
    assert run_status.statuses_of([run])[0][0].reason == "crashed"
    assert scheduler["asked"] == []


def test_a_local_run_of_another_machine_is_not_called_gone(run: Run) -> None:
    run.update(executor="local", job_id="local-1-1", host="elsewhere/boot")
    [found], _ = run_status.statuses_of([run])
    assert (found.state, found.is_over) == ("queued", False) and "it runs on elsewhere" in found.reason
    run.update(host=local_process.host_identity(), job_id=local_process.local_job_id(os.getpid()))
    assert run_status.statuses_of([run])[0][0].state == "running"


def test_a_status_holds_what_the_files_say(run: Run, scheduler: dict[str, Any]) -> None:
    scheduler["queue"] = listed("RUNNING")
    first = '{"step": 39, "loss": 1, "generator_loss": 0.25, "critic_loss": 0.75}\n'
    run.metrics_file.write_text(first + '{"step": 40, "loss": 0.5, "critic_loss": 0.5, "step_s": 9}\n{"step": 41, "lo')
    run.heartbeat_file.write_text(json.dumps({"time": 5.0, "median_step_s": 0.25, "phase": "stepping"}))
    run.attempt_log(1).write_text('{"time": 1, "event": "started", "generation": 2, "job_id": "7"}\n')
    (run.checkpoints / "step-00000030").mkdir()
    (run.checkpoints / "step-00000020").mkdir()
    (run.checkpoints / ".step-00000040.x").mkdir()
    [found], _ = run_status.statuses_of([run])
    assert (found.state, found.step, found.loss, found.step_s, found.phase) == ("running", 40, 0.5, 0.25, "stepping")
    assert (found.eta_s, found.last_checkpoint_step, found.attempts, found.job_ids) == (15.0, 30, 1, ("7",))
    assert found.losses == {"generator_loss": 0.25, "critic_loss": 0.5}  # a student is not updated at every step


def test_metrics_that_cannot_be_read_are_no_metrics(tmp_path: Path) -> None:
    assert last_metrics(tmp_path / "none") == {}
    (tmp_path / "m").write_text('{"step": 1}\nnot json\n[1]\n')
    assert last_metrics(tmp_path / "m") == {"step": 1}


# In words

STATUS = RunStatus("a", "r", "c", "running", "", 0, 100, "7", ("7",), 1, None, 1.0, "/runs/a")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"phase": "preparing"}, "a  preparing data"),
        ({"state": "queued", "phase": "loading", "reason": "waits\nlong"}, "a  queued  (waits)"),
        ({"step": 40, "loss": 0.51234, "step_s": 0.25, "eta_s": 15.0}, "a  running  step 40/100  loss 0.5123  0.25 s/step  ETA 15s"),
        (
            {"step": 40, "loss": 2.0, "losses": {"generator_loss": 0.5, "critic_loss": 1.5}, "eta_s": 90.0, "allocation_left_s": 60.0},
            "a  running  step 40/100  loss 2.0000  student 0.5000  critic 1.5000  ETA 1m30s  allocation ends in 1m00s",
        ),
        ({"step": 40, "loss": 0.0, "attempts": 3}, "a  running  step 40/100  loss 0.0000  attempt 3"),
        ({"state": "finished", "step": 100, "reason": "all done"}, "a  finished  step 100/100"),
        ({"state": "failed", "step": 4, "reason": "rank 1 on n1: killed\n  line"}, "a  failed  step 4/100  (rank 1 on n1: killed)"),
    ],
)
def test_a_status_in_one_line(changes: dict[str, Any], text: str) -> None:
    assert progress.describe(replace(STATUS, **changes)) == text
    assert progress.describe(replace(STATUS, **changes), name=False) == text.removeprefix("a  ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (90, "1m30s"), (3600, "1h00m"), (7300, "2h01m"), (90000, "1d1h00m")],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_waiting_ends_with_the_run_and_its_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0)
    states = iter(["queued", "running", "finished", "cancelled"])
    monkeypatch.setattr(Slurm, "poll_s", -1.0)
    monkeypatch.setattr(progress, "statuses_of", lambda _: ([replace(STATUS, state=next(states))], None))
    code, found = progress.wait(run)
    assert code == 0 and found is not None and found.state == "finished"
    assert progress.wait(run)[0] == 1


def test_waiting_says_once_of_each_hold_that_somebody_has_to_release_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0)
    monkeypatch.setattr(Slurm, "poll_s", -1.0)
    held = replace(STATUS, state="queued", blocked="held", reason="job 1 is held")
    again = replace(held, state="requeued", reason="job 1 was requeued and is held")
    seen = iter([held, held, replace(STATUS, state="running"), again, again, replace(STATUS, state="finished")])
    monkeypatch.setattr(progress, "statuses_of", lambda _: ([next(seen)], None))
    assert progress.wait(run, quiet=True)[0] == 0
    assert capsys.readouterr().err == "a waits for somebody: job 1 is held\na waits for somebody: job 1 was requeued and is held\n"


def test_waiting_ends_where_a_job_can_never_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0)
    never = replace(STATUS, state="queued", blocked="never", reason="job 1 asks for what no node has")
    monkeypatch.setattr(progress, "statuses_of", lambda _: ([never], None))
    assert progress.wait(run) == (1, never)


def test_ctrl_c_detaches_and_says_how_to_come_back(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "statuses_of", interrupted)
    before = run.record_file.read_bytes(), run.intent_file.read_bytes()
    assert progress.wait(run) == (130, None)
    assert "a goes on. fvlaunch attach a" in capsys.readouterr().err
    assert (run.record_file.read_bytes(), run.intent_file.read_bytes()) == before


def test_a_loop_asks_a_scheduler_rarely_and_sees_the_end_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count()
    monkeypatch.setattr(progress, "statuses_of", lambda runs: (next(asked), ([replace(STATUS, state=runs[0].record().state)], None))[1])
    is_over = progress.rarely_over(run)
    assert [is_over() for _ in range(20)] == [False] * 20
    assert next(asked) == 1
    run.update(state="finished")
    assert is_over()


def test_a_preprocessing_that_is_over_tells_what_became_of_its_entries() -> None:
    told = {"entries": 20, "written": 9, "holdout": 2, "rejected": {"a": 1, "b": 5, "c": 2, "d": 2, "e": 1}}
    entries = entries_of(told)
    assert entries is not None and list(entries["reasons"]) == ["b", "c", "d", "a", "e"]
    assert entries_text(entries) == "9 of 20 entries used (2 of them held out), 11 rejected: 5 b, 2 c, 2 d, 1 a, 1 more"
    whole = entries_of({"entries": 3, "written": 3, "holdout": 0, "rejected": {}})
    assert whole is not None and entries_text(whole) == "3 of 3 entries used, 0 rejected"
    assert [entries_of(bad) for bad in (None, {}, [1], {**told, "rejected": [1]}, {**told, "entries": "x"})] == [None] * 5  # type: ignore[arg-type]
