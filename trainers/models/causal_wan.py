"""Owns the causal Wan: Wan's weights under a block-causal mask, with a noise level a frame; all at once or block by block.

No second transformer: the mask on self-attention and Wan's timestep for each token make it the causal network of the published
systems (methods/README.md section 11). A folder saved from one role loads into the other. Must not know any method.
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
from .attention import rope as rope_
from .attention.block_causal import Attending, BlockCausalProcessor
from .attention.kv_cache import KVCache, PromptProcessor
from .attention.kv_store import Layers
from .wan import Wan


class CausalWan(Wan):
    """A frame attends to its own block of `num_frames_per_block` latent frames and to earlier ones; see
    trainers/diffusion/frame_blocks.py."""

    _attend: Callable[..., Attending] | None = None
    """Of the pass under way, where it is not a pass over all frames of a video at once; never asked when something is recomputed."""
    _cross: KVCache | None = None
    """Alike: who keeps the prompt's keys and values."""

    @property
    def num_frames_per_block(self) -> int:
        return int(self.config.num_frames_per_block)

    @property
    def window(self) -> Window:
        return Window(self.config.local_attn_size, self.config.sink_frames)

    def build(self) -> nn.Module:
        network: Any = super().build()
        for layer, block in enumerate(network.blocks):
            block.attn1.set_processor(BlockCausalProcessor(layer))
            block.attn2.set_processor(PromptProcessor(layer, block.attn2.processor))
        network.rope.register_forward_hook(self._attending)
        network.condition_embedder.register_forward_hook(self._embedded)
        # with a timestep a token the embedder returns a view, which fully_shard warns of
        network.condition_embedder.time_embedder.register_forward_hook(lambda _module, _inputs, output: output.clone())
        made: nn.Module = network
        return made

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor | None = None) -> Tensor:
        """noisy [B, T, C, H, W], timesteps [B] or [B, T], prompt [B, L, D] -> velocity [B, T, C, H, W] in float32.

        With `clean` [B, T, C, H, W] (teacher forcing) each block sees the clean frames of earlier blocks, at timestep 0, in place of
        their noisy ones: one pass over [clean | noisy], both at the same positions. Twice the tokens. Where a window rolls, sink
        frames are seen at their own positions here, and next to the window in a pass over a block.
        """
        if clean is None:
            return super().predict_velocity(noisy, timesteps, prompt)
        levels = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, noisy.shape[1])
        both, levels = torch.cat([clean.to(noisy.dtype), noisy], 1), torch.cat([torch.zeros_like(levels), levels], 1)
        with self._attending_by(partial(self._masked, clean_first=True)):
            return super().predict_velocity(both, levels, prompt)[:, noisy.shape[1] :]

    # --- block by block

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int], window: Window | None = None) -> KVCache:
        """For `batch` videos of `frames` latent frames of `size` (H, W), with prompt [B, L, D]; `window`: another than the network's own.

        A pass under torch.no_grad keeps the prompt's keys and values for the next: with other weights, open another cache.
        """
        _, height, width = self.transformer.config.patch_size
        tokens = (size[0] // height) * (size[1] // width)
        return KVCache(
            self.transformer, prompt, batch=batch, frames=frames, per_block=self.num_frames_per_block, size=size, tokens=tokens,
            window=window or self.window,
        )  # fmt: skip

    def predict_block(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, *, start: int) -> Tensor:
        """noisy [B, n, C, H, W], the block from frame `start` on, timesteps [B] or [B, n] -> velocity [B, n, C, H, W] in float32.

        The block attends to itself and to what the cache holds of earlier ones. Gradients flow through this pass, none into the cache.
        """
        return self._streamed(noisy, timesteps, prompt, cache, start, None)

    @torch.no_grad()
    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, *, start: int) -> None:
        """The context pass: later blocks see `clean` [B, n, C, H, W] as the network does at `timesteps` ([B] or [B, n]; 0: no noise)."""
        kept = Layers()
        self._streamed(clean, timesteps, prompt, cache, start, kept)
        cache.add(range(start, start + clean.shape[1]), kept)

    def _streamed(self, latents: Tensor, timesteps: Tensor, prompt: Tensor, cache: KVCache, start: int, kept: Layers | None) -> Tensor:
        cache.check(self.transformer, latents, prompt, start)
        with self._attending_by(partial(self._going_on, cache=cache, start=start, kept=kept), None if torch.is_grad_enabled() else cache):
            return super().predict_velocity(latents, timesteps, prompt)

    # --- what the blocks are told

    @contextmanager
    def _attending_by(self, attend: Callable[..., Attending], cross: KVCache | None = None) -> Iterator[None]:
        self._attend, self._cross = attend, cross
        try:
            yield
        finally:
            self._attend = self._cross = None

    def _attending(self, rope: Any, inputs: tuple[Tensor], _angles: Any) -> Attending:
        """Called in place of the rotary embedding's own result, at the start of each forward pass and never when it is recomputed."""
        (hidden,) = inputs
        _, height, width = rope.patch_size
        return (self._attend or self._masked)(rope, hidden, hidden.shape[-2] // height, hidden.shape[-1] // width)

    def _masked(self, rope: Any, hidden: Tensor, height: int, width: int, clean_first: bool = False) -> Attending:
        times = 2 if clean_first else 1
        frames = hidden.shape[2] // times
        positions = torch.arange(frames, device=hidden.device).repeat(times)
        kind = masks.backend(self.config.attention, hidden.device, rope.attention_head_dim)
        mask = masks.mask(
            kind, frames, self.num_frames_per_block, height * width, hidden.device, teacher_forcing=clean_first, window=self.window
        )
        return Attending(*rope_.angles(rope, positions, height, width, frames - 1), mask)

    def _going_on(
        self, rope: Any, hidden: Tensor, height: int, width: int, *, cache: KVCache, start: int, kept: Layers | None
    ) -> Attending:
        end = start + hidden.shape[2]
        positions = torch.arange(start, end, device=hidden.device)
        return Attending(*rope_.angles(rope, positions, height, width, end - 1), None, cache.past(start, end, rope), kept)

    def _embedded(self, _module: nn.Module, _inputs: Any, output: tuple[Any, ...]) -> Any:
        """In a pass without gradient over a block, cross-attention is given what the cache keeps; else the prompt, as always."""
        if self._cross is None:
            return output
        time, projection, prompt, *rest = output
        return time, projection, self._cross.embedded(prompt), *rest
