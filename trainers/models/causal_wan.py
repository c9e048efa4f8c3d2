"""Owns the causal Wan: Wan's weights under a block-causal mask, with a noise level a frame. Must not know any method.

No second transformer: the mask on self-attention and Wan's timestep for each token make it the causal network of the published
systems (ALGORITHMS.md section 11). A folder saved from one role loads into the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import block_causal
from .block_causal import Attending, BlockCausalProcessor
from .wan import Wan


class CausalWan(Wan):
    """A frame attends to its own block of `num_frames_per_block` latent frames and to earlier ones; see trainers/blocks.py."""

    _clean_first = False

    @property
    def num_frames_per_block(self) -> int:
        return int(self.config.num_frames_per_block)

    def build(self) -> nn.Module:
        network: Any = super().build()
        for block in network.blocks:
            block.attn1.set_processor(BlockCausalProcessor())
        network.rope.register_forward_hook(self._attending)
        # with a timestep a token the embedder returns a view, which fully_shard warns of
        network.condition_embedder.time_embedder.register_forward_hook(lambda _module, _inputs, output: output.clone())
        made: nn.Module = network
        return made

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor | None = None) -> Tensor:
        """noisy [B, T, C, H, W], timesteps [B] or [B, T], prompt [B, L, D] -> velocity [B, T, C, H, W] in float32.

        With `clean` [B, T, C, H, W] (teacher forcing) each block sees the clean frames of earlier blocks, at timestep 0, in place of
        their noisy ones: one pass over [clean | noisy], both at the same positions. Twice the tokens.
        """
        if clean is None:
            return super().predict_velocity(noisy, timesteps, prompt)
        levels = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, noisy.shape[1])
        both, levels = torch.cat([clean.to(noisy.dtype), noisy], 1), torch.cat([torch.zeros_like(levels), levels], 1)
        self._clean_first = True
        try:
            return super().predict_velocity(both, levels, prompt)[:, noisy.shape[1] :]
        finally:
            self._clean_first = False

    def _attending(self, rope: Any, inputs: tuple[Tensor], _angles: Any) -> Attending:
        """Called in place of the rotary embedding's own result, at the start of each forward pass and never when it is recomputed."""
        (hidden,) = inputs
        _, height, width = rope.patch_size
        height, width = hidden.shape[-2] // height, hidden.shape[-1] // width
        frames = hidden.shape[2] // (2 if self._clean_first else 1)
        positions = torch.arange(frames, device=hidden.device).repeat(2 if self._clean_first else 1)
        kind = block_causal.backend(self.config.attention, hidden.device, rope.attention_head_dim)
        mask = block_causal.mask(kind, frames, self.num_frames_per_block, height * width, hidden.device, teacher_forcing=self._clean_first)
        return Attending(*block_causal.angles(rope, positions, height, width), mask)
