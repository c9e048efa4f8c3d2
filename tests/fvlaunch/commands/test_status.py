"""`status` as a command: what attempts cost and brought, watching, and thousands of runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.cli import app
from fvlaunch.commands import status as status_command
from fvlaunch.files import append_line, publish_json
from fvlaunch.runs.attempts import read_attempts
from fvlaunch.runs.directory import Record, Run, create
from fvlaunch.schedulers import local_process
from fvlaunch.status import cache as status_cache
from fvlaunch.status import run_status
from fvlaunch.status.goodput import spent, total
from tests.support.records import finished_record


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FVLAUNCH_RUNS", raising=False)
    (tmp_path / "runs").mkdir()
    return tmp_path


RECORD = finished_record(ranks=8)


@pytest.fixture
def run(folder: Path) -> Run:
    """Two attempts of an hour on 8 GPUs: the first made 30 steps and lost 10 of them, the second made 80."""
    made = create(folder / "runs" / "a", RECORD)
    attempt(made, 1, 0, 3600, "preemption", 30, decided={"next": "requeue", "exclude": ["n2"]})
    attempt(made, 2, 4000, 7600, "finished", 100, resumed=20)
    lines = [{"step": n, "loss": 1, "step_s": 90.0, "attempt": 1} for n in range(1, 21)]
    lines += [{"step": n, "loss": 1, "step_s": 36.0, "attempt": 2} for n in range(21, 101)]
    made.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def attempt(run: Run, number: int, start: float, end: float | None, cause: str, step: int, resumed: int | None = None, **more: Any) -> None:
    events = [{"time": start, "event": "started", "generation": 1, "job_id": "7", "nodes": ["n1", "n2"], "ranks": 8}]
    if resumed is not None:
        events.append({"time": start, "event": "resumed", "step": resumed})
    if end is not None:
        events.append({"time": end, "event": "ended", "cause": cause, "step": step})
    events += [{"time": end, "event": event, **details} for event, details in more.items()]
    run.attempt_log(number).write_text("".join(json.dumps(event) + "\n" for event in events))


def called(*arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = app.run(list(arguments))
    return code, out.getvalue()


def test_gpu_hours_and_the_part_of_them_in_steps_that_count(run: Run) -> None:
    first, second = spent(run, read_attempts(run))
    assert (first.gpu_hours, first.steps_kept, first.useful) == (8.0, 20, 0.5)
    assert (second.gpu_hours, second.steps_kept, second.useful) == (8.0, 80, 0.8)
    whole = total([first, second])
    assert (whole.gpu_hours, whole.steps_kept, round(whole.useful or 0, 6)) == (16.0, 100, 0.65)


def test_an_attempt_that_was_cut_off_ended_when_it_last_wrote(run: Run) -> None:
    attempt(run, 3, 8000, None, "", 0)
    attempt(run, 4, time.time() - 30, None, "", 0)
    cut, going = spent(run, read_attempts(run))[2:]
    assert cut.seconds > 1e9  # its log was written just now, by this test
    os.utime(run.attempt_log(3), (8600, 8600))
    assert spent(run, read_attempts(run))[2].seconds == 600
    assert 29 < going.seconds < 60
    assert (going.steps_kept, going.useful) == (0, 0.0)


@pytest.mark.parametrize("saved", [None, 20, 70], ids=["none", "in the first attempt", "in the second"])
def test_steps_behind_the_newest_checkpoint_do_not_count_once_nothing_trains(run: Run, saved: int | None) -> None:
    attempt(run, 3, 9000, 9100, "crash", 0)
    if saved is not None:
        (run.checkpoints / f"step-{saved:08d}").mkdir(parents=True)
    costs = spent(run, read_attempts(run))
    assert [cost.steps_kept for cost in costs] == [min(saved or 0, 20), max(0, (saved or 0) - 20), 0]
    assert costs[0].useful == (0.5 if saved else 0.0)


def test_attempts_are_told_with_cause_nodes_steps_hours_and_use(run: Run) -> None:
    code, text = called("status", "a", "--attempts")
    assert code == 0
    rows = [line.split() for line in text.splitlines() if line.startswith(("1 ", "2 "))]
    assert rows[0][:8] == ["1", "preemption", "0-30", "1h00m", "8", "50%", "7", "n1,n2"]
    assert "next without n2" in text and rows[1][2:6] == ["20-100", "1h00m", "8", "80%"]
    assert "2 attempts, 16 GPU-hours, 65% of it in the 100 steps kept" in text
    [found] = json.loads(called("status", "a", "--attempts", "--json")[1])
    assert [(a["gpu_hours"], a["useful"], a["steps_kept"]) for a in found["attempts_list"]] == [(8.0, 0.5, 20), (8.0, 0.8, 80)]


def test_a_method_with_several_losses_and_the_end_of_the_allocation_are_told(run: Run) -> None:
    attempt(run, 3, time.time() - 60, None, "", 0)
    run.update(state="submitted", job_id=local_process.local_job_id(1), max_steps=1000, host=local_process.host_identity())
    with run.metrics_file.open("a") as file:
        file.write('{"step": 101, "loss": 2, "generator_loss": 0.5, "critic_loss": 1.5, "step_s": 2.0, "attempt": 3}\n')
    beat = {"time": time.time(), "attempt": 3, "phase": "stepping", "median_step_s": 2.0, "allocation_left_s": 1000}
    run.heartbeat_file.write_text(json.dumps(beat))
    text = called("status", "a")[1]
    assert "losses:    student 0.5000, critic 1.5000" in text
    assert "29m58s to go, the allocation ends in 16m" in text and "of it in another one" in text


def test_watching_shows_what_changed_and_ends_with_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "WATCH_S", 0.05)
    run.update(state="submitted", job_id=local_process.local_job_id(1), host=local_process.host_identity())
    rounds = iter([lambda: None, lambda: None, lambda: run.update(state="finished")])  # looked at three times before it ends
    monkeypatch.setattr(status_command.time, "sleep", lambda _: next(rounds)())
    code, text = called("status", "--watch", "--json")
    pages = [json.loads(line) for line in text.splitlines()]
    assert code == 0
    assert [page[0]["state"] for page in pages] == ["running", "finished"]  # the same page again is not printed off a terminal


def test_ctrl_c_ends_the_watching_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.update(state="submitted", job_id=local_process.local_job_id(1), host=local_process.host_identity())
    before = run.record_file.read_bytes()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status_command.time, "sleep", interrupted)
    code, text = called("status", "a", "--watch")
    assert (code, text.splitlines()[1].split()[:2]) == (0, ["a", "running"])
    assert run.record_file.read_bytes() == before


def test_the_newest_ten_and_all_that_are_not_over_or_lost_of_late_are_shown(folder: Path) -> None:
    for number in range(15):
        state = "submitted" if number in (1, 2) else "finished"
        record = {**RECORD.__dict__, "name": f"r{number:02}", "state": state, "submitted_at": float(number), "job_id": "local-1-1"}
        made = create(folder / "runs" / f"r{number:02}", Record(**record))
        if number == 1:
            publish_json(made.record_file, {**record, "updated_at": time.time() - 20 * 86400})
    shown = [s["run"] for s in json.loads(called("status", "--json")[1])]
    assert shown == ["r02", *(f"r{number:02}" for number in range(5, 15))]
    assert len(json.loads(called("status", "--all", "--json")[1])) == 15


def test_each_runs_record_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fvlaunch import files
    from fvlaunch.runs import directory as run_directory
    from fvlaunch.runs import registry

    for number in range(5):
        create(folder / "runs" / f"r{number}", Record(**{**RECORD.__dict__, "name": f"r{number}"}))
    read: list[str] = []
    real = files.read_json

    def counted(path: Path | str) -> Any:
        read.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(registry, "read_json", counted)
    monkeypatch.setattr(run_directory, "read_json", counted)
    assert called("status", "--all")[0] == 0
    assert read.count("run.json") == 5


def test_of_many_runs_that_are_over_nothing_is_read_twice_unless_it_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(status_cache.MANY + 10):
        create(folder / "runs" / f"r{number:02}", Record(**{**RECORD.__dict__, "name": f"r{number:02}", "submitted_at": float(number)}))
    first = json.loads(called("status", "--all", "--json")[1])
    judged: list[str] = []
    real = run_status.judge_run
    monkeypatch.setattr(run_status, "judge_run", lambda run, *rest: (judged.append(run.name), real(run, *rest))[1])
    assert json.loads(called("status", "--all", "--json")[1]) == first
    assert judged == []
    (folder / "runs" / "r03" / "checkpoints" / "step-00000007").mkdir()
    Run(folder / "runs" / "r05").update(state="failed", reason="changed")
    again = {s["run"]: s for s in json.loads(called("status", "--all", "--json")[1])}
    assert sorted(judged) == ["r03", "r05"]
    assert (again["r03"]["last_checkpoint_step"], again["r05"]["reason"]) == (7, "changed")
    (folder / "state" / "fvlaunch" / "over.json").write_text('{"fields": "')  # only a cache
    assert len(json.loads(called("status", "--all", "--json")[1])) == len(first)


def test_a_run_that_was_never_heard_of_again_has_its_place_in_time_and_keeps_its_last_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"state": "submitted", "executor": "slurm", "scheduler": "gone", "job_id": "7"}
    long_ago = time.time() - 90 * 86400
    for number, name in enumerate(("queued", "cut-off", "ended", "lately")):
        heard = time.time() if name == "lately" else long_ago
        made = create(folder / "runs" / name, Record(**{**RECORD.__dict__, **away, "name": name, "submitted_at": float(number)}))
        publish_json(made.record_file, {**made.record().__dict__, "updated_at": heard})
        if name == "cut-off":
            attempt(made, 1, heard, heard + 9, "out_of_memory", 30, decided={"next": "end"})
        if name == "ended":
            append_line(made.events_file, {"time": heard, "event": "job_ended", "job_id": "7", "state": "TIMEOUT", "words": ""})
    monkeypatch.setenv("PATH", str(folder))  # no squeue
    code, out = called("status", "--all", "--json")
    states = {s["run"]: (s["state"], s["reason"]) for s in json.loads(out)}
    assert states["queued"][0] == "lost" and "nothing was heard of it on gone for 90 days, when it was queued" in states["queued"][1]
    assert states["cut-off"][0] == "failed" and states["ended"][0] == "stopped" and states["lately"][0] == "queued" and code == 3
    for number in range(10):
        create(folder / "runs" / f"new{number}", Record(**{**RECORD.__dict__, "name": f"new{number}", "submitted_at": 100.0 + number}))
    assert [s["run"] for s in json.loads(called("status", "--json")[1])] == ["lately", *(f"new{number}" for number in range(10))]
    shutil.rmtree(folder / "runs/lately")
    assert called("status", "--json")[0] == 0 and called("status", "queued")[0] == 0
