"""Owns how the latent frames of a video are cut into blocks, and which frame may attend to which. Must not import other modules of this
package.

One rule for the noise levels of diffusion forcing, the attention mask and the generation of block after block: blocks of `per_block`
frames from the first frame on, with the remainder as a smaller block at the end (20 frames by 3: six of 3, one of 2). So where a block
starts does not depend on the video's length, and what was computed for earlier frames stays right when more are generated. A rule with
the remainder in the first block, as in some rollouts, moves every boundary with the length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def lengths(num_frames: int, per_block: int) -> list[int]:
    """Return the number of frames of each block, in order."""
    whole, rest = divmod(num_frames, per_block)
    return [per_block] * whole + [rest] * (rest > 0)


def block_of_frame(num_frames: int, per_block: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the number of each frame's block, [T] int64."""
    return torch.arange(num_frames, device=device) // per_block


@dataclass(frozen=True)
class Window:
    """How many frames a block attends to, its own and the sink frames included: the video's first `sink` frames, and the newest others."""

    frames: int | None = None
    """None: all."""
    sink: int = 0

    def dropped(self, end: int) -> int:
        """Return how many earlier frames the block that ends before frame `end` does not see: those that follow the sink frames."""
        return 0 if self.frames is None else max(0, end - self.frames)

    def earlier(self, start: int, end: int) -> tuple[range, range]:
        """Return for the block [start, end) the sink frames, if others have been dropped, and all other earlier frames that it sees."""
        dropped = self.dropped(end)
        return (range(self.sink), range(self.sink + dropped, start)) if dropped else (range(0), range(start))


ALL = Window()


def causal(num_frames: int, per_block: int, window: Window = ALL) -> Tensor:
    """Return [T, T] bool, row attends to column: a frame sees its own block and those earlier frames that its block's window holds."""
    block = block_of_frame(num_frames, per_block)
    return (block[:, None] >= block[None]) & _in_window(num_frames, per_block, window)


def teacher_forcing(num_frames: int, per_block: int, window: Window = ALL) -> Tensor:
    """Return [2T, 2T] bool for the frames [clean | noisy], row attends to column.

    Clean frames see clean frames as in `causal`. A noisy frame sees the noisy frames of its own block and the clean frames of strictly
    earlier ones: what it will have when it is generated after them.
    """
    block = block_of_frame(num_frames, per_block)
    earlier, own = (block[:, None] > block[None]) & _in_window(num_frames, per_block, window), block[:, None] == block[None]
    clean = torch.cat([earlier | own, torch.zeros_like(own)], 1)
    return torch.cat([clean, torch.cat([earlier, own], 1)])


def _in_window(num_frames: int, per_block: int, window: Window) -> Tensor:
    """Return [T, T] bool: the frames that lie in the window of the row's block."""
    frame = torch.arange(num_frames)
    ends = ((block_of_frame(num_frames, per_block) + 1) * per_block).clamp(max=num_frames)
    dropped = torch.tensor([window.dropped(int(end)) for end in ends])[:, None]
    return (frame < window.sink) | (frame >= window.sink + dropped) | (dropped == 0)
