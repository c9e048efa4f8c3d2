"""Owns making a video block by block with gradient: what self-forcing trains on (arXiv 2506.08009; trainers/methods/README.md section 7).

Each block is denoised over the first of a list of steps, up to the one at which it exits; only that pass has a gradient. Then it is
written, without noise or with little and cut off from the gradient, to the cache that later blocks read. So a gradient reaches the
network through one pass a block, and never through the cache or through the input of a pass. Must not draw at which steps blocks exit,
nor know losses or roles. Latents are [B, T, C, H, W].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from .flow_schedule import FlowSchedule
from .frame_blocks import lengths
from .samplers import renoise

Draw = Callable[[Tensor], Tensor]
"""Returns fresh noise in the shape of a tensor, from whatever source."""


class Streaming(Protocol):
    """A network that makes a video block by block; trainers/models/causal_wan.py explains the methods."""

    @property
    def num_frames_per_block(self) -> int: ...

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int]) -> Any: ...

    def predict_block(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, cache: Any, *, start: int) -> Tensor: ...

    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: Any, *, start: int) -> None: ...


class Steps(Protocol):
    """The denoising steps of a block, by their number."""

    @property
    def timesteps(self) -> Tensor:
        """Timesteps [K], descending."""

    def predict(self, model: Any, number: int, noisy: Tensor, prompt: Tensor, cache: Any, start: int) -> Tensor:
        """Return the velocity of the block from frame `start` on, by the network that is responsible for this step."""

    def clean(self, number: int, noisy: Tensor, velocity: Tensor) -> Tensor:
        """Return the clean block that the prediction at a step implies, in the shape of `noisy`: with gradient where `velocity` has one."""

    def onward(self, number: int, noisy: Tensor, velocity: Tensor, draw: Draw) -> Tensor:
        """Return the input of the next step; draws the noise that this needs."""

    def let_go(self, cache: Any, later: Sequence[int]) -> None:
        """Let go what no pass over a later block reads of the cache. `later`: the numbers of these blocks' last steps."""


class FewSteps:
    """The steps of a network that takes all of them itself: it predicts x0, which is noised again to the next step."""

    def __init__(self, schedule: FlowSchedule, timesteps: Tensor, *, stochastic: bool) -> None:
        """timesteps: on any device. stochastic: noise again with fresh noise; otherwise with the noise that the prediction implies, which
        is Euler's method."""
        self._schedule, self.timesteps, self._stochastic = schedule, timesteps.to(schedule.timesteps.device), stochastic

    def predict(self, model: Streaming, number: int, noisy: Tensor, prompt: Tensor, cache: Any, start: int) -> Tensor:
        return model.predict_block(noisy, self._at(number, noisy), prompt, cache, start=start)

    def clean(self, number: int, noisy: Tensor, velocity: Tensor) -> Tensor:
        return self._schedule.to_clean(noisy, velocity, self._at(number, noisy))

    def onward(self, number: int, noisy: Tensor, velocity: Tensor, draw: Draw) -> Tensor:
        here, clean = self._at(number, noisy), self.clean(number, noisy, velocity)
        noise = draw(clean) if self._stochastic else None
        return renoise(self._schedule, clean, noisy, velocity, here, self._at(number + 1, noisy), noise)

    def let_go(self, cache: Any, later: Sequence[int]) -> None:
        """Let go nothing: each pass reads all of the one network's cache."""

    def _at(self, number: int, noisy: Tensor) -> Tensor:
        return self.timesteps[number].expand(len(noisy))


def roll_out(
    model: Streaming,
    steps: Steps,
    prompt: Tensor,
    noise: Tensor,
    exits: Sequence[int],
    *,
    schedule: FlowSchedule,
    draw: Draw,
    context_noise: float = 0.0,
    gradient_from: int = 0,
) -> Tensor:
    """Make a clean video [B, T, C, H, W] from noise [B, T, C, H, W] and a prompt [B, L, D].

    `exits`: for each block the number of its last step, which must be the same on all ranks, as sharded networks wait for each other.
    `context_noise`: timestep (0 to 1000) at which a block is shown to later ones; 0 adds none. `gradient_from`: blocks that start before
    this frame are made without gradient. Draws noise in the shape of a block after each step but the exit, and for the context where
    there is context_noise, block after block.
    """
    cache = model.open_cache(len(noise), prompt, noise.shape[1], (noise.shape[-2], noise.shape[-1]))
    made, start = list[Tensor](), 0
    for block, last in zip(noise.split(lengths(noise.shape[1], model.num_frames_per_block), 1), exits, strict=True):

        def predict(noisy: Tensor, number: int, start: int = start) -> Tensor:
            return steps.predict(model, number, noisy, prompt, cache, start)

        made.append(denoised(predict, steps, block, last, draw, graded=start >= gradient_from))
        if later := exits[len(made) :]:
            steps.let_go(cache, later)
            with torch.no_grad():
                context, timesteps = as_context(schedule, made[-1].detach(), context_noise, draw)
                model.write_block(context, timesteps, prompt, cache, start=start)
        start += block.shape[1]
    return joined(made)


def joined(blocks: list[Tensor]) -> Tensor:
    """Return the video of its blocks. Its gradient goes through one block's graph after another, from the last to the first, and each is
    gone before the next.

    Gone through together, no gradient of a weight would be ready before all blocks had added to it: of a sharded network those of all
    layers would be there whole (28 GB in bf16 for the A14B's expert), and nothing that was kept for any block could be let go.
    """
    if not any(block.requires_grad for block in blocks):
        return torch.cat(blocks, 1)
    video: Tensor = _OneAfterAnother.apply(blocks[0].new_empty(0, requires_grad=True), list(blocks))
    return video


class _OneAfterAnother(torch.autograd.Function):
    """anchor: any tensor with a gradient, so that the result has one, too. The blocks are in a list, where autograd does not see them."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, blocks: list[Tensor]) -> Tensor:
        ctx.blocks = blocks
        return torch.cat(blocks, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        rest = gradients[0]
        if not ctx.blocks:
            raise RuntimeError("the gradient of a video that was made block by block was taken already")
        while ctx.blocks:
            block = ctx.blocks.pop()
            rest, own = rest.split([rest.shape[1] - block.shape[1], block.shape[1]], 1)
            if block.requires_grad:
                torch.autograd.backward(block, own)
        return None, None


def denoised(predict: Callable[[Tensor, int], Tensor], steps: Steps, noisy: Tensor, last: int, draw: Draw, *, graded: bool) -> Tensor:
    """Denoise one block up to step `last` and return its clean prediction there; only that pass has a gradient, where `graded`.

    predict(noisy, number) returns the velocity at a step.
    """
    with torch.no_grad():
        for number in range(last):
            noisy = steps.onward(number, noisy, predict(noisy, number), draw)
    with nullcontext() if graded else torch.no_grad():
        return steps.clean(last, noisy, predict(noisy, last))


def as_context(schedule: FlowSchedule, clean: Tensor, level: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """Return (the block, timesteps [B]) in the form in which later blocks see it: at noise level `level`, a timestep.

    The schedule has no noise level 0, so there none is added, rather than that of its nearest entry.
    """
    timesteps = torch.full((len(clean),), level, device=clean.device)
    return (schedule.add_noise(clean, draw(clean), timesteps) if level else clean), timesteps
