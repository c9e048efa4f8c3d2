"""The way back after a crash in place: it waits for nobody who has nothing to add, and each stage of it is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fvlaunch.agent.head import SETTLE_S
from tests.integration.faults.local import EVERY, LocalRuns, kill

STAGES = ["process", "imports", "process_group", "networks", "checkpoint", "records", "first_step"]


def events(run: Path, attempt: int) -> dict[str, dict[str, Any]]:
    lines = (run / "attempts" / f"{attempt:04d}.jsonl").read_text().splitlines()
    return {event["event"]: event for event in map(json.loads, lines)}


def test_ranks_that_wait_for_a_dead_one_are_not_waited_for_and_each_stage_of_the_way_back_is_on_record(
    local: LocalRuns, reference: Path
) -> None:
    """A rank at its gate does not notice that the other is gone, as on a GPU, where a collective waits for ever."""
    run = local.submit("back", recipe="gated")
    gate = local.gate("back")
    gate.reach(EVERY + 5, ranks=2)
    local.until((run / f"checkpoints/step-{EVERY:08d}").exists, "the checkpoint is published")
    kill(local.rank_pids("back", 2)[1])
    gate.waits(EVERY, attempt=2, ranks=2)
    gate.open()
    local.ended_as("back", reference)
    ended, again = events(run, 1)["ended"], events(run, 2)
    assert ended["failure"]["what"] == "killed by SIGKILL"
    assert ended["last_end_at"] - ended["first_end_at"] < SETTLE_S
    for attempt in (1, 2):
        reached = events(run, attempt)["begun"]["reached"]
        assert list(reached) == STAGES and sorted(reached.values()) == list(reached.values())
    started, reached = again["started"], again["begun"]["reached"]
    assert started["agent_at"] < ended["first_end_at"] < ended["last_end_at"] <= started["time"] <= reached["process"]
    assert again["resumed"]["step"] == EVERY
