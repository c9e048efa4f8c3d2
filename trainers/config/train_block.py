"""Owns what a part of the `train` block may read of the whole block, so that the parts need not import the whole. Must not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .callbacks import CallbacksConfig
    from .data import DataConfig
    from .optimizers import OptimizerConfig
    from .parallel import ParallelConfig


class TrainBlock(Protocol):
    """The attributes of `trainers.config.train.TrainConfig` that the checks of methods and models read."""

    @property
    def max_steps(self) -> int: ...
    @property
    def flow_shift(self) -> float: ...
    @property
    def method(self) -> Any: ...
    @property
    def models(self) -> Mapping[str, Any]: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def optimizers(self) -> Mapping[str, OptimizerConfig]: ...
    @property
    def parallel(self) -> ParallelConfig: ...
    @property
    def callbacks(self) -> CallbacksConfig: ...
