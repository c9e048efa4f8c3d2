"""Owns what a method may ask of a network in a role: predictions in method code's layout. Must not know any method.

A role's network is built the same way everywhere: the family makes it, activation checkpointing, sharding, then weights. Random
weights are drawn on the CPU from the run's seed before sharding, so that all ranks hold parts of the same network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import parallel as parallel_
from ..parallel import Parallel
from ..randomness import derived_seed

COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class ModelBase(ABC):
    """A role's network: `transformer`, float32 masters, sharded."""

    def __init__(
        self, config: Any, role: str, *, trainable: bool, precision: str, seed: int, parallel: Parallel, load_weights: bool
    ) -> None:
        """load_weights False: whatever is in the weights will be replaced from a checkpoint."""
        self.config, self.role, self.trainable = config, role, trainable
        self.device, self.compute_type = parallel.device, COMPUTE_TYPES[precision]
        random = config.init_from is None and load_weights
        self.transformer: nn.Module = self._random(derived_seed("weights", seed, role)) if random else self._empty()
        self.transformer.requires_grad_(trainable)
        self.transformer.train(trainable)
        if config.activation_checkpointing == "full":
            parallel_.recompute_activations(self.blocks())
        parallel_.shard(
            self.transformer, self.blocks(), parallel, compute=self.compute_type, keep_float32=self.keep_float32() if self._casts else ()
        )
        if not random:
            self.transformer.to_empty(device=self.device)
            self.restore_buffers()
            if load_weights:
                self.load_weights()

    @property
    def _casts(self) -> bool:
        return self.compute_type != torch.float32

    def _random(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def _empty(self) -> nn.Module:
        with torch.device("meta"):
            return self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its own initial weights, on the current default device."""

    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """Parts to shard and to recompute one by one."""

    def keep_float32(self) -> Iterable[nn.Module]:
        """Parts that compute in float32 even in bf16 runs."""
        return ()

    @abstractmethod
    def restore_buffers(self) -> None:
        """Fill in what is not a parameter, after it was made without storage."""

    @abstractmethod
    def load_weights(self) -> None:
        """Read config.init_from into the sharded parameters. Collective."""

    @abstractmethod
    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """noisy [B, T, C, H, W], timesteps [B] or [B, T], prompt [B, L, D] -> velocity [B, T, C, H, W] in float32."""
