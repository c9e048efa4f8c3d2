"""Promises of weight averages: the formula, and only where a role stepped."""

from __future__ import annotations

import torch
from torch import nn

from trainers.config.callbacks import EMAConfig
from trainers.optim.ema import EMACallback


def roles() -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {role: nn.Linear(1, 1, bias=False) for role in ("student", "critic")}
    set_weights(modules, 0.0)
    return modules


def set_weights(modules: dict[str, nn.Module], value: float) -> None:
    for module in modules.values():
        nn.init.constant_(module.weight, value)  # type: ignore[arg-type]


def shadow(ema: EMACallback, role: str) -> float:
    return float(ema.state_dict()[role]["weight"])


def test_averages_by_hand() -> None:
    modules = roles()
    ema = EMACallback(EMAConfig(decay=0.75), modules)
    set_weights(modules, 8.0)
    ema.on_step(1, ["student"])
    assert shadow(ema, "student") == 2.0  # 0.75 * 0 + 0.25 * 8
    ema.on_step(2, ["student"])
    assert shadow(ema, "student") == 3.5  # 0.75 * 2 + 0.25 * 8


def test_a_role_that_did_not_step_keeps_its_average() -> None:
    modules = roles()
    ema = EMACallback(EMAConfig(decay=0.5), modules)
    set_weights(modules, 1.0)
    ema.on_step(1, ["critic"])
    assert (shadow(ema, "student"), shadow(ema, "critic")) == (0.0, 0.5)


def test_up_to_the_start_step_the_average_is_a_copy() -> None:
    modules = roles()
    ema = EMACallback(EMAConfig(decay=0.5, start_step=2), modules)
    for step, expected in ((1, 1.0), (2, 2.0), (3, 2.5)):
        set_weights(modules, float(step))
        ema.on_step(step, ["student"])
        assert shadow(ema, "student") == expected


def test_frozen_parameters_have_no_average_and_averages_no_gradient() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    state = EMACallback(EMAConfig(decay=0.5), {"student": module}).state_dict()
    assert list(state["student"]) == ["weight"]
    assert not state["student"]["weight"].requires_grad
    assert state["student"]["weight"].data_ptr() != module.weight.data_ptr()


def test_a_restart_copies_the_live_weights() -> None:
    modules = roles()
    ema = EMACallback(EMAConfig(decay=0.5), modules)
    set_weights(modules, 3.0)
    ema.restart()
    assert shadow(ema, "critic") == 3.0
    assert torch.equal(modules["critic"].weight, torch.tensor([[3.0]]))  # type: ignore[arg-type]


def test_a_role_without_an_average_may_step() -> None:
    modules = roles()
    ema = EMACallback(EMAConfig(decay=0.5), {"student": modules["student"]})
    set_weights(modules, 1.0)
    ema.on_step(1, ["student", "critic"])
    assert ema.state_dict().keys() == {"student"} and shadow(ema, "student") == 0.5
