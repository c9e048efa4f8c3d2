"""Owns lists of denoising steps: what timesteps they are and which are on a schedule. Plain arithmetic, must not import torch.

The schedule is trainers/diffusion/flow_schedule.py's: sigma = S(u) = s u / (1 + (s - 1) u) at u = 1, 0.999, ... 0.001, timestep 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_GRID = 1000
_NEARLY_NOISE = 900
"""A sampler starts from pure noise: its first timestep must be nearly that."""


def shifted(u: float, shift: float) -> float:
    return shift * u / (1 + (shift - 1) * u)


def grid(shift: float) -> list[float]:
    """Return the schedule's 1000 timesteps, descending."""
    return [shifted(k / _GRID, shift) * _GRID for k in range(_GRID, 0, -1)]


def nearest(timestep: float, shift: float) -> int:
    """Return the entry of the schedule that a timestep stands for."""
    entries = grid(shift)
    return min(range(_GRID), key=lambda k: abs(entries[k] - timestep))


def sigmas(timesteps: Sequence[float], shift: float) -> list[float]:
    """Return the noise levels sigma, in (0, 1], of the schedule's entries that the timesteps stand for."""
    entries = grid(shift)
    return [entries[nearest(t, shift)] / _GRID for t in timesteps]


def timesteps(steps: Sequence[float], shift: float, warped: bool) -> list[float]:
    """Return the timesteps that the network is given, in [0, 1000].

    warped: `steps` count on the unshifted grid (methods/README.md section 1); else they are timesteps already.
    """
    return [shifted(step / _GRID, shift) * _GRID for step in steps] if warped else [float(step) for step in steps]


def wrong(steps: Sequence[float], shift: float, warped: bool, *, from_noise: bool) -> tuple[str, str] | None:
    """Return (what is wrong with a list of denoising steps, a hint); None for a list that can be used."""
    name = f"{list(steps)}"
    if not steps:
        return "is empty", "such as [1000, 750, 500, 250]"
    if any(later >= earlier for earlier, later in pairwise(steps)):
        return f"{name} is not descending", "from much noise to little, each step once"
    if warped and any(step != int(step) or not 1 <= step <= _GRID for step in steps):
        return f"{name} holds steps off the schedule", f"with warped steps: whole numbers from {_GRID} to 1"
    given = timesteps(steps, shift, warped)
    last = grid(shift)[-1]
    if given[0] > _GRID or given[-1] < last * (1 - 1e-9):
        return (
            f"{name} holds timesteps off the schedule",
            f"with flow_shift {shift:g} it runs from {_GRID} to {last:.4g}; the end, 0, is not in the list",
        )
    entries = [nearest(t, shift) for t in given]
    if len(set(entries)) < len(entries):
        return f"{name} names one entry of the schedule twice", f"with flow_shift {shift:g} neighbouring steps are further apart"
    if from_noise and given[0] < _NEARLY_NOISE:
        return f"{name} starts at timestep {given[0]:.4g}, but sampling starts from pure noise", f"let it start with {_GRID}"
    return None


def one_sided(timesteps: Sequence[float], student: Any) -> tuple[str, str] | None:
    """Return (what is wrong, a hint) where only one of a student's two experts would be trained and sampled; else None."""
    boundary_ratio = getattr(student, "boundary_ratio", None)
    if boundary_ratio is None:
        return None
    boundary = boundary_ratio * _GRID
    if len({t >= boundary for t in timesteps}) == 2:
        return None
    left, side = ("transformer_2", "at or above") if timesteps[0] >= boundary else ("transformer", "below")
    listed = ", ".join(f"{t:.5g}" for t in timesteps)
    return (
        f"the timesteps {listed} are all {side} the boundary of the student's experts, {boundary:g}: {left} would do nothing",
        "steps on both sides; flow_shift moves those that are warped",
    )


def trajectory(num_steps: int, shift: float) -> list[int]:
    """Return the timesteps of a teacher's many-step trajectory, cut to whole numbers: 1000 first, without 0.

    Source: trainers/methods/README.md section 8.
    """
    return [int(shifted(1 - i / num_steps, shift) * _GRID + 1e-9) for i in range(num_steps)]
