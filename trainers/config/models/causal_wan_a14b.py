"""Owns how a block-causal Wan2.2 A14B is described: two experts, each block-causal. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..section import Problem
from . import causal_wan
from .wan_a14b import TwoExperts

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class Config(TwoExperts, causal_wan.Config):
    """Two block-causal Wan transformers, one for high noise and one for low noise, as Wan2.2 A14B."""

    family: Literal["causal-wan-a14b"] = "causal-wan-a14b"  # type: ignore[assignment]
    """Chooses two block-causal Wan transformers."""

    def problems(self, role: str, train: TrainBlock) -> list[Problem]:
        return super().problems(role, train) + self.expert_problems(role, train)
