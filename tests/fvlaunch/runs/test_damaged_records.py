"""A damaged file of a run is told in a line or left out, by every command; it never makes the run another one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.agent.failure_attribution import NodeEnd, RankEnd
from fvlaunch.agent.owned_record import OwnedRecord
from fvlaunch.errors import FvlaunchError
from fvlaunch.files import append_line, numbered_lines, publish_json, read_json
from fvlaunch.runs.attempts import read_attempts
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.events import read_heartbeat
from tests.support import damaged_runs, mutations
from tests.support.records import record
from tests.support.rows import Figures, fault


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "a", record(job_id="local-7-7", job_ids=("local-7-7",), state="submitted"))


@fault("H8", "each file of runs in every state, damaged in every way, and every command")
@pytest.mark.parametrize(("count", "seed"), [(100, 0), *(pytest.param(2500, seed, marks=pytest.mark.long) for seed in range(1, 9))])
def test_a_damaged_file_of_a_run_is_told_and_makes_it_no_other_run(tmp_path: Path, count: int, seed: int, figure: Figures) -> None:
    found = damaged_runs.in_a_process(count, seed, tmp_path)
    assert not found["wrong"], "\n".join(found["wrong"][:3])
    figure.count("damaged files told", count - len(found["wrong"]), count)


@pytest.mark.parametrize("name", ["run.json", "intent.json"])
@fault("H8", "bits of run.json and intent.json, flipped")
def test_a_flipped_bit_is_noticed_wherever_it_is(run: Run, name: str, figure: Figures) -> None:
    run.write_intent("cancel", 1)
    run.event("cancel", generation=1)
    path = run.path / name
    whole, before, right = path.read_bytes(), run.record(), 0
    places = range(0, 8 * len(whole), 3)
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            right += run.record() == before and run.intent().want == "cancel"
        except FvlaunchError as error:
            right += "run.json" in error.message
    figure.count("flipped bits", right, len(places))


def test_a_record_that_a_person_has_changed_counts(run: Run) -> None:
    value = json.loads(run.record_file.read_text())
    run.record_file.write_text(json.dumps({**value, "state": "stopped"}))
    assert run.record().state == "stopped"
    by_hand = json.dumps({**value, "state": "stopped"}, indent=1) + "\n"
    run.record_file.write_text(by_hand)
    with pytest.raises(FvlaunchError, match="its digest does not fit"):
        run.record()
    lines = [line for line in by_hand.splitlines() if "digest" not in line]
    run.record_file.write_text("\n".join(lines).replace("null,\n}", "null\n}") + "\n")
    assert run.record().state == "stopped"


def test_a_broken_record_names_the_job_to_end(run: Run) -> None:
    run.event("submitted", job_id="local-7-7", generation=1)
    run.record_file.write_text("{")
    with pytest.raises(FvlaunchError, match="is not JSON") as raised:
        run.record()
    assert "its last job is local-7-7" in raised.value.hint


@pytest.mark.parametrize("kind", ["truncated", "zeroed", "emptied", "deep-json", *mutations.THINGS])
def test_a_cancelled_run_stays_cancelled_whatever_becomes_of_its_intent(run: Run, kind: str) -> None:
    run.write_intent("cancel", 1)
    run.event("cancel", job_id="local-7-7", generation=1)
    run.event("submitted", job_id="local-7-7", generation=1)  # it was told late
    mutations.mutate(run.intent_file, kind, mutations.Draw(0))
    assert (run.intent().want, run.intent().generation) == ("cancel", 1)
    assert any("intent.json" in words for words in run.damage())
    run.event("submitted", job_id="local-8-8", generation=2)
    assert run.intent().want == "run"


@pytest.mark.parametrize("wrong", ["x", None, -1, True, [None], {}, 10**30, float("nan")])
@pytest.mark.parametrize("key", ["step", "generation", "time", "nodes", "job_id", "event"])
def test_a_damaged_event_is_left_out_and_told(run: Run, key: str, wrong: Any) -> None:
    if (key, wrong) in [("step", None), ("job_id", "x"), ("event", "x"), ("job_id", None)]:
        pytest.skip("may stand there")
    started = {"event": "started", "time": 1.0, "generation": 1, "job_id": "7", "nodes": ["n"], "step": 3}
    for number in (1, 2):
        append_line(run.attempt_log(number), started if number == 1 else {**started, key: wrong})
    assert [attempt.number for attempt in read_attempts(run)] == [1]
    assert [words.partition(" of ")[0] for words in run.damage()] == ["line 1"]


def test_a_heartbeat_keeps_the_fields_that_are_right(run: Run) -> None:
    publish_json(run.heartbeat_file, {"time": "x", "count": 3, "phase": 7, "median_step_s": float("inf")})
    assert read_heartbeat(run.heartbeat_file) == {"count": 3}


@pytest.mark.parametrize("change", [{"attempt": "x"}, {"generation": None}, {"port": []}, {"host": "\ud800"}])
def test_a_damaged_current_attempt_says_nothing(run: Run, change: dict[str, Any]) -> None:
    current = {"job_id": "7", "restart_count": 0, "generation": 1, "attempt": 1, "host": "h", "port": 1, "nonce": "", "outcome": None}
    publish_json(run.attempt_file, current)
    assert run.current_attempt()["attempt"] == 1
    publish_json(run.attempt_file, {**current, **change})
    assert run.current_attempt() == {}


@pytest.mark.parametrize("kind", ["truncated", "flipped", "zeroed", "emptied", "deep-json", "a-fifo", "a-loop", "large", "missing"])
def test_an_agent_puts_back_the_record_of_its_run_but_not_over_a_later_submission(run: Run, kind: str) -> None:
    owned, before = OwnedRecord(run), run.record()
    owned.keep()
    mutations.mutate(run.record_file, kind, mutations.Draw(3))
    owned.keep()
    assert dataclasses.replace(run.record(), updated_at=before.updated_at) == before
    run.write_intent("run", 2)
    mutations.mutate(run.record_file, kind, mutations.Draw(3))
    owned.keep()
    with pytest.raises(FvlaunchError, match=r"run\.json"):
        run.record()


def test_a_damaged_report_of_a_node_has_not_come() -> None:
    value = json.loads(json.dumps(NodeEnd("n", (RankEnd(0, "n", 1, 2.0),)).dump()))
    assert NodeEnd.parse(value) is not None
    draw = mutations.Draw(0)
    for _ in range(300):
        damaged = mutations.with_wrong_value(value, draw)
        found = NodeEnd.parse(damaged) if isinstance(damaged, dict) else None
        assert found is None or all(type(end.code) is int for end in found.ends)


def test_a_line_larger_than_any_record_is_passed_over_and_those_after_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n": 1}\n' + b"x" * (9 << 20) + b'\n{"n": 2}\n\xff\n{"n": ')
    assert list(numbered_lines(path)) == [(1, {"n": 1}), (2, None), (3, {"n": 2}), (4, None), (5, None)]


@pytest.mark.parametrize("kind", list(mutations.THINGS))
def test_nothing_in_the_place_of_a_record_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    mutations.mutate(path, kind, mutations.Draw(0))
    assert read_json(path) in (None, {}) and list(numbered_lines(path)) in ([], [(1, None)], [(1, {})])
    if kind != "missing":
        with pytest.raises(OSError, match="|".join((str(path), "directory"))) if kind in ("a-fifo", "a-folder", "a-loop") else _nothing():
            append_line(path, {})


def _nothing() -> Any:
    import contextlib

    return contextlib.suppress(OSError)
