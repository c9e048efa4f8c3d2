"""The run directory: private, published by rename, readable after a torn write; RUN means what a person means."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from fvlaunch.errors import FvlaunchError
from fvlaunch.files import append_line, overwrite_json, publish_json, read_json, read_lines
from fvlaunch.runs import registry
from fvlaunch.runs.attempts import Cause, read_attempts
from fvlaunch.runs.directory import Record, Run, create
from fvlaunch.runs.run_names import find
from tests.support.records import record
from tests.support.rows import fault


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_run_directory_is_private(tmp_path: Path) -> None:
    run = create(tmp_path / "runs" / "a", record())
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(run.record_file.stat().st_mode) == 0o600


def test_an_existing_name_is_refused_and_untouched(tmp_path: Path) -> None:
    create(tmp_path / "a", record(job_id="7"))
    with pytest.raises(FvlaunchError, match="exists already"):
        create(tmp_path / "a", record())
    assert Run(tmp_path / "a").record().job_id == "7"


def test_what_was_read_when_runs_were_listed_is_forgotten_once_the_record_is_read_or_changed(tmp_path: Path) -> None:
    create(tmp_path / "a", record(state="finished"))
    for use in (lambda run: run.update(state="queued"), lambda run: (Run(run.path).update(state="queued"), run.record())):
        Run(tmp_path / "a").update(state="finished")
        [run] = registry.known([tmp_path])
        use(run)
        assert run.first_record().state == run.state_when_listed() == "queued"


def test_an_unwritable_runs_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FvlaunchError, match="cannot make the run directory"):
        create(tmp_path / "file" / "a", record())


@fault("23", "events.jsonl with a cut line in it")
def test_a_line_cut_by_a_dying_writer_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "tex')
    append_line(path, {"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]


def test_a_record_rewritten_in_place_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "attempt.json"
    path.write_text("{}")
    inode = path.stat().st_ino
    overwrite_json(path, {"attempt": 1, "text": "x" * 3000})
    overwrite_json(path, {"attempt": 2})
    assert read_json(path) == {"attempt": 2}
    assert path.stat().st_ino == inode


def _add(path: str, count: int) -> None:
    run = Run(Path(path))
    for _ in range(count):
        with run.locked():
            run.write_record(Record(**{**run.record().__dict__, "generation": run.record().generation + 1}))


def test_changes_by_several_processes_are_not_lost(tmp_path: Path) -> None:
    run = create(tmp_path / "a", record())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(str(run.path), 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert run.record().generation == 61


def test_run_means_a_name_a_prefix_a_job_a_path_or_last(tmp_path: Path) -> None:
    for n, name in enumerate(["apple", "apricot", "banana"]):
        run = create(tmp_path / name, record(name, submitted_at=float(n), job_ids=(f"10{n}",)))
        registry.remember(run.path)
    assert find("banana").name == "banana"
    assert find("b").name == "banana"
    assert find("101").name == "apricot"
    assert find("last").name == "banana"
    assert find(str(tmp_path / "apple")).name == "apple"
    with pytest.raises(FvlaunchError, match="means 2 runs"):
        find("ap")
    with pytest.raises(FvlaunchError, match="no run is called"):
        find("cherry")


def test_an_attempt_without_an_end_was_interrupted_unless_it_is_the_newest(tmp_path: Path) -> None:
    run = create(tmp_path / "a", record())
    for number in (1, 2):
        started = {"event": "started", "time": 1.0, "generation": 1, "job_id": "7", "nodes": ["n"]}
        append_line(run.attempt_log(number), started)
        append_line(run.attempt_log(number), {"event": "checkpoint", "time": 2.0, "step": 10 * number, "save_s": 0.5})
    first, second = read_attempts(run)
    assert (first.cause, first.step_to) == (Cause.INTERRUPTED, 10)
    assert (second.cause, second.step_to, second.save_s) == (Cause.RUNNING, 20, 0.5)


def test_the_newest_checkpoint_is_found_by_name_and_bad_or_temporary_ones_are_not(tmp_path: Path) -> None:
    run = create(tmp_path / "a", record())
    for name in ("step-00000100", "step-00000200", "step-00000300.bad", ".step-00000400.abcd"):
        (run.checkpoints / name).mkdir()
    assert run.last_checkpoint_step() == 200


def test_json_that_is_half_written_reads_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": ')
    assert read_json(path) is None
    publish_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
