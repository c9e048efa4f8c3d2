"""Owns the cache of keys and values with which a causal network goes on from block to block. Must not know methods, roles or samplers.

A cache is an object of the caller's: one for each network (so one for each of two experts), prompt and batch of videos; no module
holds it. What was written is never changed, only let go once no later block sees it. So what a pass sees is fixed when it is called, and
activation checkpointing may compute the pass again after later blocks were written; and nothing written has a gradient.

Positions: keys are stored rotated to their frame's own (absolute) position, as rotary attention depends on differences only. Where a
window has dropped frames, the sink frames are turned further by as many: the network meets them as though they stood right before the
window, so no distance grows with the video's length (the positions within the cache of arXiv 2309.17453). Where nothing was dropped,
block by block is one pass under the block-causal mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...diffusion.frame_blocks import Window, lengths
from . import block_causal
from . import rope as rope_
from .kv_store import Layers, Part, Past
from .projections import put_out


class KVCache:
    """Of one network, one prompt and one batch of videos, for one set of weights. `open_cache` makes it, `write_block` fills it."""

    def __init__(
        self,
        network: nn.Module,
        prompt: Tensor,
        *,
        batch: int,
        frames: int,
        per_block: int,
        size: tuple[int, int],
        tokens: int,
        window: Window,
    ) -> None:
        """frames, size (H, W): of the whole video's latents; tokens: of a frame, after patching."""
        self._network, self._prompt, self._batch, self._size, self._tokens = network, prompt, batch, size, tokens
        self.num_frames, self.window = frames, window
        self._per_block, self._lengths = per_block, lengths(frames, per_block)
        self._written: tuple[tuple[range, Layers], ...] = ()
        self._end, self._of_prompt = 0, Layers()

    @property
    def frames_written(self) -> int:
        return self._end

    @property
    def num_bytes(self) -> int:
        """Of keys and values that it holds."""
        return self._of_prompt.num_bytes + sum(layers.num_bytes for _, layers in self._written)

    def check(self, network: nn.Module, latents: Tensor, prompt: Tensor, start: int) -> None:
        """ValueError where a pass over `latents` [B, n, C, H, W] from frame `start` on is not the next of this cache."""
        if network is not self._network:
            raise ValueError("this cache belongs to another network (or expert)")
        if not _same_memory(prompt, self._prompt):
            raise ValueError("this cache belongs to another prompt (the tensor it was opened with is meant, not an equal one)")
        if (latents.shape[0], *latents.shape[-2:]) != (self._batch, *self._size):
            raise ValueError(f"this cache is of {self._batch} videos of {self._size}, not of latents {list(latents.shape)}")
        if start != self._end:
            raise ValueError(f"a block that starts at frame {start} is not the next: {self._end} frames are written")
        if latents.shape[1] != self._length_from(start):
            raise ValueError(f"{latents.shape[1]} frames from frame {start} on are no block of {self.num_frames} by {self._per_block}")

    def past(self, start: int, end: int, rope: Any) -> Past:
        """What the block of frames [start, end) sees of earlier ones."""
        sink, newest = self.window.earlier(start, end)
        angles = rope_.turn(rope, self.window.dropped(end)) if sink else None
        return Past([*self._parts(sink, angles), *self._parts(newest, None)])

    def _parts(self, wanted: range, turned: tuple[Tensor, Tensor] | None) -> list[Part]:
        found = []
        for frames, layers in self._written:
            if common := _common(frames, wanted):
                first, after = ((frame - frames.start) * self._tokens for frame in (common.start, common.stop))
                found.append(Part(layers, slice(first, after), turned))
        return found

    def add(self, frames: range, layers: Layers) -> None:
        """The block that was just written; what no later one sees is let go."""
        self._end = end = frames.stop
        following = self._length_from(end)
        seen = self.window.earlier(end, end + following) if following else ()
        written = (*self._written, (frames, layers))
        self._written = tuple(block for block in written if any(_common(block[0], part) for part in seen))

    def _length_from(self, start: int) -> int:
        """Of the block that starts there; 0 behind the last one."""
        return 0 if start >= self.num_frames else self._lengths[start // self._per_block]

    def embedded(self, prompt: Tensor) -> EmbeddedPrompt:
        """What cross-attention is given in passes without gradient: the first of them makes the prompt's keys and values."""
        return EmbeddedPrompt(prompt, self._of_prompt)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (other.data_ptr(), other.shape, other.stride(), other.dtype)


# --- cross-attention


@dataclass(frozen=True)
class EmbeddedPrompt:
    """[B, L, D] as the blocks get it, with its keys and values, as far as they were made."""

    embedded: Tensor
    layers: Layers


class PromptProcessor:
    """Cross-attention of a WanTransformerBlock, the `layer`th: diffusers' own, but for an EmbeddedPrompt in the prompt's place."""

    def __init__(self, layer: int, plain: Any) -> None:
        self._layer, self._plain = layer, plain

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden: Any = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        if not isinstance(encoder_hidden, EmbeddedPrompt):
            found: Tensor = self._plain(attn, hidden, encoder_hidden, attention_mask, rotary_emb)
            return found
        kept = encoder_hidden.layers.get(self._layer)
        if kept is None:
            key, value = attn.norm_k(attn.to_k(encoder_hidden.embedded)), attn.to_v(encoder_hidden.embedded)
            kept = key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))
            encoder_hidden.layers.put(self._layer, kept)
        query = attn.norm_q(attn.to_q(hidden)).unflatten(2, (attn.heads, -1))
        return put_out(attn, block_causal.attend(query, *kept, None), hidden)
