"""Owns the cache of keys and values with which a causal network continues from block to block. Must not know methods, roles or samplers.

A cache is an object of the caller's: one for each network (so one for each of two experts), prompt and batch of videos; no module holds
it. What was written is never changed, only dropped once no later block sees it. So what a pass sees is fixed when it is called,
activation checkpointing may compute the pass again after later blocks were written, and nothing written has a gradient.

Keys are stored rotated to their frame's own (absolute) position, as rotary attention depends on differences only. Where a window has
dropped frames, the sink frames are rotated further by as many: the network meets them as though they stood right before the window, so
no distance grows with the video's length (the positions within the cache of arXiv 2309.17453). Where nothing was dropped, the passes
block by block equal one pass under the block-causal mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...diffusion.frame_blocks import Window, lengths
from . import block_causal
from .kv_store import Layers, Part, Past, PastRows, Rows
from .projections import joined, output_projection
from .rope import frame_shift


class KVCache:
    """Keys and values of one network, one prompt and one batch of videos, for one set of weights. CausalWan.open_cache makes it,
    write_block fills it."""

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
        self._rows = None if window.dropped(frames) else Rows((frames - self._lengths[-1]) * tokens)
        """Where no frame is ever dropped, all that is written; the last block is not."""
        self._end, self._of_prompt = 0, Layers()

    @property
    def frames_written(self) -> int:
        return self._end

    @property
    def num_bytes(self) -> int:
        """The memory that keys and values take here; where no frame is ever dropped, from the first pass on for all frames."""
        rows = 0 if self._rows is None else self._rows.num_bytes
        return self._of_prompt.num_bytes + rows + sum(layers.num_bytes for _, layers in self._written)

    def check(self, network: nn.Module, latents: Tensor, prompt: Tensor, start: int) -> None:
        """Raise ValueError where a pass over `latents` [B, n, C, H, W] from frame `start` on is not the next one of this cache."""
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

    def past(self, start: int, end: int, rope: Any) -> Past | PastRows:
        """Return what the block of frames [start, end) sees of earlier ones."""
        if self._rows is not None:
            return PastRows(self._rows, start * self._tokens)
        sink, newest = self.window.earlier(start, end)
        rotation = frame_shift(rope, self.window.dropped(end)) if sink else None
        return Past([*self._parts(sink, rotation), *self._parts(newest, None)])

    def _parts(self, visible: range, rotation: tuple[Tensor, Tensor] | None) -> list[Part]:
        """Return the stored tokens of the frames in `visible`, with their keys rotated further where `rotation` is given."""
        parts = []
        for frames, layers in self._written:
            if common := _common(frames, visible):
                first, after = ((frame - frames.start) * self._tokens for frame in (common.start, common.stop))
                parts.append(Part(layers, slice(first, after), rotation))
        return parts

    def collector(self) -> Layers | None:
        """Return what the pass that writes a block shall put its keys and values into; None where they are written as they are made."""
        return None if self._rows is not None else Layers()

    def add(self, frames: range, layers: Layers | None) -> None:
        """Store the block that was just written, and drop what no later one sees."""
        self._end = end = frames.stop
        if layers is None:
            return
        following = self._length_from(end)
        seen = self.window.earlier(end, end + following) if following else ()
        written = (*self._written, (frames, layers))
        self._written = tuple(block for block in written if any(_common(block[0], part) for part in seen))

    def _length_from(self, start: int) -> int:
        """Return the number of frames of the block that starts there; 0 behind the last one."""
        return 0 if start >= self.num_frames else self._lengths[start // self._per_block]

    def embedded(self, prompt: Tensor) -> EmbeddedPrompt:
        """Return the input of cross-attention in passes without gradient: the first of them makes the prompt's keys and values."""
        return EmbeddedPrompt(prompt, self._of_prompt)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (other.data_ptr(), other.shape, other.stride(), other.dtype)


# --- cross-attention


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt [B, L, D] as the blocks get it, with its keys and values, as far as they were made."""

    embedded: Tensor
    layers: Layers


class PromptProcessor:
    """Cross-attention of the `layer`th WanTransformerBlock: diffusers' own, except where it gets an EmbeddedPrompt in the prompt's
    place."""

    def __init__(self, layer: int, plain: Any) -> None:
        self._layer, self._plain = layer, plain

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden: Any = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        """Return the attention's output for hidden [B, S, D], or [B x T, s, D] with a video's frames apart, as the prompt's B says."""
        if isinstance(encoder_hidden, EmbeddedPrompt):
            return self._over_kept(attn, joined(hidden, len(encoder_hidden.embedded)), encoder_hidden).view_as(hidden)
        output: Tensor = self._plain(attn, joined(hidden, len(encoder_hidden)), encoder_hidden, attention_mask, rotary_emb)
        return output.view_as(hidden)

    def _over_kept(self, attn: Any, hidden: Tensor, prompt: EmbeddedPrompt) -> Tensor:
        """Attend to the prompt's keys and values, which the first pass makes."""
        kept = prompt.layers.get(self._layer)
        if kept is None:
            key, value = attn.norm_k(attn.to_k(prompt.embedded)), attn.to_v(prompt.embedded)
            kept = key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))
            prompt.layers.put(self._layer, kept)
        query = attn.norm_q(attn.to_q(hidden)).unflatten(2, (attn.heads, -1))
        return output_projection(attn, block_causal.attend(query, *kept, None), hidden)
