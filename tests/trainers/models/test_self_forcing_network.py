"""Promises of self-forcing on the causal Wan itself: the gradient is that of the exit passes, whole runs resume and agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.distilled import dmd2, write_prompted_data, write_teacher
from tests.support.trainers.one_rank import one_rank
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics
from trainers.config.models.causal_wan import Config
from trainers.diffusion.block_rollout import FewSteps, roll_out
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.distributed import dtensor
from trainers.distributed.dtensor import local
from trainers.distributed.mesh import drop_gathered
from trainers.models.causal_wan import CausalWan

SHAPE = (1, 3, 4, 4, 4)
STEPS = torch.tensor([1000.0, 800.0, 400.0])


class Nudged:
    """The network with weights moved by so much in the passes that have a gradient, and only there; what blocks are shown of earlier
    ones is by their first frame in `shown`, as it was when nothing had been moved."""

    def __init__(self, model: CausalWan, direction: list[Tensor], by: float, shown: dict[int, Tensor]) -> None:
        self._model, self._direction, self._by, self._shown = model, direction, by, shown

    @property
    def num_frames_per_block(self) -> int:
        return self._model.num_frames_per_block

    def open_cache(self, *arguments: Any) -> Any:
        return self._model.open_cache(*arguments)

    def predict_block(self, *arguments: Any, **named: Any) -> Tensor:
        graded = torch.is_grad_enabled()
        self._move(self._by * graded)
        found = self._model.predict_block(*arguments, **named)
        self._move(-self._by * graded)
        return found

    def write_block(self, clean: Tensor, *arguments: Any, start: int) -> None:
        self._model.write_block(self._shown.setdefault(start, clean), *arguments, start=start)

    def _move(self, by: float) -> None:
        if by:
            drop_gathered(self._model.transformer)
            for parameter, direction in zip(self._model.transformer.parameters(), self._direction, strict=True):
                local(parameter.detach()).add_(direction, alpha=by)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_gradient_is_that_of_the_exit_passes_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch, checkpointing: str) -> None:
    """In float64, by central differences in a random direction of all weights; a gradient through the past would miss by far."""
    plain = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else plain(tensor))
    section = {"num_frames_per_block": 1, "architecture": {**ARCHITECTURE, "num_layers": 2}, "activation_checkpointing": checkpointing}
    generator = torch.Generator().manual_seed(3)
    noise, prompt = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in (SHAPE, (1, 6, 16)))
    with one_rank() as parallel:
        model = CausalWan(
            Config.model_validate(section), "student", trainable=True, precision="fp32", seed=1, parallel=parallel, load_weights=True
        )
        model.transformer.double()
        model.compute_type = torch.float64
        parameters = list(model.transformer.parameters())
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.1 for p in parameters]
        steps = FewSteps(FlowSchedule(3.0), STEPS, stochastic=True)

        shown: dict[int, Tensor] = {}

        def loss(by: float) -> Tensor:
            fresh = torch.Generator().manual_seed(4)
            made = roll_out(
                Nudged(model, direction, by, shown),
                steps,
                prompt,
                noise,
                [1, 2, 1],
                schedule=FlowSchedule(3.0),
                draw=lambda like: torch.randn(like.shape, generator=fresh, dtype=like.dtype),
            )
            return made.square().mean()

        loss(0.0).backward()
        assert sorted(shown) == [0, 1] and not any(clean.requires_grad for clean in shown.values())
        slope = sum(float((dtensor.whole(p.grad) * d).sum()) for p, d in zip(parameters, direction, strict=True))
        ahead, behind = (float(loss(by).detach()) for by in (1e-5, -1e-5))
        assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


# --- whole runs


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompted_data(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose weights tell that they were trained causally, too."""
    made = write_teacher(tmp_path_factory.mktemp("teacher"))
    section = {"family": "causal-wan", "num_frames_per_block": 1}
    (made / "training.json").write_text(json.dumps({"role": "student", "train": {"models": {"student": section}}}))
    return made


def block(prompted: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    """Two blocks of a frame; the student steps at every second iteration."""
    role = {"init_from": str(teacher)}
    student = {**role, "family": "causal-wan", "num_frames_per_block": 1, "activation_checkpointing": "full"}
    method = {"kind": "self-forcing", "denoising_steps": [1000, 750, 400], "generator_update_interval": 2, "teacher_guidance_scale": 3.0}
    models = {"student": student, "teacher": role, "critic": role}
    return dmd2(prompted, teacher, **{"method": {**method, "context_noise": 20}, "models": models, "max_steps": 6, **changes})


def test_a_run_cut_between_steps_resumes_bitwise_and_agrees_on_two_ranks(runs: Any, prompted: Path, teacher: Path, tmp_path: Path) -> None:
    whole = runs.finish(block(prompted, teacher), tmp_path / "whole")
    assert [("generator_loss" in line) for line in metrics(whole)] == [False, True] * 3
    cut = runs.finish(block(prompted, teacher, max_steps=3), tmp_path / "cut")
    runs.finish(block(prompted, teacher), cut, attempt=2)
    assert losses(cut) == losses(whole) and len(set(losses(whole))) == 6
    same_state(whole, cut, 6, 0.0)
    two = runs.finish(block(prompted, teacher), tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-5)


def test_a_bidirectional_start_ends_a_run_with_what_to_do(runs: Any, prompted: Path, tmp_path: Path) -> None:
    started = runs.start(block(prompted, write_teacher(tmp_path / "plain")), tmp_path / "run")
    assert started.join() == [76]
    assert "kd-causal" in started.log() and "Traceback" not in started.log(), started.log()
