"""Owns the two sides of the boundary between experts: how often a step is of each, and which entries of a grid lie there.

Networks that are sharded over ranks wait for each other, so a side is drawn for all ranks at once (`TrainingMethod.shared`), and only
then what is drawn within it for each sample. The shares are such that, over many steps, all comes out as without sides.
Must not know networks or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class ExpertRanges:
    """Of entries that are ordered by noise, up or down. A range is [first, end); of a side without entries it is empty."""

    high: tuple[int, int]
    """Entries at the boundary and above."""
    low: tuple[int, int]
    share: float
    """How often a draw is on the high side."""

    def draw(self, generator: torch.Generator) -> bool:
        """Whether it is the high side, from a generator on the CPU."""
        return bool(torch.rand((), generator=generator, dtype=torch.float64) < self.share)

    def entries(self, high: bool | None, count: int) -> tuple[int, int]:
        """The range to draw from; all `count` entries where there are no sides."""
        return (0, count) if high is None else self.high if high else self.low


def split(above: Sequence[bool], share: float | None = None) -> ExpertRanges:
    """Of entries of which these are at the boundary or above. `share`: of the high side where not all are drawn alike."""
    number = sum(above)
    first = not above or above[0]
    assert list(above) in ([True] * number + [False] * (len(above) - number), [False] * (len(above) - number) + [True] * number)
    high = (0, number) if first else (len(above) - number, len(above))
    low = (number, len(above)) if first else (0, len(above) - number)
    return ExpertRanges(high, low, number / len(above) if share is None else share)


def boundary(boundaries: Iterable[float | None]) -> float | None:
    """The one at which all roles of two experts change over; None where no role has two."""
    found = {value for value in boundaries if value is not None}
    if len(found) > 1:
        raise UserError(f"roles change experts at different timesteps: {sorted(found)}", "give all the same boundary_ratio")
    return found.pop() if found else None


def share_below(quantile: Callable[[Tensor], Tensor], value: float) -> float:
    """P(X < value) of the X that `quantile`, rising on [0, 1], makes of a uniform variable: to float64's last bits, by bisection."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        below = float(quantile(torch.tensor(middle, dtype=torch.float64))) < value
        low, high = (middle, high) if below else (low, middle)
    return high if low else 0.0
