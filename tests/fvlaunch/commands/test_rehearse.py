"""The judgement of a rehearsal. A real one, preempted on a real Slurm, is in tests/integration/slurm/test_doctor.py."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from fvlaunch.commands import rehearse
from fvlaunch.commands.rehearse import compare
from fvlaunch.errors import FvlaunchError
from fvlaunch.runs.directory import Record, Run, create
from fvlaunch.schedulers.local_process import host_identity, local_job_id


def run(
    folder: Path, name: str, losses: list[tuple[int, float]], attempts: list[tuple[str, int | None, int]], state: str = "finished"
) -> Run:
    now = time.time()
    made = create(folder / name, Record(name, "tiny", "lab", "slurm", 1, "t", len(losses), 1, 1, now, now, state=state))
    made.metrics_file.write_text("".join(json.dumps({"step": s, "loss": loss}) + "\n" for s, loss in losses))
    for number, (cause, start, end) in enumerate(attempts, 1):
        events = [{"event": "started", "time": now, "attempt": number, "generation": 1, "job_id": "7", "nodes": ["n"]}]
        events += [{"event": "resumed", "time": now, "step": start}] if start is not None else []
        events += [
            {"event": "checkpoint", "time": now, "step": end, "save_s": 1.5},
            {"event": "ended", "time": now, "cause": cause, "step": end},
        ]
        made.attempt_log(number).write_text("".join(json.dumps(event) + "\n" for event in events))
    return made


SAME = [(step, 1 / 3 / step) for step in range(1, 7)]


def test_the_same_losses_after_an_interruption_are_proof(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", SAME, [("finished", None, 6)])
    found = compare(whole, run(tmp_path, "broken", SAME, [("preemption", None, 4), ("finished", 3, 6)]), "preempted")
    assert found["ok"] and found["causes"] == ["preemption", "finished"] and found["steps_done_again"] == 1 and found["save_s"] == 1.5


def test_the_last_bit_of_one_loss_is_seen(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", SAME, [("finished", None, 6)])
    other = [(step, loss if step != 5 else loss + 2**-56) for step, loss in SAME]
    found = compare(whole, run(tmp_path, "broken", other, [("preemption", None, 4), ("finished", 4, 6)]), "preempted")
    assert not found["ok"] and found["first_difference"] == 5


def test_a_run_that_was_not_interrupted_or_did_not_end_or_did_a_step_twice_proves_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", SAME, [("finished", None, 6)])
    for name, losses, attempts, state in (
        ("quiet", SAME, [("finished", None, 6)], "finished"),
        ("failed", SAME, [("preemption", None, 4), ("crash", 4, 6)], "failed"),
        ("twice", [*SAME[:4], *SAME[3:]], [("preemption", None, 4), ("finished", 3, 6)], "finished"),
        ("short", SAME[:5], [("preemption", None, 4), ("finished", 4, 5)], "finished"),
    ):
        found = compare(whole, run(tmp_path, name, losses, attempts, state), "requeued")
        assert not found["ok"] and list(found["checks"].values()).count(False) == 1, name


@pytest.mark.timeout(30)
def test_a_job_that_does_not_end_though_its_run_is_over_is_told_and_not_waited_for_without_end(tmp_path: Path) -> None:
    stopped = run(tmp_path, "stopped", SAME, [], state="stopped")
    stopped.update(executor="local", job_id=local_job_id(os.getpid()), host=host_identity())  # it ends after this test
    with pytest.raises(FvlaunchError, match=r"stopped is stopped, but its job local-.* does not end"):
        rehearse._await_job_end(stopped, limit_s=0.2)
