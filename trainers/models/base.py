"""Owns what a method may ask of a role: predictions, its networks, and how these are built. Must not know any method.

A network is built the same way everywhere: the family makes it, then come activation checkpointing, sharding and weights. Random weights
are drawn on the CPU from the run's seed before sharding, so that all ranks hold parts of the same network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..distributed import activation_checkpointing
from ..distributed.mesh import ParallelContext, shard
from ..seeding import derived_seed
from . import lora

COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class ModelBase(ABC):
    """A role. It has one network, `transformer`, or two experts, for high and for low noise, each trained in its own range of timesteps.

    Ranks that call different experts wait for each other for ever where networks are sharded. So a step of a method calls one expert, on
    which all ranks have agreed: `expert(high).predict_velocity(...)`. A role of one network is its own expert.
    """

    config: Any
    role: str
    trainable: bool
    device: torch.device
    compute_type: torch.dtype
    transformer: nn.Module
    """Only in a role of one network."""

    boundary: float | None = None
    """The timestep from which on the first of two experts predicts; None: one network predicts at all timesteps."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The role's networks by the names of their folders in a diffusers pipeline."""
        return {"transformer": self.transformer}

    def expert(self, high: bool | None) -> ModelBase:
        """Return the role that predicts at timesteps from the boundary on (high), or below it."""
        return self

    def on_step(self, step: int) -> None:  # noqa: B027  nothing to do for most
        """Take note of the step, counted from 1, that the next forward passes belong to. Called before each step, and after a checkpoint of
        it was loaded."""

    @abstractmethod
    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """Return the velocity [B, T, C, H, W] in float32 for noisy [B, T, C, H, W], timesteps [B] or [B, T] and prompt [B, L, D]."""


class OneNetwork(ModelBase):
    """A role of one sharded network. Trained parameters are float32 masters; the others are kept in the type that they compute in."""

    float32_parts: ClassVar[tuple[str, ...]] = ()
    """Parts of parameter names: parameters whose name has one of them stay in float32, even if they are not trained."""

    def __init__(
        self,
        config: Any,
        role: str,
        *,
        trainable: bool,
        precision: str,
        seed: int,
        parallel: ParallelContext,
        load_weights: bool,
        part: str | None = None,
    ) -> None:
        """Build the network. load_weights False: whatever is trained will be replaced from a checkpoint. `part`: what its random weights
        are drawn for, if not for the role."""
        self.config, self.role, self.trainable = config, role, trainable
        self.device, self.compute_type = parallel.device, COMPUTE_TYPES[precision]
        adapted = trainable and config.lora is not None
        load = load_weights or adapted  # a checkpoint holds the adapters only
        random = config.init_from is None and load
        part = part or role
        self.transformer = self._random(derived_seed("weights", seed, part)) if random else self._empty()
        self.choose_kernels(parallel)
        self.transformer.requires_grad_(trainable)
        if adapted:
            lora.inject(self.transformer, config.lora)
        self.transformer.train(trainable)
        self._shard(parallel)
        if not random:
            self.transformer.to_empty(device=self.device)
            self.restore_buffers()
            if load:
                self.load_weights()
        if adapted:
            lora.initialise(self.transformer, derived_seed("adapters", seed, part))

    def _shard(self, parallel: ParallelContext) -> None:
        """Shard the network, which is whole or without storage. Activation checkpointing, compiling, sharding: torch's order."""
        if self.config.activation_checkpointing != "none":
            activation_checkpointing.checkpoint_blocks(self.blocks(), self.config.activation_checkpointing)
        if self.config.compile:
            activation_checkpointing.compile_blocks(self.blocks())
        if self._casts:
            self._lower_frozen()
        compute, keep_float32 = (self.compute_type, self.keep_float32()) if self.trainable and self._casts else (None, ())
        shard(self.transformer, self.blocks(), parallel, compute=compute, keep_float32=keep_float32)

    def _lower_frozen(self) -> None:
        """Store parameters that are not trained in the compute type, but for `float32_parts`."""
        for name, parameter in self.transformer.named_parameters():
            if not parameter.requires_grad and not set(name.split(".")) & set(self.float32_parts):
                parameter.data = parameter.data.to(self.compute_type)

    @property
    def _casts(self) -> bool:
        """Whether the network computes in another type than float32."""
        return self.compute_type != torch.float32

    def _random(self, seed: int) -> nn.Module:
        """Build the network with the random weights of this seed, without touching the global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def _empty(self) -> nn.Module:
        """Build the network without storage."""
        with torch.device("meta"):
            return self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the network with its own initial weights, on the current default device."""

    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """Return the parts to shard, compile and recompute one by one."""

    def choose_kernels(self, parallel: ParallelContext) -> None:
        """Choose, with all ranks, among several ways to compute the same, before weights are read. UserError where what was requested is
        not right here. Collective."""

    def keep_float32(self) -> Iterable[nn.Module]:
        """Return the parts of a trained network that compute in float32 even in bf16 runs."""
        return ()

    @abstractmethod
    def restore_buffers(self) -> None:
        """Fill in the buffers, after the network was made without storage."""

    @abstractmethod
    def load_weights(self) -> None:
        """Read config.init_from into the sharded parameters. Collective."""
