"""Owns where on a step's path the host may wait for the device, and why. Any other wait fails a simulation."""

from __future__ import annotations

DECLARED = {
    ("trainers/training/metrics.py", "pop"): "the previous step's numbers, which were copied while this one was computed",
}
"""(file, function) -> reason."""


def reason(file: str, function: str) -> str | None:
    """Return why the host may wait there; None where it may not."""
    return DECLARED.get((file, function))
