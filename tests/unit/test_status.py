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

from fvlaunch import jobs, logs, progress, slurm, status
from fvlaunch.attempts import Attempt, Cause
from fvlaunch.errors import FvlaunchError, SchedulerUnreachable
from fvlaunch.runs import FINAL_STATES, Intent, Record, Run, create
from fvlaunch.slurm_answers import JobDetails
from fvlaunch.status import RunStatus, Seen, judge, last_metrics

RECORD = Record(
    name="a", recipe="r", cluster="c", executor="slurm", generation=2, token="t", max_steps=100, ranks=1, nodes=1,
    submitted_at=1.0, updated_at=1.0, state="submitted", job_id="7", job_ids=("7",),
)  # fmt: skip
RUNNING = Attempt(1, 2, "7", ("n1",), 1.0, None, Cause.RUNNING, None, 30)
PREEMPTED = replace(RUNNING, ended_at=2.0, cause=Cause.PREEMPTION)
BEFORE_RESUME = replace(PREEMPTED, generation=1)
ALIVE, PENDING = Seen(alive=True, words="on n1"), Seen(alive=True, pending=True, words="waits for resources")
SILENT = Seen(alive=None, words="the scheduler cannot be reached")


def gone(word: str = "") -> Seen:
    return Seen(alive=False, ended=word)


@pytest.mark.parametrize(
    ("changes", "attempts", "seen", "state", "reason"),
    [
        ({"state": "submitting", "job_id": None}, [], gone(), "submitting", "fvlaunch resume adopts its job or submits again"),
        ({}, [], PENDING, "queued", "waits for resources"),
        ({}, [], SILENT, "queued", "cannot be reached"),
        ({}, [BEFORE_RESUME], PENDING, "queued", "waits for resources"),
        ({}, [], ALIVE, "running", "on n1"),
        ({}, [RUNNING], ALIVE, "running", "on n1"),
        ({}, [RUNNING], SILENT, "running", "cannot be reached"),
        ({}, [PREEMPTED], PENDING, "requeued", "after preemption: waits for resources"),
        ({}, [RUNNING], PENDING, "requeued", "waits for resources"),
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
def test_the_state_of_a_run(changes: dict[str, Any], attempts: list[Attempt], seen: Seen, state: str, reason: str) -> None:
    judged, why = judge(replace(RECORD, **changes), attempts, seen)
    assert judged == state and reason in why
    assert judged in status.STATES


# With a scheduler that answers, and one that does not


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "a", RECORD)


def details(state: str, **changes: Any) -> JobDetails:
    blank = dict.fromkeys(JobDetails.__dataclass_fields__)
    return JobDetails(**{**blank, "job_id": "7", "state": state, "reason": "", "exit_code": "0:0", **changes})


def test_an_unreachable_scheduler_is_told_with_the_age_of_what_is_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise SchedulerUnreachable("no answer")

    monkeypatch.setattr(slurm, "queue", silent)
    run.record_file.write_text(json.dumps({**json.loads(run.record_file.read_text()), "updated_at": time.time() - 90}))
    [found], unreachable = status.of([run])
    assert found.state == "queued" and not found.is_over and unreachable is not None
    assert found.stale_s is not None and 89 < found.stale_s < 120


def test_a_job_that_squeue_does_not_list_is_asked_after_before_it_is_called_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "queue", lambda _, timeout_s: {})
    monkeypatch.setattr(slurm, "job", lambda _, timeout_s: details("RUNNING"))
    assert status.of([run])[0][0].state == "running"
    monkeypatch.setattr(slurm, "job", lambda _, timeout_s: None)
    assert status.of([run])[0][0].state == "lost"


@pytest.mark.parametrize(("want", "state"), [("stop", "stopped"), ("cancel", "cancelled"), ("run", "lost")])
def test_a_job_that_ended_before_its_agent_listened_ended_as_the_person_wanted(want: Any, state: str) -> None:
    gone = Seen(alive=False)
    assert judge(replace(RECORD, state="submitted"), [], gone, Intent(want, RECORD.generation))[0] == state
    assert judge(replace(RECORD, state="submitted"), [], gone, Intent(want, RECORD.generation - 1))[0] == "lost"


def test_a_run_that_ends_while_it_is_asked_about_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(_: Any, timeout_s: float) -> JobDetails:
        run.update(state="finished", reason="")
        return details("COMPLETED")

    monkeypatch.setattr(slurm, "queue", lambda _, timeout_s: {})
    monkeypatch.setattr(slurm, "job", ends)
    assert status.of([run])[0][0].state == "finished"


def test_a_run_that_is_over_costs_the_scheduler_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.update(state="failed", reason="crashed")
    monkeypatch.setattr(slurm, "queue", lambda _, timeout_s: pytest.fail("squeue was called"))
    monkeypatch.setattr(slurm, "job", lambda _, timeout_s: pytest.fail("scontrol was called"))
    assert status.of([run])[0][0].reason == "crashed"


def test_a_local_run_of_another_machine_is_not_called_gone(run: Run) -> None:
    run.update(executor="local", job_id="local-1-1", host="elsewhere/boot")
    [found], _ = status.of([run])
    assert (found.state, found.is_over) == ("queued", False) and "it runs on elsewhere" in found.reason
    run.update(host=jobs.host_identity(), job_id=jobs.local_job_id(os.getpid()))
    assert status.of([run])[0][0].state == "running"


def test_a_status_holds_what_the_files_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "queue", lambda _, timeout_s: {})
    monkeypatch.setattr(slurm, "job", lambda _, timeout_s: details("RUNNING"))
    run.metrics_file.write_text('{"step": 39, "loss": 1}\n{"step": 40, "loss": 0.5, "step_s": 9}\n{"step": 41, "lo')
    run.heartbeat_file.write_text(json.dumps({"time": 5.0, "median_step_s": 0.25, "phase": "stepping"}))
    run.attempt_log(1).write_text('{"time": 1, "event": "started", "generation": 2, "job_id": "7"}\n')
    (run.checkpoints / "step-00000030").mkdir()
    (run.checkpoints / "step-00000020").mkdir()
    (run.checkpoints / ".step-00000040.x").mkdir()
    [found], _ = status.of([run])
    assert (found.state, found.step, found.loss, found.step_s, found.phase) == ("running", 40, 0.5, 0.25, "stepping")
    assert (found.eta_s, found.last_checkpoint_step, found.attempts, found.job_ids) == (15.0, 30, 1, ("7",))


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
    assert progress.duration(seconds) == text


def test_waiting_ends_with_the_run_and_its_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0)
    states = iter(["queued", "running", "finished", "cancelled"])
    monkeypatch.setattr(progress, "ASK_SCHEDULER_S", -1.0)
    monkeypatch.setattr(progress, "of", lambda _: ([replace(STATUS, state=next(states))], None))
    code, found = progress.wait(run)
    assert code == 0 and found is not None and found.state == "finished"
    assert progress.wait(run)[0] == 1


def test_ctrl_c_detaches_and_says_how_to_come_back(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "of", interrupted)
    before = run.record_file.read_bytes(), run.intent_file.read_bytes()
    assert progress.wait(run) == (130, None)
    assert "a goes on. fvlaunch attach a" in capsys.readouterr().err
    assert (run.record_file.read_bytes(), run.intent_file.read_bytes()) == before


def test_a_loop_asks_a_scheduler_rarely_and_sees_the_end_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count()
    monkeypatch.setattr(progress, "of", lambda runs: (next(asked), ([replace(STATUS, state=runs[0].record().state)], None))[1])
    is_over = progress.rarely_over(run)
    assert [is_over() for _ in range(20)] == [False] * 20
    assert next(asked) == 1
    run.update(state="finished")
    assert is_over()


# Logs


def write_log(run: Run, attempt: int, text: str, rank: int = 0) -> Path:
    run.attempt_log(attempt).touch()
    path = run.rank_log(attempt, rank)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


def test_the_newest_attempt_that_has_a_log_is_shown(run: Run) -> None:
    assert logs.log_file(run, None, 0) is None and logs.log_file(run, None, 3) is None
    write_log(run, 1, "one\n")
    write_log(run, 2, "two\n")
    run.attempt_log(3).touch()  # it has only just started
    assert logs.log_file(run, None, 0) == run.rank_log(2, 0) and logs.log_file(run, 1, 0) == run.rank_log(1, 0)
    with pytest.raises(FvlaunchError) as caught:
        logs.log_file(run, 9, 0)
    assert caught.value.hint == "its attempts: 1-3"


def test_lines_are_searched_and_bytes_that_are_no_text_do_no_harm(run: Run) -> None:
    path = write_log(run, 1, "step 1\n")
    path.write_bytes(b"step 1\nloss \xff 2\nstep 3")
    assert list(logs.lines(path, None)) == ["step 1", "loss \ufffd 2", "step 3"]
    assert list(logs.lines(path, "^step")) == ["step 1", "step 3"]


def test_following_shows_every_line_once_over_two_attempts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of a crashed attempt come just before the next one starts: they are what is looked for."""
    monkeypatch.setattr(logs, "POLL_S", 0)
    monkeypatch.setattr(logs, "CHUNK", 3)
    write_log(run, 1, "first\nhalf a ")
    turns = count()

    def is_over() -> bool:
        turn = next(turns)
        if turn == 1:
            write_log(run, 1, "line: äöü\nTraceback\nunended")
            write_log(run, 2, "second\n")
        elif turn == 2:
            write_log(run, 2, "last without an end")
        return turn == 2

    assert list(logs.follow(run, 0, None, is_over)) == [
        "==> attempt-0001 rank-0000 <==", "first", "half a line: äöü", "Traceback", "unended",
        "==> attempt-0002 rank-0000 <==", "second", "last without an end",
    ]  # fmt: skip


def test_following_can_be_searched_and_waits_for_a_log_that_is_not_there_yet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0)
    run.attempt_log(1).touch()
    turns = count()

    def is_over() -> bool:
        turn = next(turns)
        if turn == 2:
            write_log(run, 1, "step 1\nother\nstep 2\n", rank=1)
        return turn == 3

    assert list(logs.follow(run, 1, "step", is_over)) == ["==> attempt-0001 rank-0001 <==", "step 1", "step 2"]
