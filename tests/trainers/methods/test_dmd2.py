"""Promises of DMD2: losses and gradients derived by hand in both rollouts, draws in their order, what steps when, what is refused."""

from __future__ import annotations

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
from trainers.config.methods.dmd2 import Config
from trainers.diffusion import losses
from trainers.errors import UserError
from trainers.methods import method_class
from trainers.methods.dmd2 import DMD2Method
from trainers.models.base import ModelBase

SHIFT, STEPS, BATCH = 5.0, (1000.0, 937.5, 250.0), 2
SHAPE = (BATCH, 3, 4, 2, 2)
WEIGHTS = {"student": (0.6, -0.2, 0.1), "teacher": (-0.3, 0.4, 0.25), "critic": (0.2, 0.1, -0.3)}
NEGATIVE = torch.tensor([[0.5, -2.0], [1.0, 0.5]])


class Line(nn.Module):
    """v = a x_t + b + c m, where m is the prompt's mean."""

    def __init__(self, weights: tuple[float, float, float]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value)) for value in weights)


class LineModel(FormulaModel):
    def __init__(self, role: str) -> None:
        super().__init__(Line(WEIGHTS[role]), role)
        self.passes: list[tuple[bool, list[float]]] = []

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.passes.append((torch.is_grad_enabled(), timesteps.tolist()))
        line: Any = self.transformer
        found: Tensor = line.a * noisy + line.b + line.c * prompt.mean((1, 2))[:, None, None, None, None]
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prompts")
    safetensors.torch.save_file({"negative": NEGATIVE}, made / "prompts.safetensors")
    return made


def config(folder: Path | str, **method: Any) -> TrainConfig:
    role = {"init_from": "x"}
    data = {"path": str(folder), "num_frames": 3, "height": 4, "width": 4, "vae_stride": [1, 2, 2], "text_len": 3, "global_batch_size": 2}
    return TrainConfig.model_validate(
        {
            "max_steps": 12,
            "flow_shift": SHIFT,
            "method": {"kind": "dmd2", "denoising_steps": list(STEPS), "generator_update_interval": 1, **method},
            "models": {"student": role, "teacher": role, "critic": role},
            "data": {**data, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
            "optimizers": {name: {"kind": "adamw", "lr": 1e-3} for name in ("student", "critic")},
        }
    )


def make(folder: Path, **method: Any) -> DMD2Method:
    made = DMD2Method(config(folder, **method), {role: LineModel(role) for role in WEIGHTS})
    made.cuda_generator.manual_seed(5)
    return made


def batch(rollout: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents, prompt = torch.randn(SHAPE, generator=generator), torch.randn(BATCH, 3, 2, generator=generator)
    return {"prompt": prompt, **({"latents": latents} if rollout == "data_latent" else {})}


# --- by hand, in float64 and without autograd


class ByHand:
    """One iteration: `loss` and `gradient` (da, db, dc) of student and critic; `generator` is left where the draws end."""

    def __init__(self, rollout: str, scale: float, window: tuple[float, float], score_shift: float, student_steps: bool = True) -> None:
        self.rollout, self.scale, self.window, self.score_shift = rollout, scale, window, score_shift
        self.generator, self.batch = torch.Generator().manual_seed(5), batch(rollout)
        self.means = self.batch["prompt"].double().mean((1, 2))
        torch.randn(BATCH, 4, 3, 2, 2, generator=self.generator)
        torch.rand(BATCH, generator=self.generator)
        if student_steps:
            inputs, sigmas = self.starts()
            self.student_loss(inputs, sigmas)
        inputs, sigmas = self.starts()
        self.critic_loss([self.clean("student", x, s, m) for x, s, m in zip(inputs, sigmas, self.means, strict=True)])

    def noise(self) -> Tensor:
        return torch.randn(SHAPE, generator=self.generator).double()

    def velocity(self, role: str, x: Tensor, mean: Tensor) -> Tensor:
        a, b, c = (float(torch.tensor(value)) for value in WEIGHTS[role])
        return a * x + b + c * mean

    def clean(self, role: str, x: Tensor, sigma: float, mean: Tensor) -> Tensor:
        return x - sigma * self.velocity(role, x, mean)

    def starts(self) -> tuple[list[Tensor], list[float]]:
        index = torch.randint(0, len(STEPS), (BATCH,), generator=self.generator).tolist()
        noise, sigmas = self.noise(), [nearest_sigma(t, SHIFT) for t in STEPS]
        if self.rollout == "data_latent":
            latents = self.batch["latents"].double()
            return [(1 - sigmas[j]) * latents[n] + sigmas[j] * noise[n] for n, j in enumerate(index)], [sigmas[j] for j in index]
        fresh = [noise, *(self.noise() for _ in STEPS[1:])]
        found = []
        for n, j in enumerate(index):
            x = fresh[0][n]
            for number in range(j):
                x0 = self.clean("student", x, sigmas[number], self.means[n])
                x = (1 - sigmas[number + 1]) * x0 + sigmas[number + 1] * fresh[number + 1][n]
            found.append(x)
        return found, [sigmas[j] for j in index]

    def score_noise(self) -> tuple[list[float], Tensor]:
        levels = []
        for k in torch.randint(0, 1000, (BATCH,), generator=self.generator).tolist():
            u = k / 1000
            t = 1000 * self.score_shift * u / (1 + (self.score_shift - 1) * u)
            levels.append(nearest_sigma(min(max(t, 1000 * self.window[0]), 1000 * self.window[1]), SHIFT))
        return levels, self.noise()

    def student_loss(self, inputs: list[Tensor], sigmas: list[float]) -> None:
        levels, noise = self.score_noise()
        total, gradient, numel = 0.0, [0.0] * 3, math.prod(SHAPE)
        negative = NEGATIVE.double().sum() / 6  # padded to three tokens
        for n, (x, sigma) in enumerate(zip(inputs, sigmas, strict=True)):
            made = self.clean("student", x, sigma, self.means[n])
            noisy = (1 - levels[n]) * made + levels[n] * noise[n]
            fake = self.clean("critic", noisy, levels[n], self.means[n])
            u, c = (self.clean("teacher", noisy, levels[n], m) for m in (negative, self.means[n]))
            real = u + self.scale * (c - u)
            g = (fake - real) / (made - real).abs().mean()
            total += 0.5 * float((g**2).sum()) / numel
            for number, part in enumerate((x, torch.ones_like(x), self.means[n] * torch.ones_like(x))):
                gradient[number] += float((g * -sigma * part).sum()) / numel
        self.student = total, gradient

    def critic_loss(self, made: list[Tensor]) -> None:
        levels, noise = self.score_noise()
        total, gradient, numel = 0.0, [0.0] * 3, math.prod(SHAPE)
        for n, clean in enumerate(made):
            noisy = (1 - levels[n]) * clean + levels[n] * noise[n]
            residual = self.velocity("critic", noisy, self.means[n]) - (noise[n] - clean)
            total += float((residual**2).sum()) / numel
            for number, part in enumerate((noisy, torch.ones_like(noisy), self.means[n] * torch.ones_like(noisy))):
                gradient[number] += float((2 * residual * part).sum()) / numel
        self.critic = total, gradient


def gradient(model: ModelBase) -> list[float]:
    return [float(p.grad) for p in model.transformer.parameters() if p.grad is not None]


@pytest.mark.parametrize("rollout", ["simulate", "data_latent"])
@pytest.mark.parametrize(("scale", "window", "score_shift"), [(4.5, (0.0, 1.0), SHIFT), (1.0, (0.5, 0.7), 2.0)])
def test_losses_and_gradients_are_those_derived_by_hand(
    folder: Path, rollout: str, scale: float, window: tuple[float, float], score_shift: float
) -> None:
    bounds = {"min_timestep_ratio": window[0], "max_timestep_ratio": window[1], "score_flow_shift": score_shift}
    method = make(folder, rollout=rollout, teacher_guidance_scale=scale, **bounds)
    loss_map, outputs, _ = method.single_train_step(batch(rollout), 1)
    method.backward(loss_map, outputs, grad_accum_rounds=2)
    expected = ByHand(rollout, scale, window, score_shift)
    assert loss_map["generator_loss"].item() == pytest.approx(expected.student[0], rel=1e-6)
    assert loss_map["critic_loss"].item() == pytest.approx(expected.critic[0], rel=1e-6)
    assert loss_map["total_loss"].item() == pytest.approx(expected.student[0] + expected.critic[0], rel=1e-6)
    assert gradient(method.student) == pytest.approx([g / 2 for g in expected.student[1]], rel=1e-6, abs=1e-6)
    assert gradient(method.critic) == pytest.approx([g / 2 for g in expected.critic[1]], rel=1e-6, abs=1e-6)
    assert gradient(method.teacher) == []


@pytest.mark.parametrize("rollout", ["simulate", "data_latent"])
@pytest.mark.parametrize("student_steps", [True, False])
def test_a_step_leaves_the_generator_where_its_documented_draws_end(folder: Path, rollout: str, student_steps: bool) -> None:
    method = make(folder, rollout=rollout, generator_update_interval=3)
    before, shared = torch.get_rng_state(), method.shared_generator.get_state()
    loss_map, _, _ = method.single_train_step(batch(rollout), 6 if student_steps else 7)
    expected = ByHand(rollout, 4.5, (0.0, 1.0), SHIFT, student_steps)
    assert method.cuda_generator.get_state().equal(expected.generator.get_state())
    assert loss_map["critic_loss"].item() == pytest.approx(expected.critic[0], rel=1e-6)
    assert ("generator_loss" in loss_map) == student_steps
    assert torch.get_rng_state().equal(before) and method.shared_generator.get_state().equal(shared)


def test_each_loss_leaves_its_gradient_in_its_own_network_alone(folder: Path) -> None:
    given = batch("simulate")
    method = make(folder)
    method.generator_loss(method.student_rollout(given), given["prompt"]).backward()
    assert [len(gradient(m)) for m in (method.student, method.teacher, method.critic)] == [3, 0, 0]
    method = make(folder)
    method.critic_loss(method.critic_rollout(given), given["prompt"]).backward()
    assert [len(gradient(m)) for m in (method.student, method.teacher, method.critic)] == [0, 0, 3]


def test_the_student_makes_as_many_passes_whichever_step_is_drawn(folder: Path) -> None:
    counts, drawn = set(), set()
    for seed in range(20):
        method = make(folder)
        method.cuda_generator.manual_seed(seed)
        method.student_rollout(batch("simulate"))
        student: Any = method.student
        counts.add((len(student.passes), sum(graded for graded, _ in student.passes)))
        drawn |= {t for _, timesteps in student.passes[-1:] for t in timesteps}
        assert [timesteps[0] for _, timesteps in student.passes[:-1]] == list(STEPS[:-1])
    assert counts == {(len(STEPS), 1)} and drawn == set(STEPS)


def test_guidance_of_one_makes_one_pass_of_the_teacher_and_needs_no_negative_prompt(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="teacher_guidance_scale"):
        make(tmp_path)
    for scale, passes, place in ((1.0, 1, tmp_path), (2.0, 2, folder)):
        method = make(place, teacher_guidance_scale=scale)
        method.single_train_step(batch("simulate"), 1)
        teacher: Any = method.teacher
        assert len(teacher.passes) == passes and not any(graded for graded, _ in teacher.passes)


def test_each_sample_has_a_normaliser_of_its_own_and_a_perfect_one_counts_nothing() -> None:
    generated = torch.tensor([[1.0, 3.0], [0.0, 0.0], [5.0, 5.0]], requires_grad=True)
    fake = torch.tensor([[2.0, 2.0], [4.0, 0.0], [5.0, 5.0]])
    real = torch.tensor([[0.0, 0.0], [0.0, 8.0], [5.0, 5.0]])
    loss = losses.distribution_matching_loss(generated, fake, real)
    loss.backward()
    g = torch.tensor([[1.0, 1.0], [1.0, -2.0], [0.0, 0.0]])  # (f - r) / 2, (f - r) / 4, 0 / 0
    assert loss.item() == pytest.approx(0.5 * (1 + 1 + 1 + 4) / 6, rel=1e-6)
    assert generated.grad is not None and torch.equal(generated.grad, g / 6)


# --- what steps when


def test_the_student_steps_at_its_interval_and_the_critic_always(folder: Path) -> None:
    method = make(folder, generator_update_interval=3)
    for iteration in range(1, 8):
        expected = ["student", "critic"] if iteration % 3 == 0 else ["critic"]
        assert method.stepped_parts(iteration) == expected and list(method.get_grad_clip_targets(iteration)) == expected
        assert method.get_optimizers(iteration) == [method._optimizer_dict[role][0] for role in expected]
        assert method.get_lr_schedulers(iteration) == [method._lr_scheduler_dict[role] for role in expected]
    assert method.averaged_roles() == ["student"]


def test_a_schedule_ends_with_the_run_counted_in_its_own_steps(folder: Path) -> None:
    made = config(folder, generator_update_interval=3).resolved()
    for role in ("student", "critic"):
        made["optimizers"][role]["schedule"] = {"kind": "linear"}
    method = DMD2Method(TrainConfig.model_validate(made), {role: LineModel(role) for role in WEIGHTS})
    for iteration in range(1, 12):
        for scheduler in method.get_lr_schedulers(iteration):
            scheduler.step()
    rates = {role: method._optimizer_dict[role][0].param_groups[0]["lr"] for role in ("student", "critic")}
    assert rates == pytest.approx({"student": 1e-3 / 4, "critic": 1e-3 / 12})  # one of 4 steps is left, one of 12


def test_the_method_is_found_by_its_kind() -> None:
    assert method_class("dmd2") is DMD2Method


# --- what is refused


@pytest.mark.parametrize(
    "bad",
    [
        {"denoising_steps": "x"},
        {"generator_update_interval": 0},
        {"rollout": "real"},
        {"min_timestep_ratio": 0.5, "max_timestep_ratio": 0.5},
        {"max_timestep_ratio": 1.2},
        {"real_score_guidance_scale": 3.5},
    ],
)
def test_a_value_that_means_nothing_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"denoising_steps": [1000], **bad})


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"denoising_steps": []}, "is empty"),
        ({"denoising_steps": [1000, 500, 750]}, "is not descending"),
        ({"denoising_steps": [1000, 500, 500]}, "is not descending"),
        ({"denoising_steps": [1001, 500]}, "off the schedule"),
        ({"denoising_steps": [1000, 0]}, "off the schedule"),
        ({"denoising_steps": [1000, 4]}, "off the schedule"),  # the last entry of shift 5 is at 4.98
        ({"denoising_steps": [1000, 252, 251]}, "one entry of the schedule twice"),
        ({"denoising_steps": [750, 500]}, "starts at timestep 750"),
        ({"denoising_steps": [1000, 999.5], "warp_denoising_steps": True}, "off the schedule"),
        ({"denoising_steps": [1000, 0], "warp_denoising_steps": True}, "off the schedule"),
    ],
)
def test_a_list_of_steps_that_cannot_be_sampled_is_told_at_its_key(method: dict[str, Any], said: str) -> None:
    (problem,) = check(config("x", **method), 1)
    assert problem.path == ("method", "denoising_steps") and said in problem.message and problem.hint


def test_lists_that_were_published_are_taken_for_what_they_are() -> None:
    from trainers.diffusion.flow_schedule import FlowSchedule

    for steps, shift in (([1000, 757, 522], 8), ([1000, 750, 500, 250], 8), ([1000, 757, 522], 3)):
        made = TrainConfig.model_validate({**config("x", denoising_steps=steps).resolved(), "flow_shift": shift})
        assert check(made, 1) == [] and made.method.few_steps(shift) == steps
    warped = config("x", denoising_steps=[1000, 750, 500, 250], warp_denoising_steps=True)
    assert check(warped, 1) == []
    schedule = FlowSchedule(SHIFT)
    found = torch.tensor(warped.method.few_steps(SHIFT))
    assert torch.equal(found, torch.tensor([schedule.warp(step) for step in (1000, 750, 500, 250)]))
    assert found.tolist() == pytest.approx([1000, 937.5, 833.333, 625], rel=1e-6)


def test_a_student_that_would_never_step_is_told() -> None:
    assert check(config("x", generator_update_interval=12), 1) == []
    (problem,) = check(config("x", generator_update_interval=13), 1)
    assert problem.path == ("method", "generator_update_interval") and "never step" in problem.message


def test_steps_of_noised_clips_need_not_start_from_noise() -> None:
    assert check(config("x", denoising_steps=[750, 500], rollout="data_latent"), 1) == []


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ({"models": {"student": {"init_from": "x"}, "critic": {"init_from": "x"}}}, ("models",), "needs the role 'teacher'"),
        ({"optimizers": {"student": {"kind": "adamw", "lr": 1}}}, ("optimizers",), "the trainable role 'critic' has no optimizer"),
        (
            {"optimizers": {role: {"kind": "adamw", "lr": 1} for role in ("student", "teacher", "critic")}},
            ("optimizers", "teacher"),
            "'teacher' is not trained",
        ),
        (
            {"models": {"student": {"init_from": "x"}, "critic": {"architecture": {"in_channels": 4}}, "teacher": {"init_from": "x"}}},
            ("models", "critic", "architecture"),
            "the critic would start from random weights",
        ),
    ],
)
def test_roles_that_cannot_distil_are_told(change: dict[str, Any], path: tuple[str, ...], said: str) -> None:
    made = TrainConfig.model_validate({**config("x").resolved(), **change})
    (problem,) = check(made, 1)
    assert problem.path == path and said in problem.message and problem.hint


def test_data_without_a_negative_prompt_is_told_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    assert [check(config(place), 1) for place in (folder, tmp_path)] == [[], []]
    found = [[p.path for p in made.method.missing_inputs(made)] for made in (config(folder), config(tmp_path))]
    assert found == [[], [("data", "path")]]
    unguided = config(tmp_path, teacher_guidance_scale=1)
    assert unguided.method.missing_inputs(unguided) == []
