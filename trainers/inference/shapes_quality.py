"""Owns how good samples of the moving-shapes task are: how near to a real video, of the right class, and are all videos made.

Gates that rest on it have power: a student that learned nothing makes no valid sample. (A classifier's accuracy has none: it is 1
even then.) Must not sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.dataset import unnormalised
from ..models.codecs.shapes import MODES, templates

VALID_RMSE = 0.1
"""A sample nearer than this to a video of its caption is one of that video, in pixels of [-1, 1]."""


@dataclass(frozen=True)
class Quality:
    """Of `count` samples: the mean distance to the nearest video, the share of valid ones, and the share of the 64 videos made."""

    rmse: float
    valid: float
    coverage: float
    count: int


def quality(samples: Tensor, captions: Sequence[str], mean: Tensor, std: Tensor) -> Quality:
    """samples [N, 4, 5, 4, 4]: normalised latents, of a caption each; mean and std [4] are what normalises them.

    rmse: root mean square difference in pixels of [-1, 1] to the nearest of the 64 videos, the mean over samples. Valid: that video is
    of the caption, and nearer than VALID_RMSE. Coverage: the share of the 64 that a valid sample is nearest to.
    """
    videos = templates().double().flatten(1)  # latents are pixels in another order
    flat = unnormalised(samples.double().cpu(), mean.double(), std.double()).flatten(1)
    distances = torch.cdist(flat, videos, compute_mode="donot_use_mm_for_euclid_dist") / videos.shape[1] ** 0.5
    rmse, nearest = distances.nan_to_num(nan=torch.inf).min(1)
    right = torch.tensor([MODES[index].caption == caption for index, caption in zip(nearest.tolist(), captions, strict=True)])
    valid = right & (rmse < VALID_RMSE)
    return Quality(float(rmse.mean()), float(valid.double().mean()), len(nearest[valid].unique()) / len(MODES), len(samples))
