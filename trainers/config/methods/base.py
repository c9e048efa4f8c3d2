"""Owns what every method's configuration says: its kind and which roles it trains or only reads. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..data import Needs
from ..section import Problem, Section

if TYPE_CHECKING:
    from ..train import TrainConfig


class MethodConfig(Section):
    kind: str
    """Name of the method: its file in trainers/methods, or ./file.py:ClassName."""

    trainable_roles: ClassVar[tuple[str, ...]] = ("student",)
    """Roles with an optimizer."""
    frozen_roles: ClassVar[tuple[str, ...]] = ()
    """Roles that are only evaluated."""

    @property
    def needs(self) -> Needs:
        """What it reads of a sample."""
        return "latents"

    def problems(self, train: TrainConfig) -> list[Problem]:
        """What is wrong between this method and the rest of the train block; their paths are keys below `train`."""
        return []
