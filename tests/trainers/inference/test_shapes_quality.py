"""Promises of the shapes task's measure: each of its three numbers moves with what it stands for, and with nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainers.inference.shapes_quality import VALID_RMSE, quality
from trainers.models.codecs.shapes import MODES, latent_statistics, templates

MEAN, STD = (torch.tensor(values) for values in latent_statistics())
CAPTIONS = [mode.caption for mode in MODES]


def real() -> Tensor:
    return (templates() - MEAN.reshape(-1, 1, 1, 1)) / STD.reshape(-1, 1, 1, 1)


def test_real_videos_are_perfect() -> None:
    found = quality(real(), CAPTIONS, MEAN, STD)
    assert (found.valid, found.coverage, found.count) == (1.0, 1.0, 64)
    assert found.rmse < 1e-6


@pytest.mark.parametrize(("distance", "valid"), [(0.9 * VALID_RMSE, 1.0), (1.1 * VALID_RMSE, 0.0)])
def test_a_sample_is_valid_up_to_a_distance(distance: float, valid: float) -> None:
    found = quality(real() + distance / STD.reshape(-1, 1, 1, 1), CAPTIONS, MEAN, STD)
    assert found.rmse == pytest.approx(distance, rel=1e-5)
    assert (found.valid, found.coverage) == (valid, valid)


def test_a_video_of_another_caption_is_not_valid() -> None:
    found = quality(real(), [CAPTIONS[(number + 16) % 64] for number in range(64)], MEAN, STD)
    assert (found.valid, found.coverage) == (0.0, 0.0)
    assert found.rmse < 1e-6


def test_one_video_again_and_again_covers_one_of_64() -> None:
    found = quality(real()[:1].expand(64, -1, -1, -1, -1), [CAPTIONS[0]] * 64, MEAN, STD)
    assert (found.valid, found.coverage) == (1.0, 1 / 64)


def test_noise_and_what_is_not_finite_are_not_valid() -> None:
    noise = torch.randn(64, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    found = quality(noise, CAPTIONS, MEAN, STD)
    assert found.valid == 0.0 and found.rmse > 0.6
    broken = quality(noise * math.nan, CAPTIONS, MEAN, STD)
    assert (broken.valid, broken.coverage, broken.rmse) == (0.0, 0.0, math.inf)
