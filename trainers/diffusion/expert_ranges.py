"""Owns the ranges of two experts on either side of their boundary: how often a step is of each, and which entries of a grid lie there.

Networks that are sharded over ranks wait for each other, so the expert is drawn for all ranks at once (`TrainingMethod.shared`), and
only then what is drawn within its range for each sample. The shares are such that, over many steps, the distribution is the same as
without experts. Must not know networks or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class ExpertRanges:
    """The experts' ranges of entries that are ordered by noise, upwards or downwards: [first, end), empty for an expert without entries."""

    high: tuple[int, int]
    """Entries at the boundary and above, the first expert's."""
    low: tuple[int, int]
    """Entries below the boundary, the second expert's."""
    share: float
    """How often a draw is of the first expert."""

    def draw(self, generator: torch.Generator) -> bool:
        """Draw whether it is the first expert, from a generator on the CPU."""
        return bool(torch.rand((), generator=generator, dtype=torch.float64) < self.share)

    def entries(self, high: bool | None, count: int) -> tuple[int, int]:
        """Return the range to draw from; all `count` entries where there is one network."""
        return (0, count) if high is None else self.high if high else self.low


def split(above: Sequence[bool], share: float | None = None) -> ExpertRanges:
    """Return the ranges of entries of which `above` are at the boundary or above. `share`: of the first expert, where not all entries are
    equally likely."""
    number = sum(above)
    first = not above or above[0]
    assert list(above) in ([True] * number + [False] * (len(above) - number), [False] * (len(above) - number) + [True] * number)
    high = (0, number) if first else (len(above) - number, len(above))
    low = (number, len(above)) if first else (0, len(above) - number)
    return ExpertRanges(high, low, number / len(above) if share is None else share)


def boundary(boundaries: Iterable[float | None]) -> float | None:
    """Return the timestep at which all roles of two experts change over; None where no role has two. UserError where they differ."""
    distinct = {value for value in boundaries if value is not None}
    if len(distinct) > 1:
        raise UserError(f"roles change experts at different timesteps: {sorted(distinct)}", "give all the same boundary_ratio")
    return distinct.pop() if distinct else None


def share_below(quantile: Callable[[Tensor], Tensor], value: float) -> float:
    """Return P(X < value), where `quantile`, which rises on [0, 1], makes X of a uniform variable. By bisection, to float64's last bits."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        below = float(quantile(torch.tensor(middle, dtype=torch.float64))) < value
        low, high = (middle, high) if below else (low, middle)
    return high if low else 0.0
