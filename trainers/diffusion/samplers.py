"""Owns samplers: pure functions from noise and a velocity to a clean sample. Must not know networks, prompts, roles or files.

Latents have the batch first and any layout after it; a velocity is predicted as predict(x [B, ...], timesteps [B]) -> [B, ...].
Gradients flow where the caller lets them: wrap a call in torch.no_grad() to sample only. The formulas are in trainers/methods/README.md,
sections 1, 5 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .flow_schedule import NUM_TIMESTEPS, FlowSchedule

Predict = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["unipc", "euler"]


def guided(conditional: Predict, unconditional: Predict, scale: float) -> Predict:
    """Return classifier-free guidance u + scale (c - u). With scale 1 it is the conditional alone, and `unconditional` is never called."""
    if scale == 1:
        return conditional

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        u = unconditional(noisy, timesteps)
        return u + scale * (conditional(noisy, timesteps) - u)

    return predict


def sample(
    predict: Predict,
    schedule: FlowSchedule,
    noise: Tensor,
    timesteps: Sequence[float] | Tensor,
    *,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, Tensor], None] = lambda _number, _noisy: None,
) -> Tensor:
    """Denoise over `timesteps` (descending, on or near the grid) and return the last x0: each step predicts x0, which is noised again to
    the next.

    With a `generator` (on any device) each noise is fresh, drawn in the shape of `noise`: the stochastic sampler of few-step students.
    Without one it is the noise that the prediction implies, eps = x0 + v, which makes this Euler's method. on_step(number, state) is
    called before each step.
    """
    noisy, batch = noise, len(noise)
    at = torch.as_tensor(timesteps, dtype=torch.float32, device=noise.device)
    clean = noise
    for number, now in enumerate(at):
        here = now.expand(batch)
        on_step(number, noisy)
        velocity = predict(noisy, here)
        clean = schedule.to_clean(noisy, velocity, here)
        if number + 1 < len(at):
            eps = None if generator is None else fresh_noise(noise, generator)
            noisy = renoise(schedule, clean, noisy, velocity, here, at[number + 1].expand(batch), eps)
    return clean


def renoise(
    schedule: FlowSchedule, clean: Tensor, noisy: Tensor, velocity: Tensor, now: Tensor, then: Tensor, noise: Tensor | None
) -> Tensor:
    """Return the state at timesteps `then` after a clean prediction at `now`: with `noise`, or with the noise that the prediction
    implies."""
    return schedule.add_noise(clean, implied_noise(schedule, noisy, velocity, now) if noise is None else noise, then)


def fresh_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noise in the shape of `like` on the generator's device, and return it on that of `like`."""
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def implied_noise(schedule: FlowSchedule, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """Return eps = x_t + (1 - sigma) v in float64, so that it can be added to x0 without a second rounding."""
    sigma = schedule.sigma(timesteps).reshape(-1, *[1] * (noisy.ndim - 1))
    return noisy.double() + (1 - sigma) * velocity.double()


def solver(kind: Solver, flow_shift: float) -> Any:
    """Return the diffusers scheduler that `solve` steps with. Saved beside exported weights, it makes stock pipelines sample the same."""
    from diffusers import (  # this import takes a second, which ranks that only train need not spend
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    if kind == "euler":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS, shift=flow_shift)
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
    )


def few_step_solver(timesteps: Sequence[float], flow_shift: float, *, stochastic: bool) -> Any:
    """Return a stock scheduler that takes exactly these timesteps, whatever number it is asked for: `sample` for a stock pipeline.

    Its stochastic noise comes from torch's global generator.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS, shift=flow_shift, stochastic_sampling=stochastic)
    sigmas, plain = unshifted_sigmas(timesteps, flow_shift), scheduler.set_timesteps
    scheduler.set_timesteps = lambda _count=None, device=None: plain(sigmas=sigmas, timesteps=list(timesteps), device=device)
    return scheduler


def unshifted_sigmas(timesteps: Sequence[float], flow_shift: float) -> list[float]:
    """Return u of sigma = S(u) for the grid entries of the timesteps: the sigmas that stock schedulers are given, which then shift them."""
    return [1 - int(k) / NUM_TIMESTEPS for k in FlowSchedule(flow_shift).index(torch.tensor(timesteps, dtype=torch.float32))]


def solve(predict: Predict, scheduler: Any, noise: Tensor, num_steps: int, *, tick: Callable[[], None] = lambda: None) -> Tensor:
    """Sample with the many-step ODE sampler, as stock pipelines run it. `scheduler` is from `solver`, latents are float32, `tick` is called
    after each step."""
    scheduler.set_timesteps(num_steps, device=noise.device)
    latents = noise.float()
    for now in scheduler.timesteps:
        velocity = predict(latents, now.expand(len(latents)))
        latents = scheduler.step(velocity, now, latents, return_dict=False)[0]
        tick()
    return latents


def fixed_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Return noise [C, T, H, W] on the CPU: what stock pipelines draw for a single video from torch.Generator().manual_seed(seed)."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))[0]


def frame_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Return noise [C, T, H, W] on the CPU, drawn frame after frame: a longer video starts from the same noise as a shorter one."""
    channels, frames, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(channels, height, width, generator=generator) for _ in range(frames)], 1)
