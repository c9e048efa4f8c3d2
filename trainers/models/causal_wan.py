"""Owns the causal Wan: Wan's weights under a block-causal mask, with a noise level for each frame; all frames at once or block by block.

There is no second transformer: the mask on self-attention, and a noise level for each frame, make it the causal network of the published
systems (trainers/methods/README.md section 11). A folder saved from one family loads into the other. Must not know any method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.frame_blocks import Window
from .attention import masks
from .attention.block_causal import AttentionInputs, BlockCausalProcessor
from .attention.kv_cache import KVCache, PromptProcessor
from .attention.kv_store import Layers
from .attention.rope import rotary_angles
from .wan import Wan


class CausalWan(Wan):
    """A Wan in which a frame attends to its own block of `num_frames_per_block` latent frames and to earlier ones, by the rules of
    trainers/diffusion/frame_blocks.py."""

    _attend: Callable[..., AttentionInputs] | None = None
    """Makes the attention's inputs in the pass under way, if that is not a pass over all frames of a video. Never called when activations
    are recomputed."""
    _cross: KVCache | None = None
    """The cache that keeps the prompt's keys and values in the pass under way, if any."""
    _frames: int | None = None
    """Where the pass under way has each frame as a video of its own: how many of them are one."""

    @property
    def num_frames_per_block(self) -> int:
        return int(self.config.num_frames_per_block)

    @property
    def window(self) -> Window:
        """How many frames a block attends to."""
        return Window(self.config.local_attn_size, self.config.sink_frames)

    def build(self) -> nn.Module:
        network: Any = super().build()
        for layer, block in enumerate(network.blocks):
            block.attn1.set_processor(BlockCausalProcessor(layer))
            block.attn2.set_processor(PromptProcessor(layer, block.attn2.processor))
        network.rope.register_forward_hook(self._attention_inputs)
        network.condition_embedder.register_forward_hook(self._prompt_inputs)
        made: nn.Module = network
        return made

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return the velocity [B, T, C, H, W] in float32 for noisy [B, T, C, H, W], timesteps [B] or [B, T] and prompt [B, L, D].

        With `clean` [B, T, C, H, W] (teacher forcing) each block sees the clean frames of earlier blocks, at timestep 0, in place of
        their noisy ones: one pass over [clean | noisy], both at the same positions, with twice the tokens. Where a window rolls, sink
        frames are seen at their own positions here, but next to the window in a pass over a block.
        """
        if clean is None:
            return self._pass(noisy, timesteps, prompt)
        levels = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, noisy.shape[1])
        both, levels = torch.cat([clean.to(noisy.dtype), noisy], 1), torch.cat([torch.zeros_like(levels), levels], 1)
        with self._attention_from(partial(self._masked_inputs, clean_first=True)):
            return self._pass(both, levels, prompt)[:, noisy.shape[1] :]

    def _pass(self, latents: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """Make one pass over [B, T, C, H, W].

        Where each frame has its own noise level (timesteps [B, T]) the network gets B x T videos of one frame, which only attention joins
        (`joined` in attention/projections.py). So a level is embedded once a frame and broadcast over its tokens; diffusers' own form,
        a timestep a token, makes six float32 numbers for each of a token's channels in each block.
        """
        if timesteps.ndim == 1:
            return super().predict_velocity(latents, timesteps, prompt)
        count, self._frames = latents.shape[:2]
        try:
            alone = super().predict_velocity(latents.flatten(0, 1)[:, None], timesteps.flatten(), prompt)
        finally:
            self._frames = None
        return alone[:, 0].unflatten(0, (count, -1))

    # --- block by block

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int], window: Window | None = None) -> KVCache:
        """Return an empty cache for `batch` videos of `frames` latent frames of `size` (H, W), with prompt [B, L, D]. `window`: another
        than the network's own.

        A pass under torch.no_grad keeps the prompt's keys and values for the next one: with other weights, open another cache.
        """
        _, height, width = self.transformer.config.patch_size
        tokens = (size[0] // height) * (size[1] // width)
        return KVCache(
            self.transformer, prompt, batch=batch, frames=frames, per_block=self.num_frames_per_block, size=size, tokens=tokens,
            window=window or self.window,
        )  # fmt: skip

    def predict_block(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, *, start: int) -> Tensor:
        """Return the velocity [B, n, C, H, W] in float32 of the block noisy [B, n, C, H, W] from frame `start` on, at timesteps [B] or [B,
        n].

        The block attends to itself and to the earlier blocks that the cache holds. Gradients flow through this pass, but not into the
        cache.
        """
        return self._pass_over_block(noisy, timesteps, prompt, cache, start, None)

    @torch.no_grad()
    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, *, start: int) -> None:
        """Write a finished block to the cache: later ones see `clean` [B, n, C, H, W] as the network does at `timesteps` ([B] or [B, n]; 0:
        no noise)."""
        kept = cache.collector()
        self._pass_over_block(clean, timesteps, prompt, cache, start, kept)
        cache.add(range(start, start + clean.shape[1]), kept)

    def _pass_over_block(
        self, latents: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, start: int, kept: Layers | None
    ) -> Tensor:
        """Make one pass over a block; `kept` collects the block's own keys and values."""
        cache.check(self.transformer, latents, prompt, start)
        inputs = partial(self._cached_inputs, cache=cache, start=start, kept=kept)
        with self._attention_from(inputs, None if torch.is_grad_enabled() else cache):
            return self._pass(latents, timesteps, prompt)

    # --- the inputs of the blocks' attention

    @contextmanager
    def _attention_from(self, attend: Callable[..., AttentionInputs], cross: KVCache | None = None) -> Iterator[None]:
        """Take the inputs of self-attention, and the cache of the prompt's keys and values, from these in the pass inside."""
        self._attend, self._cross = attend, cross
        try:
            yield
        finally:
            self._attend = self._cross = None

    def _attention_inputs(self, rope: Any, inputs: tuple[Tensor], _angles: Any) -> AttentionInputs:
        """Replace the rotary embedding's result by the attention's inputs. A hook: called at the start of each forward pass, and never when
        activations are recomputed."""
        (hidden,) = inputs
        _, height, width = rope.patch_size
        frames = self._frames or hidden.shape[2]
        return (self._attend or self._masked_inputs)(rope, frames, hidden.shape[-2] // height, hidden.shape[-1] // width)

    def _masked_inputs(self, rope: Any, frames: int, height: int, width: int, clean_first: bool = False) -> AttentionInputs:
        """Return the attention's inputs for a pass over all frames; clean_first: over [clean | noisy]."""
        times = 2 if clean_first else 1
        frames, device = frames // times, self.device
        positions = torch.arange(frames, device=device).repeat(times)
        kind = masks.backend(self.config.attention, device, rope.attention_head_dim)
        mask = masks.mask(kind, frames, self.num_frames_per_block, height * width, device, teacher_forcing=clean_first, window=self.window)
        return AttentionInputs(*rotary_angles(rope, positions, height, width, frames - 1), mask)

    def _cached_inputs(
        self, rope: Any, frames: int, height: int, width: int, *, cache: KVCache, start: int, kept: Layers | None
    ) -> AttentionInputs:
        """Return the attention's inputs for a pass over the block from frame `start` on."""
        end = start + frames
        positions = torch.arange(start, end, device=self.device)
        return AttentionInputs(*rotary_angles(rope, positions, height, width, end - 1), None, cache.past(start, end, rope), kept)

    def _prompt_inputs(self, _module: nn.Module, _inputs: Any, output: tuple[Any, ...]) -> Any:
        """Give cross-attention the keys and values that the cache keeps, in a pass without gradient over a block; else the prompt, as
        always."""
        if self._cross is None:
            return output
        time, projection, prompt, *rest = output
        return time, projection, self._cross.embedded(prompt), *rest
