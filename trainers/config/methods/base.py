"""Owns what every method's configuration says: its kind and which roles it trains or only reads. Must not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from ..data import DataConfig, Needs
from ..section import Problem, Section

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class MethodConfig(Section):
    kind: str
    """Name of the method: that of its file in trainers/methods, with hyphens for underscores, or ./file.py:ClassName, your own."""

    trainable_roles: ClassVar[tuple[str, ...]] = ("student",)
    """Roles with an optimizer."""
    frozen_roles: ClassVar[tuple[str, ...]] = ()
    """Roles that are only evaluated."""
    optional_roles: ClassVar[tuple[str, ...]] = ()
    """Those of them that may be missing."""
    preparing_roles: ClassVar[tuple[str, ...]] = ()
    """Those of them that only make the data: they are gone before training starts."""

    @property
    def needs(self) -> Needs:
        """Return what the method reads of a sample."""
        return "latents"

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what is wrong between this method and the rest of the train block; the paths are keys below `train`."""
        return []

    def missing_inputs(self, train: TrainBlock) -> list[Problem]:
        """Return what the method reads beside samples and models and is not there, or is not what it must be. Looks at the disk."""
        return []

    def training_data(self, train: TrainBlock) -> DataConfig:
        """Return the data that the steps read: train.data, but for methods that make something else of it first."""
        return train.data

    def read_folders(self, train: TrainBlock) -> Iterable[str]:
        """Return the folders of data.path that must be there."""
        return train.data.folders

    def preparing_passes(self) -> int:
        """Return the forward passes of the teacher for each sample that is made of the data before the first step; 0: nothing is made."""
        return 0

    def few_steps(self, flow_shift: float) -> list[float] | None:
        """Return the timesteps, descending, at which the student is sampled; None where it takes many steps, of any number."""
        return None

    @property
    def few_step_solver(self) -> Literal["sde", "ode"]:
        """Return how noise comes back between these: fresh (sde), or as the prediction implies (ode)."""
        return "sde"

    def update_interval(self, role: str) -> int:
        """Return at every how many steps of the run a role's weights are updated: its learning-rate schedule counts only these."""
        return 1
