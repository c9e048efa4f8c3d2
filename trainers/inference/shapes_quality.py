"""Owns how good samples of the moving-shapes task are: how near to a real video, of the right class, and are all videos made.

Must not sample. Tests of quality that rest on it have power: a student that learned nothing makes no valid sample. (A classifier's accuracy
has none: it is 1 even then.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.dataset import unnormalised
from ..models.codecs.shapes import MODES, templates

VALID_RMSE = 0.1
"""Distance, in pixels of [-1, 1], below which a sample counts as the video that it is nearest to."""


@dataclass(frozen=True)
class Quality:
    """Measures of `count` samples: mean distance to the nearest video, share of valid samples, share of the 64 videos that were made."""

    rmse: float
    valid: float
    coverage: float
    count: int


def quality(samples: Tensor, captions: Sequence[str], mean: Tensor, std: Tensor) -> Quality:
    """Measure samples [N, 4, 5, 4, 4], normalised latents of a caption each; mean and std [4] are what normalises them.

    rmse: root mean square difference in pixels of [-1, 1] to the nearest of the 64 videos, the mean over samples. A sample is valid where
    that video is of its caption and nearer than VALID_RMSE. Coverage is the share of the 64 that a valid sample is nearest to.
    """
    videos = templates().double().flatten(1)  # latents are pixels in another order
    flat = unnormalised(samples.double().cpu(), mean.double(), std.double()).flatten(1)
    distances = torch.cdist(flat, videos, compute_mode="donot_use_mm_for_euclid_dist") / videos.shape[1] ** 0.5
    rmse, nearest = distances.nan_to_num(nan=torch.inf).min(1)
    right = torch.tensor([MODES[index].caption == caption for index, caption in zip(nearest.tolist(), captions, strict=True)])
    valid = right & (rmse < VALID_RMSE)
    return Quality(float(rmse.mean()), float(valid.double().mean()), len(nearest[valid].unique()) / len(MODES), len(samples))
