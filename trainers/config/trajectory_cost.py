"""Owns what it costs to make a teacher's trajectories before the first step: which run once for all training steps, and can take longer
than these. Must not import torch.

Counted are the products and attention of the teacher's forward passes, two operations for a multiplication and an addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import trajectory_metadata
from .counting import counted
from .memory_estimate import size_of

if TYPE_CHECKING:
    from .network_size import NetworkSize
    from .train_block import TrainBlock

RATE = 355e12
"""Operations a second of a GPU: an assumption, 45% of the 790 TFLOP/s that an H100 sustains in bfloat16 products."""
_TOLD_FROM_S = 0.01 * 86400
"""GPU-seconds; what takes less is not worth a line."""
_EXAMPLE = 1000
TITLE = "trajectories to be made before the first step"


@dataclass(frozen=True)
class TrajectoryCost:
    """What is left to be made, as far as it is known."""

    missing: int | None
    """How many trajectories; None: nothing here tells how many there will be."""
    passes: int
    """Forward passes of the teacher for each."""
    operations: float | None
    """Of all passes of one trajectory; None where the teacher's size is not known."""

    def line(self, ranks: int) -> str:
        """Return it in a line; "" where it is not worth one."""
        number = self.missing if self.missing is not None else _EXAMPLE
        what = f"{counted(number, 'trajectory', 'trajectories')} of {self.passes} passes of the teacher each"
        if self.missing is None:
            what = f"as many as there are prompts, which is not known here; {what}"
        if self.operations is None:
            return f"{TITLE}: {what}, by a teacher whose size is not known here" if number else ""
        seconds = number * self.operations / RATE
        if seconds < _TOLD_FROM_S:
            return ""
        on_all = f" ({_days(seconds / ranks)} on {counted(ranks, 'GPU')})" if ranks > 1 else ""
        return (
            f"{TITLE}: {what}, {number * self.operations / 1e15:,.0f} PFLOP: "
            f"about {seconds / 86400:,.3g} GPU-days{on_all} at {RATE / 1e12:g} TFLOP/s a GPU, 45% of what an H100 sustains"
        )


def trajectory_cost(train: TrainBlock, prompts: int | None = None) -> TrajectoryCost | None:
    """Return what a run has to make first; None for a method that makes nothing, and where all are there. Looks at the disk.

    `prompts`: how many the data hold, where that is known.
    """
    passes, teacher = train.method.preparing_passes(), train.models.get("teacher")
    folder = Path(getattr(train.method, "cache", ""))
    if not passes or teacher is None or trajectory_metadata.is_complete(folder):
        return None
    try:
        metadata = trajectory_metadata.read(folder) or {}
    except trajectory_metadata.NoCache:  # told by who judges inputs
        metadata = {}
    total = metadata.get("total") or getattr(train.method, "num_trajectories", None) or prompts
    missing = None if total is None else max(0, total - (trajectory_metadata.count(folder) if metadata else 0))
    size = size_of(teacher)
    each = None if size is None else passes * forward_operations(size, train.data.latent_shape, train.data.text_len)
    return TrajectoryCost(missing, passes, each)


def forward_operations(size: NetworkSize, latents: tuple[int, int, int], text_len: int) -> float:
    """Return the operations of one forward pass of a dense network over one clip of (T, H, W) latents."""
    tokens, width = size.tokens(latents), size.width
    products = 12 * tokens * width**2 + 4 * text_len * width**2 + 4 * tokens * width * size.ffn
    attention = 4 * tokens**2 * width + 4 * tokens * text_len * width
    return float(size.layers * (products + attention))


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.2g} days" if seconds >= 86400 else f"{seconds / 3600:.2g} hours"
