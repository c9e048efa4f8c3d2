"""Promises of sampling with a causal network: block by block is what recomputing everything gives, for as long as is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.trainers.shapes_runs import config
from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config import TrainConfig, check
from trainers.config.models.causal_wan import Config
from trainers.diffusion import samplers
from trainers.diffusion.block_rollout import FewSteps, roll_out
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.diffusion.frame_blocks import Window, lengths
from trainers.diffusion.samplers import Predict, fresh_noise, guided, solve, solver
from trainers.distributed.mesh import ParallelContext
from trainers.inference import generation, settings
from trainers.inference.settings import Sampling
from trainers.models.causal_wan import CausalWan

STEPS, SHIFT, PER_BLOCK, FRAMES = (1000, 900, 500), 3.0, 2, 5
FEW = Sampling((4, FRAMES, 4, 4), 3, 1.0, "sde", SHIFT, STEPS)


@pytest.fixture(scope="module")
def model(parallel: ParallelContext) -> CausalWan:
    made = Config.model_validate({"num_frames_per_block": PER_BLOCK, "architecture": {**ARCHITECTURE, "num_layers": 2}})
    return CausalWan(made, "student", trainable=True, precision="fp32", seed=1, parallel=parallel, load_weights=True)


def prompts(count: int = 2) -> Tensor:
    return torch.randn(count, 6, 16, generator=torch.Generator().manual_seed(1))


def noise(count: int = 2, num_frames: int = FRAMES) -> Tensor:
    return torch.randn(count, num_frames, 4, 4, 4, generator=torch.Generator().manual_seed(2))


def recomputed(model: CausalWan, wanted: Sampling, texts: list[Tensor], fresh: torch.Generator) -> Tensor:
    """The same video without a cache: each pass goes over all finished blocks, too, under the mask."""
    schedule, done, context = FlowSchedule(SHIFT), noise()[:, :0], noise()[:, :0]
    level = torch.full((2,), wanted.context_noise)
    for block in noise().split(lengths(FRAMES, PER_BLOCK), 1):
        predict = guided(*(after(model, context, level, text) for text in (texts[0], texts[-1])), wanted.guidance_scale)
        if wanted.timesteps is None:
            clean = solve(predict, solver("unipc", SHIFT), block, wanted.num_steps)
        else:
            clean = few_steps(predict, block, fresh if wanted.solver == "sde" else None)
        done = torch.cat([done, clean], 1)
        shown = schedule.add_noise(clean, fresh_noise(clean, fresh), level) if wanted.context_noise else clean
        context = torch.cat([context, shown], 1)
    return done


def after(model: CausalWan, context: Tensor, level: Tensor, text: Tensor) -> Predict:
    """The velocity of a block that follows frames, shown at a noise level [B]."""

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        before, own = (values[:, None].expand(-1, part.shape[1]) for values, part in ((level, context), (timesteps, noisy)))
        return model.predict_velocity(torch.cat([context, noisy], 1), torch.cat([before, own], 1), text)[:, context.shape[1] :]

    return predict


def few_steps(predict: Predict, noisy: Tensor, fresh: torch.Generator | None) -> Tensor:
    """By the formulas: x0 = x - sigma v, and then fresh noise or eps = x + (1 - sigma) v."""
    for step, sigma, following in ((1000.0, 1.0, 0.9), (900.0, 0.9, 0.5), (500.0, 0.5, 0.0)):
        velocity = predict(noisy, torch.full((2,), step))
        clean, eps = noisy - sigma * velocity, noisy + (1 - sigma) * velocity
        if fresh is not None and following:
            eps = fresh_noise(noisy, fresh)
        noisy = (1 - following) * clean + following * eps
    return clean


CASES = {
    "sde": FEW,
    "ode": replace(FEW, solver="ode"),
    "guided": replace(FEW, guidance_scale=2.5),
    "noisy context": replace(FEW, context_noise=100.0),
    "many steps": replace(FEW, solver="unipc", timesteps=None, num_steps=4, guidance_scale=2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_block_by_block_is_what_recomputing_everything_gives(model: CausalWan, name: str) -> None:
    wanted, negative = CASES[name], prompts(1)[0] + 1
    made = generation.denoised(model, noise(), prompts(), negative, wanted, torch.Generator().manual_seed(5))
    texts = [prompts(), negative.expand(2, -1, -1)][: 1 if wanted.guidance_scale == 1 else 2]
    with torch.no_grad():
        expected = recomputed(model, wanted, texts, torch.Generator().manual_seed(5))
    assert made.shape == noise().shape and not made.requires_grad
    torch.testing.assert_close(made, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["sde", "ode", "noisy context"])
def test_a_sample_is_what_training_rolls_out_with_the_last_steps(model: CausalWan, name: str) -> None:
    """To the bit, from the same noise."""
    wanted, text = CASES[name], prompts()
    made = generation.denoised(model, noise(), text, None, wanted, torch.Generator().manual_seed(5))
    schedule, fresh = FlowSchedule(SHIFT), torch.Generator().manual_seed(5)
    steps = FewSteps(schedule, torch.tensor(STEPS, dtype=torch.float32), stochastic=wanted.solver == "sde")
    context = wanted.context_noise
    with torch.no_grad():
        rolled = roll_out(
            model, steps, text, noise(), [2, 2, 2], schedule=schedule, draw=lambda like: fresh_noise(like, fresh), context_noise=context
        )
    assert made.equal(rolled)


def test_blocks_come_as_soon_as_they_are_made_and_every_pass_ticks(model: CausalWan) -> None:
    ticks: list[None] = []
    parts = generation.latent_parts(model, prompts()[0], None, 7, FEW, lambda: ticks.append(None))
    found = [(len(ticks), part.shape) for part in parts]
    # three steps; then each time the context, and three again
    assert found == [(3, (4, 2, 4, 4)), (7, (4, 2, 4, 4)), (11, (4, 1, 4, 4))] and len(ticks) == 11


@pytest.mark.parametrize("window", [None, Window(4, sink=1)], ids=str)
def test_a_longer_video_begins_as_the_shorter_one_to_the_bit(model: CausalWan, window: Window | None) -> None:
    """Noise and passes of a block do not depend on what follows: but for a last block that is cut off."""
    short, long = (replace(FEW, shape=(4, count, 4, 4), window=window) for count in (6, 15))
    made = [generation.latents(model, prompts()[0], None, 3, which) for which in (short, long)]
    assert made[1].shape == (4, 15, 4, 4) and made[0].equal(made[1][:, :6]) and made[1].isfinite().all()


def test_noise_of_a_frame_does_not_depend_on_how_many_there_are() -> None:
    assert samplers.frame_noise((3, 2, 1, 5), 4).equal(samplers.frame_noise((3, 9, 1, 5), 4)[:, :2])
    assert not samplers.frame_noise((3, 2, 1, 5), 4).equal(samplers.frame_noise((3, 2, 1, 5), 5))


# --- the window


def causal(**changes: Any) -> TrainConfig:
    """Trained on 5 latent frames."""
    made = config(Path("x"), changes.pop("validation", {}))
    made["method"] = {"kind": "dfsft"}
    made["models"]["student"] |= {"family": "causal-wan", "num_frames_per_block": 2, **changes}
    return TrainConfig.model_validate(made)


@pytest.mark.parametrize(
    ("student", "asked", "wanted"),
    [
        ({}, {}, Window()),
        ({}, {"num_frames": 40}, Window(5)),
        ({}, {"num_frames": 40, "sink_frames": 2}, Window(5, 2)),
        ({}, {"num_frames": 40, "local_attn_size": 9, "sink_frames": 1}, Window(9, 1)),
        ({"local_attn_size": 4, "sink_frames": 1}, {"num_frames": 40}, Window(4, 1)),
        ({"local_attn_size": 4, "sink_frames": 1}, {"sink_frames": 0}, Window(4)),
    ],
)
def test_a_video_longer_than_the_clips_is_seen_through_a_window(student: dict[str, Any], asked: dict[str, Any], wanted: Window) -> None:
    train = causal(**student, validation=asked)
    assert check(train, 1) == []
    assert settings.sampling_of(train, train.sampling(), 4).window == wanted


def test_a_window_that_does_not_fit_is_told_at_its_key() -> None:
    (problem,) = check(causal(validation={"local_attn_size": 3, "sink_frames": 2}), 1)
    assert problem.path == ("callbacks", "validation", "local_attn_size") and problem.hint == "at least 4"
    (problem,) = check(TrainConfig.model_validate(config(Path("x"), {"sink_frames": 2})), 1)
    assert problem.path == ("callbacks", "validation", "sink_frames") and "causal" in problem.message
