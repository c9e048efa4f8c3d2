"""Promises of a causal student of two experts: rollouts in the form it is used in, by hand; what its start learns; two caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.trainers.distilled import kd, nearest_sigma, write_teacher
from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config import TrainConfig
from trainers.config.models.causal_wan_a14b import Config
from trainers.diffusion.block_rollout import roll_out
from trainers.diffusion.expert_denoising import ExpertSteps, steps_of
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.distributed.mesh import ParallelContext
from trainers.inference import settings
from trainers.inference import streaming as block_by_block
from trainers.methods.kd_causal import KDCausalMethod
from trainers.models.base import ModelBase
from trainers.models.causal_wan_a14b import CausalWanA14B, ExpertCaches

SHIFT, LEVEL = 5.0, 0.875
STEPS = (1000.0, 937.5, 833.3333, 625.0)
SHAPE = (2, 3, 2, 2, 2)


# --- rollouts, by hand

WEIGHTS = {True: (0.6, -0.2), False: (-0.3, 0.4)}


class Line(ModelBase):
    """v = a x_t + b m, where m is the mean of what was written."""

    num_frames_per_block = 2

    def __init__(self, high: bool, passes: list[tuple[bool, float, bool]]) -> None:
        self.high, self.passes, self.transformer = high, passes, nn.Module()
        for name, value in zip("ab", WEIGHTS[high], strict=True):
            self.transformer.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        raise AssertionError

    def predict_block(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, cache: list[Tensor], *, start: int) -> Tensor:
        assert len(cache) == start // 2
        self.passes.append((self.high, float(timesteps[0]), torch.is_grad_enabled()))
        line: Any = self.transformer
        found: Tensor = line.a * noisy + line.b * (torch.stack(cache).mean() if cache else 0.0)
        return found


class LinePair(ModelBase):
    boundary, num_frames_per_block = 1000 * LEVEL, 2

    def __init__(self) -> None:
        self.device, self.passes, self.written = torch.device("cpu"), list[tuple[bool, float, bool]](), list[tuple[int, bool]]()
        self.lines = {high: Line(high, self.passes) for high in (True, False)}

    def expert(self, high: bool | None) -> ModelBase:
        return self.lines[bool(high)]

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int], window: Any = None) -> ExpertCaches:
        caches: Any = ([], [])
        return ExpertCaches(*caches)

    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: Any, *, start: int) -> None:
        assert not torch.is_grad_enabled() and not clean.requires_grad
        for high, own in cache.kept.items():
            own.append(clean.mean())
            self.written.append((start, high))

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        raise AssertionError


def by_hand(exits: list[int], stochastic: bool, generator: torch.Generator) -> tuple[Tensor, dict[tuple[bool, str], float]]:
    """(the video, by expert and parameter the gradient of the video's sum)."""
    noise, sigmas = torch.randn(SHAPE, generator=generator, dtype=torch.float64), [nearest_sigma(t, SHIFT) for t in STEPS]
    made, gradient = list[Tensor](), {(high, name): 0.0 for high in (True, False) for name in "ab"}
    for x, last in zip(noise.split([2, 1], 1), exits, strict=True):
        past = float(made[0].mean()) if made else 0.0
        for j in range(last):
            a, b = WEIGHTS[j < 2]
            v, now, then = a * x + b * past, sigmas[j], sigmas[j + 1]
            if j == 1:
                x = x - (now - LEVEL) * v
            elif not stochastic:
                x = x - (now - then) * v
            else:
                eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
                if j == 0:
                    alpha = (1 - then) / (1 - LEVEL)
                    x = alpha * (x - (now - LEVEL) * v) + (then**2 - (alpha * LEVEL) ** 2) ** 0.5 * eps
                else:
                    x = (1 - then) * (x - now * v) + then * eps
        a, b = WEIGHTS[last < 2]
        made.append(x - sigmas[last] * (a * x + b * past))
        gradient[last < 2, "a"] -= sigmas[last] * float(x.sum())
        gradient[last < 2, "b"] -= sigmas[last] * past * x.numel()
    return torch.cat(made, 1), gradient


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("exits", [[0, 0], [1, 1], [2, 2], [3, 3], [1, 3]])
def test_rollouts_and_their_gradients_are_those_derived_by_hand(exits: list[int], stochastic: bool) -> None:
    expected, gradient = by_hand(exits, stochastic, torch.Generator().manual_seed(4))
    model, schedule, generator = LinePair(), FlowSchedule(SHIFT), torch.Generator().manual_seed(4)
    noise = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    steps = steps_of(model, schedule, torch.tensor(STEPS), stochastic=stochastic)
    assert isinstance(steps, ExpertSteps) and steps.num_high == 2
    streaming: Any = model
    made = roll_out(
        streaming,
        steps,
        torch.zeros(2, 1, 1),
        noise,
        exits,
        schedule=schedule,
        draw=lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype),
    )
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-10)
    made.sum().backward()
    for (high, name), value in gradient.items():
        grad = getattr(model.lines[high].transformer, name).grad
        assert (0.0 if grad is None else float(grad)) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert (grad is not None) == any((last < 2) == high for last in exits)
    asked = [(j < 2, pytest.approx(STEPS[j]), j == last) for last in exits for j in range(last + 1)]
    assert model.passes == asked


def test_the_sampler_makes_what_the_rollout_trains_on() -> None:
    model, schedule = LinePair(), FlowSchedule(SHIFT)
    noise, prompt = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 1, 1)
    for solver in ("sde", "ode"):
        steps, draws = steps_of(model, schedule, torch.tensor(STEPS), stochastic=solver == "sde"), torch.Generator().manual_seed(2)
        streaming: Any = model
        with torch.no_grad():
            trained = roll_out(
                streaming, steps, prompt, noise, [3, 3], schedule=schedule, draw=lambda like, g=draws: torch.randn(like.shape, generator=g)
            )
        sampling = settings.Sampling((2, 3, 2, 2), 4, 1.0, solver, SHIFT, STEPS)
        sampled = torch.cat(list(block_by_block.stream(model, noise, prompt, None, sampling, torch.Generator().manual_seed(2))), 1)
        assert torch.equal(trained, sampled)


# --- caches


def rolled(model: Any, exits: list[int]) -> Tensor:
    steps, noise = steps_of(model, FlowSchedule(SHIFT), torch.tensor(STEPS), stochastic=False), torch.ones(1, 2 * len(exits), 1, 1, 1)
    return roll_out(
        model, steps, torch.zeros(1, 1, 1), noise.double(), exits, schedule=FlowSchedule(SHIFT), draw=lambda like: torch.zeros_like(like)
    )


@pytest.mark.parametrize(
    ("exits", "second"),
    [([0, 0, 0, 0], []), ([3, 1, 1, 1], []), ([0, 3, 0, 1], [0]), ([1, 0, 2, 0], [0, 2]), ([0, 0, 0, 2], [0, 2, 4]), ([3], [])],
)
def test_a_block_is_written_only_for_experts_that_predict_a_later_one(exits: list[int], second: list[int]) -> None:
    model = LinePair()
    rolled(model, exits)
    first = [2 * block for block in range(len(exits) - 1)]
    assert sorted(model.written) == sorted([(start, True) for start in first] + [(start, False) for start in second])


def test_a_cache_that_was_let_go_is_refused_and_never_comes_back() -> None:
    caches: Any = ExpertCaches(*([], []))  # type: ignore[arg-type]
    caches.keep({True, False})
    caches.keep({False})
    caches.keep({True, False})
    assert list(caches.kept) == [False] and caches.expert(False) == []
    with pytest.raises(ValueError, match="of the first expert was let go"):
        caches.expert(True)


@pytest.mark.parametrize(
    ("timesteps", "num_steps", "experts"),
    [(STEPS, 4, {True, False}), (STEPS[:2], 2, {True}), (STEPS[2:], 2, {False}), (None, 8, {True, False}), (None, 1, {True})],
)
def test_sampling_writes_for_the_experts_that_its_steps_are_of(
    timesteps: tuple[float, ...] | None, num_steps: int, experts: set[bool]
) -> None:
    model = LinePair()
    sampling = settings.Sampling((2, 4, 2, 2), num_steps, 1.0, "euler" if timesteps is None else "ode", SHIFT, timesteps)
    noise = torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    list(block_by_block.stream(model, noise, torch.zeros(1, 1, 1), None, sampling, torch.Generator().manual_seed(2)))
    assert {high for high, _, _ in model.passes} == experts == {high for _, high in model.written}


def test_each_expert_has_a_cache_of_its_own_and_sees_every_finished_block(parallel: ParallelContext) -> None:
    section = Config.model_validate({"architecture": ARCHITECTURE, "num_frames_per_block": 1})
    model = CausalWanA14B(section, "student", trainable=False, precision="fp32", seed=1, parallel=parallel, load_weights=True)
    clean, prompt = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 6, 16)
    caches = model.open_cache(2, prompt, 3, (4, 4))
    for start in (0, 1):
        model.write_block(clean[:, start : start + 1], torch.zeros(2), prompt, caches, start=start)
    assert [cache.frames_written for cache in caches.kept.values()] == [2, 2]
    noisy = torch.cat([clean[:, :2], torch.randn(2, 1, 4, 4, 4)], 1)
    for high, level in ((True, 950.0), (False, 100.0)):
        expert: Any = model.expert(high)
        levels = torch.tensor([[0.0, 0.0, level]]).expand(2, -1)
        whole = expert.predict_velocity(noisy, levels, prompt)[:, 2:]
        alone = expert.predict_block(noisy[:, 2:], levels[:, 2:], prompt, caches.expert(high), start=2)
        torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="another network"):
            expert.predict_block(noisy[:, 2:], levels[:, 2:], prompt, caches.expert(not high), start=2)


# --- what it starts from


class Asked(ModelBase):
    """A student of two experts that answers with the velocities it was given, and notes what it was shown."""

    boundary, num_frames_per_block = 1000 * LEVEL, 1

    def __init__(self) -> None:
        self.device, self.networks_ = torch.device("cpu"), {name: nn.Linear(1, 1) for name in ("transformer", "transformer_2")}
        self.answer, self.shown = torch.zeros(()), list[tuple[bool, Tensor, Tensor]]()

    @property
    def networks(self) -> dict[str, nn.Module]:
        return dict(self.networks_)

    def expert(self, high: bool | None) -> ModelBase:
        self.high = bool(high)
        return self

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.shown.append((self.high, noisy, timesteps))
        return self.answer + 0 * self.networks_["transformer"].weight.sum()


def started(tmp_path: Path, clean_blocks: bool) -> KDCausalMethod:
    block = kd(tmp_path, tmp_path, tmp_path / "cache")
    block["models"]["student"] = {"family": "causal-wan-a14b", "architecture": ARCHITECTURE, "num_frames_per_block": 1}
    block["method"] |= {"kind": "kd-causal", "trajectory_steps": 48, "t_list": [1000, 937, 833, 625, 0], "clean_blocks": clean_blocks}
    return KDCausalMethod(TrainConfig.model_validate(block), {"student": Asked()})


@pytest.mark.parametrize("clean_blocks", [True, False])
def test_the_first_expert_learns_to_lead_to_the_boundary_and_the_second_starts_there(tmp_path: Path, clean_blocks: bool) -> None:
    generator, stored = torch.Generator().manual_seed(0), [1000.0, 937.0, 875.0, 833.0, 625.0, 0.0]
    trajectory = torch.randn(3, 6, 4, 1, 1, 1, generator=generator, dtype=torch.float64)
    batch = {"trajectory_latents": trajectory, "trajectory_timesteps": torch.tensor([stored] * 3), "prompt": torch.zeros(3, 1, 1)}
    seen = {True: set[float](), False: set[float]()}
    for step in range(30):
        method = started(tmp_path, clean_blocks)
        student: Any = method.student
        for generator_ in (method.shared_generator, method.cuda_generator):
            generator_.manual_seed(step)
        method.single_train_step(batch, 1)
        ((high, noisy, timesteps),) = student.shown
        seen[high] |= set(timesteps.flatten().tolist())
        student.answer = torch.empty_like(noisy)
        for n in range(3):
            for frame in range(4):
                t = float(timesteps[n, frame])
                shown = 875.0 if t == 833.0 and not high else t
                state, end = trajectory[n, stored.index(shown), frame], trajectory[n, 2 if high and t else 5, frame]
                assert torch.equal(noisy[n, frame], state)
                to = LEVEL if high and t else 0.0
                student.answer[n, frame] = (state - end) / (nearest_sigma(t, SHIFT) - to)
        for generator_ in (method.shared_generator, method.cuda_generator):
            generator_.manual_seed(step)
        assert method.single_train_step(batch, 1)[0]["total_loss"].item() == pytest.approx(0.0, abs=1e-12)
    clean = {0.0} if clean_blocks else set()
    assert seen == {True: {1000.0, 937.0} | clean, False: {833.0, 625.0} | clean}


def test_a_cache_for_two_experts_keeps_the_state_at_the_boundary(tmp_path: Path) -> None:
    method = started(tmp_path, True)
    config: Any = method.cfg.method
    assert config.settings(method.cfg)["timesteps"] == [1000, 937, 875, 833, 625]
    assert config.few_steps(SHIFT) == [1000.0, 937.0, 833.0, 625.0]


def test_a_teachers_digest_knows_both_experts(tmp_path: Path) -> None:
    from trainers.config.trajectory_metadata import teacher_digest

    one, other = write_teacher(tmp_path / "one", 1), write_teacher(tmp_path / "other", 2)
    before = teacher_digest(one)
    (other / "transformer").rename(one / "transformer_2")
    assert teacher_digest(one) != before != teacher_digest(one, one / "transformer_2")
