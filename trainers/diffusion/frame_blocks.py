"""Owns how the latent frames of a video are cut into blocks, and which frame may look at which. Must not import anything of ours.

One rule for the noise levels of diffusion forcing, the attention mask and the generation of block after block: blocks of
`per_block` frames from the first frame on, and the remainder is a smaller block at the end (20 frames by 3: six of 3, one of 2).
So where a block starts does not depend on how long the video is: what was computed for earlier frames stays right when more are
generated. A rule with the remainder in the first block, as in some rollouts, moves every boundary with the length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def lengths(num_frames: int, per_block: int) -> list[int]:
    """Frames of each block, in order."""
    whole, rest = divmod(num_frames, per_block)
    return [per_block] * whole + [rest] * (rest > 0)


def block_of_frame(num_frames: int, per_block: int, device: torch.device | str = "cpu") -> Tensor:
    """[T] int64: the number of each frame's block."""
    return torch.arange(num_frames, device=device) // per_block


@dataclass(frozen=True)
class Window:
    """How many frames a block sees, its own and the sink frames included: `sink`, the video's first ones, and the newest others."""

    frames: int | None = None
    """None: all."""
    sink: int = 0

    def dropped(self, end: int) -> int:
        """How many of the earlier frames the block that ends before frame `end` does not see: those behind the sink frames."""
        return 0 if self.frames is None else max(0, end - self.frames)

    def earlier(self, start: int, end: int) -> tuple[range, range]:
        """Of the block [start, end): the sink frames, where others have been dropped, and all other earlier frames that it sees."""
        dropped = self.dropped(end)
        return (range(self.sink), range(self.sink + dropped, start)) if dropped else (range(0), range(start))


ALL = Window()


def causal(num_frames: int, per_block: int, window: Window = ALL) -> Tensor:
    """[T, T] bool, row looks at column: a frame sees its own block and, of the earlier ones, what its block's window holds."""
    block = block_of_frame(num_frames, per_block)
    return (block[:, None] >= block[None]) & _in_window(num_frames, per_block, window)


def teacher_forcing(num_frames: int, per_block: int, window: Window = ALL) -> Tensor:
    """[2T, 2T] bool for the frames [clean | noisy]: row looks at column.

    Clean frames see clean frames as in `causal`. A noisy frame sees the noisy frames of its own block and the clean frames of
    strictly earlier ones: what it will have when it is generated after them.
    """
    block = block_of_frame(num_frames, per_block)
    earlier, own = (block[:, None] > block[None]) & _in_window(num_frames, per_block, window), block[:, None] == block[None]
    clean = torch.cat([earlier | own, torch.zeros_like(own)], 1)
    return torch.cat([clean, torch.cat([earlier, own], 1)])


def _in_window(num_frames: int, per_block: int, window: Window) -> Tensor:
    """[T, T] bool: the frames that the row's block sees, as far as the window goes."""
    frame = torch.arange(num_frames)
    ends = ((block_of_frame(num_frames, per_block) + 1) * per_block).clamp(max=num_frames)
    dropped = torch.tensor([window.dropped(int(end)) for end in ends])[:, None]
    return (frame < window.sink) | (frame >= window.sink + dropped) | (dropped == 0)
