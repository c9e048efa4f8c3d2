"""Promises of KD: loss and gradient derived by hand, draws in their order, a list of timesteps that is checked, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.distilled import kd, write_prompted_data, write_teacher
from tests.support.trainers.formula_network import FormulaModel
from tests.support.trainers.trainer_ranks import losses, read
from trainers.config import TrainConfig, check
from trainers.config.denoising_steps import trajectory
from trainers.methods import method_class
from trainers.methods.kd import KDMethod

SHIFT, T_LIST, BATCH = 5.0, [1000, 909, 833, 0], 3
SHAPE = (BATCH, 2, 4, 3, 3)
STORED = [1000.0, 961.0, 909.0, 833.0, 0.0]
"""More states than the student is trained at."""


class Line(nn.Module):
    """v = a x_t + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value)) for value in (0.7, -0.2))


class LineModel(FormulaModel):
    def __init__(self) -> None:
        super().__init__(Line())

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.seen = timesteps.tolist()
        line: Any = self.transformer
        found: Tensor = line.a * noisy + line.b
        return found


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(kd(Path("x"), Path("y"), Path("z"), **{"method__t_list": T_LIST, **changes}))


def make() -> KDMethod:
    made = KDMethod(config(), {"student": LineModel()})
    made.cuda_generator.manual_seed(5)
    return made


def batch() -> dict[str, Tensor]:
    states = torch.randn(BATCH, len(STORED), *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    return {
        "trajectory_latents": states,
        "trajectory_timesteps": torch.tensor(STORED).expand(BATCH, -1),
        "prompt": torch.zeros(BATCH, 3, 2),
    }


def test_loss_and_gradient_are_those_derived_by_hand() -> None:
    """L = 0.5 mean((x - s (a x + b) - x0)^2), so dL/da = mean(r (-s x)) and dL/db = mean(-s r)."""
    method, given = make(), batch()
    loss_map, outputs, _ = method.single_train_step(given, 1)
    method.backward(loss_map, outputs, grad_accum_rounds=2)
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randint(0, 3, (BATCH,), generator=generator).tolist()
    grid = [SHIFT * k / (1000 + (SHIFT - 1) * k) for k in range(1, 1001)]
    a, b = (float(torch.tensor(value)) for value in (0.7, -0.2))
    total, da, db = 0.0, 0.0, 0.0
    for n, j in enumerate(drawn):
        t = T_LIST[j]
        sigma = min(grid, key=lambda s, t=t: abs(1000 * s - t))
        states = given["trajectory_latents"][n].double()
        x, x0 = states[STORED.index(t)], states[-1]
        residual = x - sigma * (a * x + b) - x0
        total += 0.5 * float((residual**2).mean()) / BATCH
        da += float((residual * -sigma * x).mean()) / BATCH
        db += float((residual * -sigma).mean()) / BATCH
    line: Any = method.student.transformer
    assert loss_map["total_loss"].item() == pytest.approx(total, rel=1e-6)
    assert line.a.grad.item() == pytest.approx(da / 2, rel=1e-6, abs=1e-6)
    assert line.b.grad.item() == pytest.approx(db / 2, rel=1e-6, abs=1e-6)
    assert method.cuda_generator.get_state().equal(generator.get_state())
    student: Any = method.student
    assert student.seen == [T_LIST[j] for j in drawn]


def test_the_method_is_found_by_its_kind() -> None:
    assert method_class("kd") is KDMethod


def test_the_published_list_is_on_its_schedule_and_the_shipped_one_is_not() -> None:
    """trainers/methods/README.md section 8."""
    assert {995, 937, 833, 625} <= set(trajectory(48, 5.0)) and not {999, 624} & set(trajectory(48, 5.0))
    published = {"method__trajectory_steps": 48, "method__t_list": [995, 937, 833, 625, 0]}
    assert check(config(**published), 1) == []
    (problem,) = check(config(**{**published, "method__t_list": [999, 937, 833, 624, 0]}), 1)
    assert problem.path == ("method", "t_list") and problem.message.startswith("999, 624: not on the teacher's trajectory")
    assert "1000, 995, 991" in problem.hint and "625" in problem.hint


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ({"method__t_list": [1000, 833]}, ("method", "t_list"), "does not end with 0"),
        ({"method__t_list": [0]}, ("method", "t_list"), "after at least one timestep"),
        ({"method__t_list": [833, 1000, 0]}, ("method", "t_list"), "not descending"),
        ({"method__t_list": [833, 714, 0]}, ("method", "t_list"), "starts from pure noise"),
        ({"data__text_dropout": 0.1}, ("data", "text_dropout"), "belong to their prompts"),
        (
            {"models": {"student": {"init_from": "x"}, "teacher": {"architecture": {"in_channels": 4}}}},
            ("models", "teacher", "architecture"),
            "random",
        ),
        (
            {"optimizers": {role: {"kind": "adamw", "lr": 1} for role in ("student", "teacher")}},
            ("optimizers", "teacher"),
            "is not trained",
        ),
    ],
)
def test_what_cannot_be_distilled_is_told_at_its_key(change: dict[str, Any], path: tuple[str, ...], said: str) -> None:
    (problem,) = check(config(**change), 1)
    assert problem.path == path and said in problem.message and problem.hint


def test_the_student_is_sampled_at_its_list() -> None:
    found = config().sampling()
    assert (found.solver, found.timesteps, found.guidance_scale) == ("sde", [1000.0, 909.0, 833.0], 1.0)


# --- whole runs


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompted_data(tmp_path_factory.mktemp("prompted"), 12)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def test_runs_on_one_cache_resume_bitwise_and_agree_on_two_ranks(runs: Any, prompted: Path, teacher: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = runs.finish(kd(prompted, teacher, cache), tmp_path / "whole")
    assert {key.split(".")[1] for key in read(whole, 4) if key.startswith("roles.")} == {"student"}
    cut = runs.finish(kd(prompted, teacher, cache, max_steps=2), tmp_path / "cut")
    runs.finish(kd(prompted, teacher, cache), cut, attempt=2)
    assert losses(cut) == losses(whole) and len(set(losses(whole))) == 4
    same_state(whole, cut, 4, 0.0)
    two = runs.finish(kd(prompted, teacher, cache), tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-6)
