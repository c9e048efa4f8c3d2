"""Owns how many floating-point operations a training step of a Wan has to make: matrix products only, from sizes alone. No torch.

A product of [m, k] and [k, n] counts 2 m k n. With N tokens after patching, D = heads x head dim, F = ffn_dim, L prompt tokens and
P pairs (query, key) that may attend to each other (N^2, or fewer under a mask), one block's forward pass on one sample counts

    weights    4 x 2 N D^2 (self: q, k, v, out)  +  2 x 2 N D^2 + 2 x 2 L D^2 (cross: q, out; k, v)  +  2 x 2 N D F (feed-forward)
    attention  2 x 2 P D (self: scores, values)  +  2 x 2 N L D (cross)
    adapters   2 x rank x (inputs + outputs) x tokens for each adapted layer

and what is outside of the blocks: 2 N D x (in + out channels x patch), the prompt's 2 L (text_dim D + D^2), and M times
2 (freq_dim D + D^2 + 6 D^2) for M timesteps: one a sample, or one a frame where frames have noise levels of their own.

A step counts forward + backward + what activation checkpointing computes again. The backward pass of everything trained is twice its
forward pass (a product for the input's gradient, one for the weight's; attention likewise, without what its kernel computes again).
Of a frozen weight there is only the input's gradient, once; outside of the blocks then none. Recomputed are the blocks, once.
Left out as too small: that the first layers need no gradient of their inputs (below 0.5% of a step of Wan 1.3B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainers.config.models.wan import WanArchitecture


@dataclass(frozen=True)
class Sizes:
    """A batch for a network of this architecture."""

    architecture: WanArchitecture
    latents: tuple[int, int, int]
    """(T, H, W), before patching."""
    prompt: int
    batch: int = 1
    per_block: int | None = None
    """Latent frames of a block, where attention is block-causal and each frame has a timestep."""

    @property
    def timesteps(self) -> int:
        """M of one sample."""
        return 1 if self.per_block is None else self.latents[0]

    @property
    def tokens(self) -> int:
        """N."""
        return math.prod(size // patch for size, patch in zip(self.latents, self.architecture.patch_size, strict=True))

    @property
    def pairs(self) -> int:
        """P."""
        if self.per_block is None:
            return self.tokens**2
        frames, tokens = self.latents[0], self.tokens // self.latents[0]
        seen = sum(min(frames, (frame // self.per_block + 1) * self.per_block) for frame in range(frames))
        return seen * tokens**2

    @property
    def width(self) -> int:
        """D."""
        return self.architecture.num_attention_heads * self.architecture.attention_head_dim


def outside(sizes: Sizes) -> float:
    """Forward, of the whole batch, what is before and after the blocks."""
    a, d = sizes.architecture, sizes.width
    patches = 2 * sizes.tokens * d * (a.in_channels + a.out_channels) * math.prod(a.patch_size)
    prompt = 2 * sizes.prompt * (a.text_dim * d + d * d)
    times = sizes.timesteps * 2 * (a.freq_dim * d + 7 * d * d)
    return float(sizes.batch * (patches + prompt + times))


def weights(sizes: Sizes) -> float:
    """Forward, of the whole batch, all blocks."""
    a, n, text, d = sizes.architecture, sizes.tokens, sizes.prompt, sizes.width
    return float(sizes.batch * a.num_layers * (12 * n * d * d + 4 * text * d * d + 4 * n * d * a.ffn_dim))


def attention(sizes: Sizes) -> float:
    """Forward, of the whole batch, all blocks."""
    return float(sizes.batch * sizes.architecture.num_layers * 4 * sizes.width * (sizes.pairs + sizes.tokens * sizes.prompt))


def adapters(sizes: Sizes, rank: int) -> float:
    """Forward, of the whole batch: adapters of to_q, to_k, to_v and to_out.0 of both attentions in all blocks."""
    n, text, d = sizes.tokens, sizes.prompt, sizes.width
    return float(sizes.batch * sizes.architecture.num_layers * 2 * rank * 2 * d * (6 * n + 2 * text))


def full_step(sizes: Sizes, *, recompute: bool) -> float:
    """All weights trained."""
    blocks = weights(sizes) + attention(sizes)
    return 3 * (outside(sizes) + blocks) + recompute * blocks


def lora_step(sizes: Sizes, rank: int, *, recompute: bool) -> float:
    """Only adapters trained."""
    small = adapters(sizes, rank)
    again = weights(sizes) + attention(sizes) + small
    return outside(sizes) + 2 * weights(sizes) + 3 * (attention(sizes) + small) + recompute * again
