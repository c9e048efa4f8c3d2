"""Owns the check of the latents' statistics before the first step. Must not read files.

A model that is fed latents of another scale trains without any error, to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..config.counting import counted
from ..errors import UserError
from .parquet_schema import Floats

log = logging.getLogger(__name__)
Numbers = npt.NDArray[np.float64]

FAR, NEAR = 1.7, 1.35
"""Factors of the standard deviation: beyond FAR is an error, beyond NEAR a warning.

Latents of the Wan2.1 VAE that nobody normalised deviate 2.1 times as much as normalised ones; those normalised twice, 0.47 times.
"""
FAR_MEAN, NEAR_MEAN = 2.0, 1.0
_KNOBS = "data.latents_mean and data.latents_std (null: the Wan2.1 VAE's)"
_ESCAPE = "data.check_statistics: false if the data really are like this"


def check_statistics(latents: Sequence[Floats], mean: Floats, std: Floats, place: str, warn: Callable[[str], None] = log.warning) -> None:
    """Raise UserError where `latents`, a few samples [C, T, H, W] as stored, are far from mean 0 and deviation 1 once normalised.

    `mean` and `std` [C] normalise them. Compared are, over the channels, the geometric mean of their deviations and the root mean square of
    their means. `warn` gets what is only suspicious: a few clips may well be darker or calmer than all videos.
    """
    found_mean, found_std = _by_channel(latents)
    scale, shift = _scale(found_std / std), _rms((found_mean - mean) / std)
    message = (
        f"{place}: the normalised latents of {counted(len(latents), 'sample')} have "
        f"deviation {scale:.2g} and mean {shift:.2g}, not about 1 and 0"
    )
    if scale < 1 / FAR and _is_normal(found_mean, found_std) and _spread(found_std) < _spread(found_std / std):
        raise UserError(
            f"{message}: they were stored normalised",
            f"data.latents_mean: {[0.0] * len(mean)}, latents_std: {[1.0] * len(std)}; or {_ESCAPE}",
        )
    if scale > FAR or scale < 1 / FAR**4 or shift > FAR_MEAN:
        raise UserError(f"{message}: they would reach the model un-normalised", f"check {_KNOBS}; {_ESCAPE}")
    if not 1 / FAR < scale < NEAR or shift > NEAR_MEAN:
        warn(f"{message}; check {_KNOBS} against the VAE that encoded them")


def _is_normal(mean: Numbers, std: Numbers) -> bool:
    return 1 / NEAR < _scale(std) < NEAR and _rms(mean) < NEAR_MEAN / 2


def _by_channel(latents: Sequence[Floats]) -> tuple[Numbers, Numbers]:
    """Return (mean, deviation) of each channel over all samples, [C] each, in float64."""
    moments = np.array([[x.mean((1, 2, 3), np.float64), np.square(x, dtype=np.float64).mean((1, 2, 3))] for x in latents]).mean(0)
    return moments[0], np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))


def _scale(deviations: Numbers) -> float:
    return float(np.exp(np.log(np.maximum(deviations, 1e-12)).mean()))


def _spread(deviations: Numbers) -> float:
    """Return how much the channels differ: a calm clip's deviations are all small, but alike only once they are normalised."""
    return float(np.log(np.maximum(deviations, 1e-12)).std())


def _rms(values: Numbers) -> float:
    return float(np.sqrt(np.square(values).mean()))
