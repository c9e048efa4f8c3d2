"""Owns how the latent frames of a video are cut into blocks, and which frame may look at which. Must not import anything of ours.

One rule for the noise levels of diffusion forcing, the attention mask and the generation of block after block: blocks of
`per_block` frames from the first frame on, and the remainder is a smaller block at the end (20 frames by 3: six of 3, one of 2).
So where a block starts does not depend on how long the video is: what was computed for earlier frames stays right when more are
generated. A rule with the remainder in the first block, as in some rollouts, moves every boundary with the length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lengths(num_frames: int, per_block: int) -> list[int]:
    """Frames of each block, in order."""
    whole, rest = divmod(num_frames, per_block)
    return [per_block] * whole + [rest] * (rest > 0)


def block_of_frame(num_frames: int, per_block: int, device: torch.device | str = "cpu") -> Tensor:
    """[T] int64: the number of each frame's block."""
    return torch.arange(num_frames, device=device) // per_block


def causal(num_frames: int, per_block: int) -> Tensor:
    """[T, T] bool, row looks at column: a frame sees its own block and all earlier ones."""
    block = block_of_frame(num_frames, per_block)
    return block[:, None] >= block[None]


def teacher_forcing(num_frames: int, per_block: int) -> Tensor:
    """[2T, 2T] bool for the frames [clean | noisy]: row looks at column.

    Clean frames see clean frames as in `causal`. A noisy frame sees the noisy frames of its own block and the clean frames of
    strictly earlier ones: what it will have when it is generated after them.
    """
    block = block_of_frame(num_frames, per_block)
    earlier, own = block[:, None] > block[None], block[:, None] == block[None]
    clean = torch.cat([earlier | own, torch.zeros_like(own)], 1)
    return torch.cat([clean, torch.cat([earlier, own], 1)])
