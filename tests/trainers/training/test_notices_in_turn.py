"""A stop notice that reaches the ranks of one run one after the other, at any moment of a step: all save the same one."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.rows import Figures, fault
from tests.support.trainers.trainer_ranks import metrics, tiny

ENOUGH = 5000
"""Steps that no trial comes to."""


@fault("7", "SIGTERM to two ranks, up to 60 ms (some steps) apart")
@pytest.mark.parametrize("count", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_ranks_that_hear_a_notice_one_after_the_other_save_the_same_step(
    runs: Any, data: Path, tmp_path: Path, figure: Figures, count: int
) -> None:
    dice, right = random.Random(7), 0
    for number in range(count):
        run = tmp_path / str(number)
        attempt = runs.start(tiny(data, max_steps=ENOUGH), run, world=2)
        first = dice.randrange(2)
        wait_for_step(run, dice.randrange(1, 8))
        attempt.notice(rank=first)
        time.sleep(dice.random() * 0.06)
        attempt.notice(rank=1 - first)
        assert attempt.join() == [75, 75], attempt.log()
        saved = [m["step"] for m in attempt.sent() if m["kind"] == "checkpoint"]
        right += saved == [metrics(run)[-1]["step"]] and (run / f"checkpoints/step-{saved[0]:08d}/MANIFEST.json").exists()
    figure.count("the same step saved by both", right, count)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < step:
        assert time.monotonic() < deadline
        time.sleep(0.002)
