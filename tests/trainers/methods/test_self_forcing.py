"""Promises of self-forcing: rollout, losses and gradients derived by hand for each exit, a past without gradient, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.support.trainers.distilled import nearest_sigma
from tests.support.trainers.formula_network import FormulaModel
from trainers.config import TrainConfig, check
from trainers.config import causal_checks as causal
from trainers.config.models.causal_wan_a14b import Config as TwoCausalExperts
from trainers.errors import UserError
from trainers.methods import method_class
from trainers.methods.self_forcing import SelfForcingMethod
from trainers.models.base import ModelBase
from trainers.seeding import derived_seed

SHIFT, STEPS, BATCH, PER_BLOCK = 5.0, (1000.0, 937.5, 250.0), 2, 2
SHAPE = (BATCH, 5, 4, 2, 2)
BLOCKS = ((0, 2), (2, 4), (4, 5))
"""First and last frame: the remainder is a last block of one."""
WEIGHTS = {"student": (0.6, -0.2, 0.1, 0.3, 0.8), "teacher": (-0.3, 0.4, 0.25, 0.0, 0.0), "critic": (0.2, 0.1, -0.3, 0.0, 0.0)}
NEGATIVE = torch.tensor([[0.5, -2.0], [1.0, 0.5]])


class Line(nn.Module):
    """v = a x_t + b + c m + d p, where m is the prompt's mean and p what is remembered of the past: e times its mean over frames."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Parameter(torch.tensor(value)) for value in weights)


class LineModel(FormulaModel):
    """What it remembers has a gradient, where the rollout lets it."""

    num_frames_per_block: int | None

    def __init__(self, role: str) -> None:
        super().__init__(Line(WEIGHTS[role]), role)
        self.num_frames_per_block = PER_BLOCK if role == "student" else None
        self.passes: list[tuple[str, int, bool, float]] = []
        """(what, first frame, with gradient, timestep)."""

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        return self.line(noisy, prompt, torch.zeros(()))

    def line(self, noisy: Tensor, prompt: Tensor, past: Tensor) -> Tensor:
        line: Any = self.transformer
        found: Tensor = line.a * noisy + line.b + line.c * prompt.mean((1, 2))[:, None, None, None, None] + line.d * past
        return found

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int]) -> list[Tensor]:
        assert (batch, frames, size) == (SHAPE[0], SHAPE[1], SHAPE[3:])
        return []

    def predict_block(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, cache: list[Tensor], *, start: int) -> Tensor:
        self.passes.append(("predict", start, torch.is_grad_enabled(), float(timesteps[0])))
        assert sum(block.shape[1] for block in cache) == start
        past = torch.cat(cache, 1).mean(1, keepdim=True) if cache else torch.zeros(())
        return self.line(noisy, prompt, past)

    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: list[Tensor], *, start: int) -> None:
        self.passes.append(("write", start, torch.is_grad_enabled(), float(timesteps[0])))
        line: Any = self.transformer
        cache.append(line.e * clean)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prompts")
    safetensors.torch.save_file({"negative": NEGATIVE}, made / "prompts.safetensors")
    return made


def config(folder: Path | str, student: dict[str, Any] | None = None, **method: Any) -> TrainConfig:
    role = {"init_from": "x"}
    data = {"path": str(folder), "num_frames": 5, "height": 4, "width": 4, "vae_stride": [1, 2, 2], "text_len": 3, "global_batch_size": 2}
    causal = student or {"family": "causal-wan", "num_frames_per_block": PER_BLOCK, **role}
    kind = {"kind": "self-forcing", "denoising_steps": list(STEPS), "generator_update_interval": 1, "teacher_guidance_scale": 3.0}
    return TrainConfig.model_validate(
        {
            "max_steps": 12,
            "flow_shift": SHIFT,
            "method": {**kind, **method},
            "models": {"student": causal, "teacher": role, "critic": role},
            "data": {**data, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
            "optimizers": {name: {"kind": "adamw", "lr": 1e-3} for name in ("student", "critic")},
        }
    )


def make(folder: Path, seed: int = 7, **method: Any) -> SelfForcingMethod:
    made = SelfForcingMethod(config(folder, **method), {role: LineModel(role) for role in WEIGHTS})
    made.cuda_generator.manual_seed(5)
    made.shared_generator.manual_seed(seed)
    return made


def batch() -> dict[str, Tensor]:
    return {"prompt": torch.randn(BATCH, 3, 2, generator=torch.Generator().manual_seed(1))}


def drawn_exits(purpose: str, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(purpose, seed))
    return [int(k) for k in torch.randint(0, len(STEPS), (len(BLOCKS),), generator=generator)]


# --- by hand, in float64 and without autograd


class ByHand:
    """Rollouts and losses with a generator that is left where the draws end; by sample, as formulas."""

    def __init__(self, stochastic: bool = True, context: float = 0.0, gradient_from: int = 0) -> None:
        self.stochastic, self.context, self.gradient_from = stochastic, context, gradient_from
        self.generator = torch.Generator().manual_seed(5)
        self.means = batch()["prompt"].double().mean((1, 2))[:, None, None, None, None]

    def noise(self, frames: int) -> Tensor:
        return torch.randn(BATCH, frames, *SHAPE[2:], generator=self.generator).double()

    def velocity(self, role: str, x: Tensor, mean: Tensor, past: Tensor | float = 0.0) -> Tensor:
        a, b, c, d, _ = (float(torch.tensor(value)) for value in WEIGHTS[role])
        return a * x + b + c * mean + d * past

    def rollout(self, exits: list[int]) -> None:
        """`made`, and of each frame dG/da, dG/db, dG/dc, dG/dd."""
        start = self.noise(SHAPE[1])
        sigmas, e = [nearest_sigma(t, SHIFT) for t in STEPS], float(torch.tensor(WEIGHTS["student"][4]))
        made, slopes, kept = list[Tensor](), list[list[Tensor]](), list[Tensor]()
        for (first, end), last in zip(BLOCKS, exits, strict=True):
            x = start[:, first:end]
            past = torch.cat(kept, 1).mean(1, keepdim=True) * e if kept else torch.zeros(())
            for number in range(last):
                v = self.velocity("student", x, self.means, past)
                x0 = x - sigmas[number] * v
                eps = self.noise(end - first) if self.stochastic else x + (1 - sigmas[number]) * v
                x = (1 - sigmas[number + 1]) * x0 + sigmas[number + 1] * eps
            made.append(x - sigmas[last] * self.velocity("student", x, self.means, past))
            one, graded = torch.ones_like(x), float(first >= self.gradient_from)
            slopes.append([-sigmas[last] * graded * part * one for part in (x, one, self.means, past)])
            if end < SHAPE[1]:
                shown = made[-1]
                if self.context:
                    shown = (1 - nearest_sigma(self.context, SHIFT)) * shown + nearest_sigma(self.context, SHIFT) * self.noise(end - first)
                kept.append(shown)
        self.made = torch.cat(made, 1)
        self.slopes = [torch.cat(parts, 1) for parts in zip(*slopes, strict=True)]

    def scored(self, window: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy, noise, sigma) of what was made."""
        levels = []
        for k in torch.randint(0, 1000, (BATCH,), generator=self.generator).tolist():
            t = 1000 * SHIFT * k / (1000 + (SHIFT - 1) * k)
            levels.append(nearest_sigma(min(max(t, 1000 * window[0]), 1000 * window[1]), SHIFT))
        sigma, noise = torch.tensor(levels, dtype=torch.float64)[:, None, None, None, None], self.noise(SHAPE[1])
        return (1 - sigma) * self.made + sigma * noise, noise, sigma

    def student_loss(self, window: tuple[float, float] = (0.0, 1.0), scale: float = 3.0) -> None:
        """`student`: the loss, and its gradient in a, b, c, d."""
        noisy, _, sigma = self.scored(window)
        negative = NEGATIVE.double().sum() / 6  # padded to three tokens
        fake = noisy - sigma * self.velocity("critic", noisy, self.means)
        u, c = (noisy - sigma * self.velocity("teacher", noisy, mean) for mean in (negative, self.means))
        real = u + scale * (c - u)
        g = (fake - real) / (self.made - real).abs().mean((1, 2, 3, 4), keepdim=True)
        numel = math.prod(SHAPE)
        self.student = 0.5 * float((g**2).sum()) / numel, [float((g * slope).sum()) / numel for slope in self.slopes]

    def critic_loss(self, window: tuple[float, float] = (0.0, 1.0)) -> None:
        noisy, noise, _ = self.scored(window)
        residual = self.velocity("critic", noisy, self.means) - (noise - self.made)
        parts = (noisy, torch.ones_like(noisy), self.means * torch.ones_like(noisy))
        self.critic = float((residual**2).mean()), [float((2 * residual * part).mean()) for part in parts]


def gradient(model: ModelBase, names: str) -> list[float]:
    line: Any = model.transformer
    return [0.0 if (p := getattr(line, name)).grad is None else float(p.grad) for name in names]


@pytest.mark.parametrize("exits", [[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 0, 1]])
@pytest.mark.parametrize(("renoise", "context", "gradient_from"), [("sde", 0.0, 0), ("ode", 0.0, 0), ("sde", 120.0, 0), ("sde", 0.0, 1)])
def test_rollout_loss_and_gradient_of_each_exit_are_those_derived_by_hand(
    folder: Path, exits: list[int], renoise: str, context: float, gradient_from: int
) -> None:
    method = make(folder, renoise=renoise, context_noise=context, start_gradient_frame=gradient_from)
    expected = ByHand(renoise == "sde", context, gradient_from)
    expected.rollout(exits)
    expected.student_loss()
    made = method.roll_out(batch(), exits)
    torch.testing.assert_close(made.double(), expected.made, rtol=1e-6, atol=1e-6)
    loss = method.generator_loss(made, batch()["prompt"])
    loss.backward()
    assert loss.item() == pytest.approx(expected.student[0], rel=1e-6)
    assert gradient(method.student, "abcd") == pytest.approx(expected.student[1], rel=1e-6, abs=1e-6)
    line: Any = method.student.transformer
    assert line.e.grad is None  # nothing of what is remembered
    assert gradient(method.teacher, "abc") == gradient(method.critic, "abc") == [0.0] * 3
    assert method.cuda_generator.get_state().equal(expected.generator.get_state())


@pytest.mark.parametrize("one_exit", [True, False])
@pytest.mark.parametrize("window", [(0.0, 1.0), (0.5, 0.7)])
def test_a_step_is_the_one_derived_by_hand(folder: Path, one_exit: bool, window: tuple[float, float]) -> None:
    """Both losses and gradients, all draws in their documented order, the score window."""
    bounds = {"min_timestep_ratio": window[0], "max_timestep_ratio": window[1]}
    method, expected = make(folder, same_step_across_blocks=one_exit, **bounds), ByHand()
    before = torch.get_rng_state()
    loss_map, outputs, _ = method.single_train_step(batch(), 1)
    method.backward(loss_map, outputs, grad_accum_rounds=2)
    torch.randn(BATCH, 4, 5, 2, 2, generator=expected.generator)
    torch.rand(BATCH, generator=expected.generator)
    for purpose, loss in (("student's exits", expected.student_loss), ("critic's exits", expected.critic_loss)):
        exits = drawn_exits(purpose, 7)
        expected.rollout(exits[:1] * 3 if one_exit else exits)
        loss(window)
    assert loss_map["generator_loss"].item() == pytest.approx(expected.student[0], rel=1e-6)
    assert loss_map["critic_loss"].item() == pytest.approx(expected.critic[0], rel=1e-6)
    assert gradient(method.student, "abcd") == pytest.approx([g / 2 for g in expected.student[1]], rel=1e-6, abs=1e-6)
    assert gradient(method.critic, "abc") == pytest.approx([g / 2 for g in expected.critic[1]], rel=1e-6, abs=1e-6)
    assert method.cuda_generator.get_state().equal(expected.generator.get_state()) and torch.get_rng_state().equal(before)


def test_only_the_pass_at_the_exit_has_a_gradient_and_nothing_follows_it(folder: Path) -> None:
    method = make(folder, context_noise=50.0, start_gradient_frame=2)
    method.roll_out(batch(), [1, 1, 1])
    student: Any = method.student
    for start, graded in ((0, False), (2, True), (4, True)):
        told = [actual for actual in student.passes if actual[1] == start]
        expected = [("predict", start, False, STEPS[0]), ("predict", start, graded, STEPS[1])]
        assert told == expected + ([("write", start, False, 50.0)] if start < 4 else [])


def test_the_critics_videos_have_no_gradient(folder: Path) -> None:
    method = make(folder)
    assert not method.critic_rollout(batch()).requires_grad
    student: Any = method.student
    assert not any(graded for _, _, graded, _ in student.passes)


# --- which step is the exit


def test_exits_are_one_for_all_blocks_or_one_each_and_all_are_drawn(folder: Path) -> None:
    one, each = set(), set()
    for seed in range(60):
        found = make(folder, seed).exits("student's exits")
        assert len(found) == len(BLOCKS) and len(set(found)) == 1
        one.add(found[0])
        each.add(tuple(make(folder, seed, same_step_across_blocks=False).exits("student's exits")))
    assert one == {0, 1, 2} and len(each) > 15
    assert make(folder, last_step_only=True).exits("student's exits") == [2, 2, 2]


def test_exits_are_the_same_on_all_ranks_and_in_all_micro_batches_of_a_step_and_no_longer_in_the_next(folder: Path) -> None:
    ranks = [make(folder, same_step_across_blocks=False) for _ in range(2)]
    ranks[1].cuda_generator.manual_seed(99)
    found = []
    for method in ranks:
        for _ in range(2):
            method.single_train_step(batch(), 1)
            found.append((method.exits("student's exits"), method.exits("critic's exits")))
    assert all(pair == found[0] for pair in found) and found[0][0] != found[0][1]
    ranks[0].shared_generator.manual_seed(8)
    assert ranks[0].exits("student's exits") != found[0][0]


def test_the_method_is_found_by_its_kind() -> None:
    assert method_class("self-forcing") is SelfForcingMethod


# --- what is refused


@pytest.mark.parametrize("bad", [{"rollout": "data_latent"}, {"renoise": "both"}, {"context_noise": 1000}, {"start_gradient_frame": -1}])
def test_a_value_that_means_nothing_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config("x", **bad)


@pytest.mark.parametrize(
    ("made", "path", "said"),
    [
        (config("x", student={"init_from": "x"}), ("models", "student", "family"), "self-forcing needs a block-causal student"),
        (
            config("x", student={"family": "causal-wan", "init_from": "x", "num_frames_per_block": 6}),
            ("models", "student", "num_frames_per_block"),
            "longer than the video's 5 latent frames",
        ),
        (config("x", start_gradient_frame=5), ("method", "start_gradient_frame"), "no block has a gradient"),
        (config("x", denoising_steps=[750, 500]), ("method", "denoising_steps"), "starts at timestep 750"),
    ],
)
def test_what_cannot_be_rolled_out_is_told_at_its_key(made: TrainConfig, path: tuple[str, ...], said: str) -> None:
    (problem,) = check(made, 1)
    assert problem.path == path and said in problem.message and problem.hint


def test_a_teacher_or_critic_that_sees_only_the_past_is_told() -> None:
    made = config("x").resolved()
    for role in ("teacher", "critic"):
        causal = {"family": "causal-wan", "init_from": "x"}
        (problem,) = check(TrainConfig.model_validate({**made, "models": {**made["models"], role: causal}}), 1)
        assert problem.path == ("models", role, "family") and "scores whole videos" in problem.message


def start(folder: Path, told: dict[str, Any] | None) -> dict[str, Any]:
    """A student that starts from an export which tells so."""
    if told is not None:
        (folder / "training.json").write_text(json.dumps({"role": "student", "train": {"models": {"student": told}}}))
    return {"family": "causal-wan", "num_frames_per_block": PER_BLOCK, "init_from": str(folder)}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "nothing tells that"),
        ({"family": "wan"}, "was trained as a bidirectional network (family 'wan')"),
        ({"family": "causal-wan", "num_frames_per_block": 3}, "on blocks of 3 frames, not of num_frames_per_block 2"),
    ],
)
def test_a_student_that_does_not_start_as_a_causal_network_of_its_blocks_is_told(
    folder: Path, tmp_path: Path, told: dict[str, Any] | None, said: str
) -> None:
    made = config(folder, student=start(tmp_path, told))
    (problem,) = made.method.missing_inputs(made)
    assert problem.path == ("models", "student", "init_from") and said in problem.message
    assert "method.require_causal_start: false" in problem.hint
    with pytest.raises(UserError, match=r"models\.student"):
        SelfForcingMethod(made, {role: LineModel(role) for role in WEIGHTS})
    over = config(folder, student=start(tmp_path, told), require_causal_start=False)
    assert over.method.missing_inputs(over) == []


def test_a_causal_start_is_taken_and_random_weights_are_not(folder: Path, tmp_path: Path) -> None:
    good = config(folder, student=start(tmp_path, {"family": "causal-wan", "num_frames_per_block": PER_BLOCK}))
    assert good.method.missing_inputs(good) == []
    random = config(folder, student={"family": "causal-wan", "num_frames_per_block": PER_BLOCK, "architecture": {}})
    (problem,) = random.method.missing_inputs(random)
    assert "random weights" in problem.message


def test_each_of_two_experts_must_start_as_a_causal_network(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for path, told in ((good, {"family": "causal-wan", "num_frames_per_block": PER_BLOCK}), (bad, {"family": "wan"})):
        path.mkdir()
        start(path, told)
    student = {"num_frames_per_block": PER_BLOCK, "init_from": str(good), "experts": {"transformer_2": {"init_from": str(good)}}}
    assert causal.wrong_start(TwoCausalExperts.model_validate(student)) is None
    student["experts"] = {"transformer_2": {"init_from": str(bad)}}
    wrong = causal.wrong_start(TwoCausalExperts.model_validate(student))
    assert wrong is not None and f"{bad} was trained as a bidirectional network" in wrong[0]
