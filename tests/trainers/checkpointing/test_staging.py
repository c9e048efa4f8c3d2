"""Promises of Stager: training may go on at once, memory is taken once, and what the state no longer holds is let go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers.checkpointing.staging import Stager


def state_of(weight: Tensor, **more: Any) -> dict[str, Any]:
    return {"roles": {"student": {"net": {"weight": weight}}}, "optimizers": [{"betas": (0.9, 0.95), "lr": 0.1}], **more}


def weight_in(staged: dict[str, Any]) -> Tensor:
    weight: Tensor = staged["roles"]["student"]["net"]["weight"]
    return weight


def test_a_staged_state_keeps_its_values_kinds_and_types_while_the_original_changes() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3).t())
    original = state_of(weight, schedulers={"last_epoch": 3}, empty=torch.empty(0, 4))
    staged, _planner = Stager().stage(original)
    with torch.no_grad():
        weight.zero_()
    original["schedulers"]["last_epoch"] = 4
    original["optimizers"][0]["lr"] = 0.0
    assert weight_in(staged).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert (weight_in(staged).dtype, weight_in(staged).requires_grad) == (torch.bfloat16, False)
    assert staged["optimizers"] == [{"betas": (0.9, 0.95), "lr": 0.1}]
    assert staged["schedulers"] == {"last_epoch": 3}
    assert staged["empty"].shape == (0, 4)


def test_the_next_state_is_staged_in_the_same_memory() -> None:
    stager = Stager()
    first = weight_in(stager.stage(state_of(torch.ones(5)))[0])
    second = weight_in(stager.stage(state_of(torch.full((5,), 2.0)))[0])
    assert second.data_ptr() == first.data_ptr()
    assert second.tolist() == [2.0] * 5


def test_a_tensor_of_another_shape_or_type_gets_memory_of_its_own() -> None:
    stager = Stager()
    stager.stage(state_of(torch.ones(5)))
    assert weight_in(stager.stage(state_of(torch.ones(2, 5)))[0]).tolist() == [[1.0] * 5] * 2
    assert weight_in(stager.stage(state_of(torch.ones(2, 5, dtype=torch.int64)))[0]).tolist() == [[1] * 5] * 2


def test_tensors_that_share_memory_are_staged_apart() -> None:
    whole = torch.arange(8.0)
    staged, _planner = Stager().stage({"first": whole[:4], "tied": {"again": whole[:4], "rest": whole[4:]}})
    whole.zero_()
    assert staged["first"].tolist() == staged["tied"]["again"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert staged["tied"]["rest"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert staged["first"].untyped_storage().nbytes() == 4 * 4  # of the file too: a view would take its whole storage along
