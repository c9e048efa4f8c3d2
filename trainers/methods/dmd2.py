"""Owns DMD2 (arXiv 2405.14867; trainers/methods/README.md section 5): a few-step student whose samples shall be distributed as its
teacher's.

A subclass changes how samples are made (`student_rollout`, `critic_rollout`), not the losses. All draws come from `cuda_generator`, at
each iteration in this order: noise [B, C, T, H, W] and u [B], which nothing uses (the reference implementation's order); where the
student steps, the draws of its rollout, then k [B] and noise [B, T, C, H, W] for its loss; the draws of the critic's rollout, then again
k and noise. A rollout draws an index [B] and noise [B, T, C, H, W]; with `simulate` such noise again for each further step. Where a role
has two experts, which of them a rollout ends with and a loss compares is drawn before that, for all ranks together and from none of
these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data.dataset import pad, statistics
from ..data.prompt_embeddings import required
from ..diffusion import losses
from ..diffusion.expert_ranges import ExpertRanges, boundary, split
from ..diffusion.flow_schedule import NUM_TIMESTEPS, FlowSchedule, shifted
from ..diffusion.samplers import guided
from ..models.base import ModelBase
from .base import Batch, TrainingMethod


class DMD2Method(TrainingMethod):
    """Trains a student against a frozen teacher and a critic, which learns to predict the student's samples."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        config: Any = cfg.method
        self.config = config
        self.student, self.teacher, self.critic = (role_models[role] for role in ("student", "teacher", "critic"))
        self.schedule = FlowSchedule(cfg.flow_shift, self.device)
        self.host_steps = torch.tensor(config.few_steps(cfg.flow_shift), dtype=torch.float32)
        """The same as `steps`, on the CPU: what the host decides by them does not wait for the device."""
        self.steps = self.host_steps.to(self.device)
        """Timesteps [K] at which the student is sampled, descending."""
        levels, over = self._score_levels(), boundary([self.teacher.boundary, self.critic.boundary])
        self.score_levels = levels.to(self.device)
        self.score_ranges = None if over is None else split((levels >= over).tolist())
        self.step_ranges = None if self.student.boundary is None else split((self.host_steps >= self.student.boundary).tolist())
        self.negative = _negative(cfg, self.device) if config.teacher_guidance_scale != 1 else None
        self.build_optimizer("student", every=config.update_interval("student"))
        self.build_optimizer("critic")

    def student_steps(self, iteration: int) -> bool:
        """Return whether the student, and not only the critic, steps at this iteration."""
        return bool(iteration % self.config.generator_update_interval == 0)

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """Return all losses with their graphs, for a subclass that has something to add: the trainer takes them in turn."""
        found = dict(self.losses_in_turn(batch, iteration))
        return {"total_loss": torch.stack(list(found.values())).sum().detach(), **found}, {}, {}

    def backward(self, loss_map: dict[str, Tensor], outputs: dict[str, Any], grad_accum_rounds: int = 1) -> None:
        """Accumulate the gradients, one role at a time: neither loss has a gradient in the other role's network."""
        for name in ("generator_loss", "critic_loss"):
            if name in loss_map:
                (loss_map[name] / grad_accum_rounds).backward()

    def losses_in_turn(self, batch: Batch, iteration: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the student's loss, where it steps, then the critic's: no activation of the student lives through the critic's rollout."""
        self.prepare_batch(batch)
        if self.student_steps(iteration):
            yield "generator_loss", self.generator_loss(self.student_rollout(batch), batch["prompt"])
        yield "critic_loss", self.critic_loss(self.critic_rollout(batch), batch["prompt"])

    # --- samples

    def student_rollout(self, batch: Batch) -> Tensor:
        """Return the student's clean prediction [B, T, C, H, W] at one of its steps, with gradient through its last pass alone."""
        return self._rollout(batch, "student's rollout")

    @torch.no_grad()
    def critic_rollout(self, batch: Batch) -> Tensor:
        """Return fresh samples [B, T, C, H, W] for the critic to learn from, made as the student's are, without gradient."""
        return self._rollout(batch, "critic's rollout")

    def _rollout(self, batch: Batch, purpose: str) -> Tensor:
        high = self.draw_expert(self.step_ranges, purpose)
        noisy, timesteps = self.starting_points(batch, high)
        return self.predict_clean(self.student.expert(high), noisy, timesteps, batch["prompt"])

    def starting_points(self, batch: Batch, high: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return (noisy [B, T, C, H, W], timesteps [B]): for each sample the student's input at a step that is drawn uniformly, for a
        student of two experts among the steps of one (`high`)."""
        shape = self.latent_shape(batch)
        first, end = (0, len(self.steps)) if self.step_ranges is None else self.step_ranges.entries(high, len(self.steps))
        index = torch.randint(first, end, (shape[0],), generator=self.cuda_generator, device=self.device)
        if self.config.rollout == "data_latent":
            return self.schedule.add_noise(batch["latents"], self.draw_noise(shape), self.steps[index]), self.steps[index]
        inputs = torch.stack(self.simulated_inputs(batch["prompt"], shape))
        return inputs[index, torch.arange(shape[0], device=self.device)], self.steps[index]

    @torch.no_grad()
    def simulated_inputs(self, prompt: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Return the student's input at each of its steps when it samples from noise. All are made, whichever are used: if ranks stopped at
        different steps, their sharded networks would wait for each other for ever."""
        inputs = [self.draw_noise(shape)]
        for number, (now, then) in enumerate(zip(self.steps, self.steps[1:], strict=False)):
            student = self.student.expert(None if self.step_ranges is None else number < self.step_ranges.high[1])
            clean = self.predict_clean(student, inputs[-1], now.expand(shape[0]), prompt)
            inputs.append(self.schedule.add_noise(clean, self.draw_noise(shape), then.expand(shape[0])))
        return inputs

    def prepare_batch(self, batch: Batch) -> None:
        """Make the reference implementation's draws, which this method does not use."""
        b, t, c, h, w = self.latent_shape(batch)
        torch.randn(b, c, t, h, w, generator=self.cuda_generator, device=self.device)
        torch.rand(b, generator=self.cuda_generator, device=self.device)

    def latent_shape(self, batch: Batch) -> tuple[int, ...]:
        """Return [B, T, C, H, W] of this batch's latents, also where it holds prompts only."""
        if "latents" in batch:
            return tuple(batch["latents"].shape)
        t, h, w = self.cfg.data.latent_shape
        return len(batch["prompt"]), t, len(statistics(self.cfg.data)[0]), h, w

    def draw_noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=self.cuda_generator, device=self.device)

    # --- losses

    def draw_expert(self, ranges: ExpertRanges | None, purpose: str) -> bool | None:
        """Return which of two experts is used, the same for all ranks; None where there is one."""
        return None if ranges is None else ranges.draw(self.shared(purpose))

    def generator_loss(self, generated: Tensor, prompt: Tensor) -> Tensor:
        """Return the student's loss: the distribution matching gradient of critic and teacher. Draws k [B] and noise [B, T, C, H, W]."""
        high = self.draw_expert(self.score_ranges, "generator's loss")
        with torch.no_grad():
            noisy, _, timesteps = self.noised(generated, high)
            fake = self.predict_clean(self.critic.expert(high), noisy, timesteps, prompt)
            real = self.schedule.to_clean(noisy, self.teacher_velocity(noisy, timesteps, prompt, high), timesteps)
        return losses.distribution_matching_loss(generated, fake, real)

    def critic_loss(self, generated: Tensor, prompt: Tensor) -> Tensor:
        """Return the critic's velocity loss on the student's samples, without guidance. Draws k [B] and noise [B, T, C, H, W]."""
        high = self.draw_expert(self.score_ranges, "critic's loss")
        noisy, noise, timesteps = self.noised(generated, high)
        return losses.velocity_loss(self.critic.expert(high).predict_velocity(noisy, timesteps, prompt), noise, generated)

    def noised(self, generated: Tensor, high: bool | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (noisy, noise, timesteps [B]) at noise levels drawn for each sample, all of one expert's range where teacher or critic has
        two."""
        shape = generated.shape
        first, end = (0, NUM_TIMESTEPS) if self.score_ranges is None else self.score_ranges.entries(high, NUM_TIMESTEPS)
        timesteps = self.score_levels[torch.randint(first, end, (shape[0],), generator=self.cuda_generator, device=self.device)]
        noise = self.draw_noise(shape)
        return self.schedule.add_noise(generated, noise, timesteps), noise, timesteps

    def _score_levels(self) -> Tensor:
        """Return the noise levels [1000] of the losses, on the CPU, rising and equally likely: t = 1000 S(k / 1000) of k = 0, 1, ...,
        clamped to the configured window."""
        k, config = torch.arange(NUM_TIMESTEPS, dtype=torch.float64), self.config
        drawn = NUM_TIMESTEPS * shifted(k / NUM_TIMESTEPS, config.score_flow_shift or self.cfg.flow_shift)
        return drawn.clamp(config.min_timestep_ratio * NUM_TIMESTEPS, config.max_timestep_ratio * NUM_TIMESTEPS).float()

    def teacher_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, high: bool | None = None) -> Tensor:
        """Return the guided velocity u + s (c - u). x0 is linear in the velocity, so it does not matter which of the two is guided."""
        teacher = self.teacher.expert(high)

        def unconditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            assert self.negative is not None
            return teacher.predict_velocity(noisy, timesteps, self.negative.expand(len(noisy), -1, -1))

        def conditional(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return teacher.predict_velocity(noisy, timesteps, prompt)

        return guided(conditional, unconditional, self.config.teacher_guidance_scale)(noisy, timesteps)

    def predict_clean(self, model: ModelBase, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        return self.schedule.to_clean(noisy, model.predict_velocity(noisy, timesteps, prompt), timesteps)

    # --- what steps when

    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        return self.optimizers_of(*self._stepping(iteration))

    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        return self.schedulers_of(*self._stepping(iteration))

    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        return self.clip_targets_of(*self._stepping(iteration))

    def _stepping(self, iteration: int) -> list[str]:
        return ["student", "critic"] if self.student_steps(iteration) else ["critic"]

    def averaged_roles(self) -> list[str]:
        """Return the student alone: nobody samples from the critic."""
        return ["student"]


def _negative(cfg: TrainConfig, device: torch.device) -> Tensor:
    """Return the prompt embedding [1, text_len, D] of the teacher's unconditional branch."""
    stored = required(cfg.data, "method.teacher_guidance_scale").negative
    return pad(stored, cfg.data.text_len)[0][None].to(device)
