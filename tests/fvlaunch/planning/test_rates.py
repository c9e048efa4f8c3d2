"""What resume tells of learning rates: a schedule that is another one from a step on, with the rates before and after."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fvlaunch.planning import rates
from trainers.config import TrainConfig

COSINE = {"kind": "cosine"}


def train(schedule: dict[str, Any], max_steps: int = 100, lr: float = 1e-3, **changes: Any) -> TrainConfig:
    optimizer = {"kind": "adamw", "lr": lr, "schedule": schedule}
    block = {
        "max_steps": max_steps,
        "method": {"kind": "finetune"},
        "models": {"student": {"family": "wan", "init_from": "x"}},
        "data": {"path": "data", "global_batch_size": 1},
        "optimizers": {"student": optimizer},
    }
    return TrainConfig.model_validate({**block, **changes})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (train(COSINE), train(COSINE, 400)),
        (train({"kind": "linear"}), train({"kind": "linear"}, 60)),
        (train({**COSINE, "decay_steps": 100}), train({**COSINE, "decay_steps": 70})),
        (train(COSINE), train({**COSINE, "final_ratio": 0.5})),
        (train(COSINE, 80), train({"kind": "linear"}, 80)),
        (train({"warmup_steps": 10}), train({"warmup_steps": 80})),
        (train({"warmup_steps": 80}), train({})),
        (train({}), train({}, lr=2e-3)),
    ],
)
def test_each_key_that_makes_a_rate_jump_is_told_with_both_rates(before: TrainConfig, after: TrainConfig) -> None:
    (line,) = rates.jumps(before, after, 50)
    was, gets = re.search(r"step 50 had (\S+), step 51 gets (\S+) \(", line).groups()  # type: ignore[union-attr]
    expected = [one.optimizers["student"].lr * one.optimizers["student"].schedule.factor(step, one.max_steps)
                for one, step in ((before, 49), (after, 50))]  # fmt: skip
    assert [float(was), float(gets)] == pytest.approx(expected, rel=5e-3)
    assert rates.jumps(after, after, 50) == [] == rates.jumps(before, before, 50)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (train({}), train({}, 400)),
        (train({"warmup_steps": 10}), train({"warmup_steps": 20}, 400)),
        (train({**COSINE, "decay_steps": 100}), train({**COSINE, "decay_steps": 100}, 400)),
        (train({**COSINE, "warmup_steps": 60}), train({**COSINE, "warmup_steps": 60}, 400)),
    ],
)
def test_a_rate_that_goes_on_is_not_told(before: TrainConfig, after: TrainConfig) -> None:
    assert rates.jumps(before, after, 50) == []


def test_the_former_length_is_said_where_only_that_has_changed() -> None:
    (line,) = rates.jumps(train(COSINE), train(COSINE, 400), 50)
    assert "--set train.optimizers.student.schedule.decay_steps=100" in line
    (line,) = rates.jumps(train(COSINE), train(COSINE, 400, lr=1e-4), 50)
    assert "decay_steps" not in line


def test_a_student_that_steps_at_every_fifth_iteration_counts_its_own() -> None:
    def dmd2(max_steps: int) -> TrainConfig:
        models = {role: {"family": "wan", "init_from": "x"} for role in ("student", "teacher", "critic")}
        optimizer = {"kind": "adamw", "lr": 1e-3, "schedule": COSINE}
        method = {"kind": "dmd2", "denoising_steps": [1000, 500], "generator_update_interval": 5}
        optimizers = {"student": optimizer, "critic": {"kind": "muon", "lr": 2e-2, "rest": optimizer, "schedule": COSINE}}
        return train(COSINE, max_steps, method=method, models=models, optimizers=optimizers)

    lines = rates.jumps(dmd2(100), dmd2(200), 50)
    assert [re.search(r"rate of (.*) jumps", line)[1] for line in lines] == ["student", "critic", "critic (rest)"]  # type: ignore[index]
    assert "(5e-4 by the schedule until now)" in lines[0] and "decay_steps=20 keeps" in lines[0]
    assert "decay_steps=100 keeps" in lines[1] and "(1e-2 by" in lines[1]


@pytest.mark.parametrize(("rate", "text"), [(2.5e-4, "2.5e-4"), (0.00061, "6.1e-4"), (0.0, "0"), (1.0, "1e0"), (1.234e-5, "1.23e-5")])
def test_a_rate_is_written_as_people_write_it(rate: float, text: str) -> None:
    assert rates.shown(rate) == text
