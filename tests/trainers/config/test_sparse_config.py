"""Promises of sparse attention's configuration: the ramp's values, how many tiles are kept, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.trainers.trainer_ranks import ARCHITECTURE, tiny
from trainers.config import Problem, TrainConfig, check
from trainers.config.attention import SparseAttention, num_kept
from trainers.config.models.causal_wan import Config as CausalConfig
from trainers.config.models.wan import Config


def sparse(**keys: Any) -> SparseAttention:
    return SparseAttention.model_validate({"kind": "vsa", "sparsity": 0.5, **keys})


@pytest.mark.parametrize(
    ("sparsity", "ramp", "steps", "wanted"),
    [
        (0.9, {"rate": 0.03, "interval": 1}, [0, 1, 2, 29, 30, 31, 4000], [0, 0.03, 0.06, 0.87, 0.9, 0.9, 0.9]),
        (0.8, {}, [1, 7, 79, 80, 81], [0.01, 0.07, 0.79, 0.8, 0.8]),  # 0.8 // 0.01 is 79 in binary fractions
        (
            0.4,
            {"rate": 0.1, "interval": 50},
            [1, 49, 50, 99, 100, 150, 199, 200, 10000],
            [0, 0, 0.1, 0.1, 0.2, 0.3, 0.3, 0.4, 0.4],
        ),
        (0.8, {"rate": 0.3, "interval": 1}, [1, 2, 3], [0.3, 0.6, 0.8]),
        (0.0, {}, [1, 100], [0, 0]),
        (0.8, None, [0, 1, 100], [0.8, 0.8, 0.8]),
    ],
)
def test_the_ramp_rises_by_its_rate_every_interval(sparsity: float, ramp: Any, steps: list[int], wanted: list[float]) -> None:
    config = sparse(sparsity=sparsity, ramp=ramp)
    assert [config.sparsity_at(step) for step in steps] == wanted
    assert [config.at(step) for step in steps] == [sparse(sparsity=value) for value in wanted]


@pytest.mark.parametrize(
    ("sparsity", "tiles", "wanted"),
    [(0, 7, 7), (0.9, 128, 13), (0.8, 455, 91), (0.7, 10, 3), (0.9, 455, 46), (0.99, 5, 1), (0.5, 3, 2), (0.999, 1, 1), (0.01, 100, 99)],
)
def test_the_tiles_kept_are_rounded_up_in_decimals(sparsity: float, tiles: int, wanted: int) -> None:
    """(1 - 0.7) * 10 is 3.0000000000000004 in binary fractions."""
    assert num_kept(sparsity, tiles) == wanted


@pytest.mark.parametrize(
    ("keys", "where", "said"),
    [
        ({"sparsity": 1}, "sparsity", "less than 1"),
        ({"sparsity": -0.1}, "sparsity", "greater than or equal to 0"),
        ({"sparsity": float("nan")}, "sparsity", "finite"),
        ({"sparsity": None}, "sparsity", "valid number"),
        ({"tile": [4, 0, 4]}, "tile.1", "greater than 0"),
        ({"tile": [4, 4]}, "tile.2", "required"),
        ({"ramp": {"rate": 0}}, "ramp.rate", "greater than 0"),
        ({"ramp": {"interval": 0}}, "ramp.interval", "greater than 0"),
        ({"ramp": {"every": 1}}, "ramp.every", "Extra inputs"),
        ({"gate": True}, "gate", "Extra inputs"),
        ({"kind": "sparse"}, "", "'dense', 'vsa'"),
        ({"backend": "flex", "tile": [2, 2, 2]}, "", "backend flex needs tiles of a multiple of 64 tokens, and [2, 2, 2] are 8"),
        ({"backend": "kernel", "tile": [4, 4, 8]}, "", "backend kernel needs tiles of 64 tokens, and [4, 4, 8] are 128"),
    ],
)
def test_what_no_attention_can_be_is_refused_where_it_stands(keys: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"init_from": "x", "attention": {"kind": "vsa", "sparsity": 0.5, **keys}})
    (error,) = caught.value.errors()
    assert ".".join(str(part) for part in error["loc"]).endswith(where) and said in error["msg"]


def test_the_sparsity_must_be_said_and_dense_has_none() -> None:
    for attention in ({"kind": "vsa"}, {"kind": "dense", "sparsity": 0.5}):
        with pytest.raises(ValidationError, match="sparsity"):
            Config.model_validate({"init_from": "x", "attention": attention})
    assert Config.model_validate({"init_from": "x"}).attention is None


def test_a_causal_network_is_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="block-causal network cannot have attention 'vsa': use auto, dense or flex, or family: wan"):
        CausalConfig.model_validate({"init_from": "x", "attention": {"kind": "vsa", "sparsity": 0.5}})
    assert CausalConfig.model_validate({"init_from": "x", "attention": "dense"}).attention == "dense"


def problems(model: dict[str, Any], **changes: Any) -> list[Problem]:
    """Of a run on a grid of 2 x 2 x 2 tokens, which `changes` make another."""
    return check(TrainConfig.model_validate(tiny(Path("/data"), models={"student": model}, **changes)), 1)


def refused(tile: list[int], sparsity: float = 0.5, **changes: Any) -> list[Problem]:
    return problems({"architecture": ARCHITECTURE, "attention": {"kind": "vsa", "sparsity": sparsity, "tile": tile}}, **changes)


def test_a_tile_that_the_grid_cannot_hold_is_refused_with_both_sizes() -> None:
    (problem,) = refused([1, 4, 1])
    assert problem.path == ("models", "student", "attention", "tile") and problem.hint == "at most [1, 2, 1]"
    assert problem.message == "a tile of 4 over height is larger than the grid of 2 x 2 x 2 tokens (time x height x width)"
    assert "over time" in refused([3, 1, 1])[0].message and "over width" in refused([1, 1, 3])[0].message
    assert refused([1, 4, 1], data__height=16) == []
    assert refused([1, 2, 2]) == refused([2, 1, 1]) == []


def test_one_tile_for_all_leaves_nothing_to_leave_out() -> None:
    (problem,) = refused([2, 2, 2])
    assert "one tile holds the whole grid of 2 x 2 x 2 tokens" in problem.message
    assert refused([2, 2, 2], sparsity=0) == []


def test_adapters_must_say_what_becomes_of_the_gates() -> None:
    base = {"init_from": "x", "attention": {"kind": "vsa", "sparsity": 0.5, "tile": [1, 1, 1]}}
    (problem,) = problems({**base, "lora": {"rank": 4}})
    assert problem.path == ("models", "student", "lora", "target_modules") and "to_gate_compress" in problem.hint
    assert problems({**base, "lora": {"rank": 4, "target_modules": ["to_q", "to_gate_compress"]}}) == []
    assert problems({**base, "lora": {"rank": 4, "exclude_modules": ["attn1.to_gate_compress"]}}) == []
