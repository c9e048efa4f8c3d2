"""Owns the estimate of a training run's memory on one rank, role by role, and of its checkpoints on disk. Pure; must not import torch.

Weights, gradients, optimizer state and averages are counted exactly as they are sharded. Activations are what the backward pass of the
transformer blocks keeps, from the sizes of their inputs: within some ten per cent. The allocator and CUDA itself come on top.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from . import network_size
from .attention import SparseAttention
from .cross_checks import batching
from .models.wan import WanArchitecture
from .models.wan_a14b import HIGH, LOW, TwoExperts
from .network_size import NetworkSize
from .optimizers import MuonConfig
from .train import TrainConfig

_KEPT = {"bf16": (56, 4), "fp32": (88, 8)}
"""Bytes of a block for the backward pass, a token: of each of `width` and of each of `ffn` numbers. Norms compute in float32."""
_SELECTIVE = {"bf16": (18, 2), "fp32": (36, 4)}
"""The same, of what selective checkpointing does not compute again."""
_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class RoleMemory:
    """The bytes that a role takes on one rank."""

    role: str
    trained: bool
    parameters: int | None
    """Of the whole network; None: nothing here tells how large it is, and all else is 0."""
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    averages: int = 0
    gathered: int = 0
    """Blocks as they are computed with: whole and in the compute type."""
    activations: int = 0
    before_training: bool = False
    """It only makes the data, and is gone when training starts."""

    @property
    def kept(self) -> int:
        """Return the bytes that are taken all the time."""
        return self.weights + self.gradients + self.optimizer + self.averages

    @property
    def passing(self) -> int:
        """Return the bytes that are taken only while this role computes."""
        return self.gathered + self.activations


@dataclass(frozen=True)
class Memory:
    roles: tuple[RoleMemory, ...]
    checkpoint: int
    """Bytes of one checkpoint on disk, of all ranks."""

    @property
    def peak(self) -> int:
        """Return the bytes of one rank: what all roles keep, and the most that one of them needs while it computes."""
        training = [role for role in self.roles if not role.before_training]
        before = max((role.kept + role.passing for role in self.roles if role.before_training), default=0)
        return max(before, sum(role.kept for role in training) + max((role.passing for role in training), default=0))

    @property
    def unknown(self) -> list[str]:
        return [role.role for role in self.roles if role.parameters is None]


def estimate(train: TrainConfig, world_size: int) -> Memory:
    """Estimate the memory of a train block that `check` found nothing wrong with."""
    _, shard, _ = train.parallel.mesh(world_size)
    micro = batching(train, world_size).micro
    networks = {role: size_of(model) for role, model in train.models.items()}
    roles = tuple(_role(train, role, networks[role], shard, micro) for role in train.models)
    return Memory(roles, sum(_on_disk(train, role, size) for role, size in networks.items() if size is not None))


def size_of(model: Any) -> NetworkSize | None:
    """Return the size of a role's networks; None for a family without numbers, or a model that is not here."""
    if not isinstance(model, TwoExperts):
        return _size_of_one(model)
    high, low = (_size_of_one(model.expert(name)) for name in (HIGH, LOW))
    if high is None or low is None:
        return None
    return replace(high, parameters=high.parameters + low.parameters, adapters=high.adapters + low.adapters, networks=2)


def _size_of_one(model: Any) -> NetworkSize | None:
    reference = getattr(model, "init_from", None)
    architecture = getattr(model, "architecture", None)
    if reference is not None:
        architecture = network_size.architecture_of(reference, getattr(model, "revision", None))
    if not isinstance(architecture, WanArchitecture):
        return None
    gates = isinstance(getattr(model, "attention", None), SparseAttention)
    return network_size.transformer_size(architecture, getattr(model, "lora", None), gates=gates)


def _trained(train: TrainConfig, role: str, size: NetworkSize) -> int:
    """Return the number of parameters with gradients."""
    return (size.adapters or size.parameters) if role in train.optimizers else 0


def _states(train: TrainConfig, role: str, size: NetworkSize) -> int:
    """Return how many numbers the optimizer keeps: two for a parameter, but one for a block's matrix with muon."""
    trained = _trained(train, role, size)
    if not isinstance(train.optimizers.get(role), MuonConfig):
        return 2 * trained
    matrices = 0 if size.adapters else size.networks * size.layers * (size.block - 16 * size.width - 2 * size.ffn)
    return 2 * trained - matrices


def _averaged(train: TrainConfig, role: str, size: NetworkSize) -> int:
    return _trained(train, role, size) if train.callbacks.ema is not None and role == "student" else 0


def _on_disk(train: TrainConfig, role: str, size: NetworkSize) -> int:
    return 4 * (_trained(train, role, size) + _states(train, role, size) + _averaged(train, role, size))


def _role(train: TrainConfig, role: str, size: NetworkSize | None, shard: int, micro: int) -> RoleMemory:
    trained = role in train.optimizers
    before = role in train.method.preparing_roles
    if size is None:
        return RoleMemory(role, trained, None, before_training=before)
    low, learned = _BYTES[train.precision], _trained(train, role, size)
    masters = 4 * learned + low * (size.parameters + size.adapters - learned if size.adapters or not trained else 0)
    alike = trained and not size.adapters
    return RoleMemory(
        role,
        trained,
        size.parameters,
        weights=masters // shard,
        gradients=4 * learned // shard,
        optimizer=4 * _states(train, role, size) // shard,
        averages=4 * _averaged(train, role, size) // shard,
        gathered=2 * low * size.block + ((low + 4) * size.block if alike else 0) if shard > 1 or (alike and low == 2) else 0,
        activations=_activations(train, role, size, micro),
        before_training=before,
    )


def _activations(train: TrainConfig, role: str, size: NetworkSize, micro: int) -> int:
    """Return the bytes of one micro-batch's activations."""
    tokens = micro * size.tokens(train.data.latent_shape) * (2 if getattr(train.method, "teacher_forcing", False) else 1)
    width, ffn = _KEPT[train.precision]
    block = tokens * (width * size.width + ffn * size.ffn)
    if role not in train.optimizers:
        return block // 2  # nothing is kept: what one block has in hand
    kind = getattr(train.models[role], "activation_checkpointing", "none")
    if kind == "none":
        return size.layers * block
    kept = _BYTES[train.precision] * tokens * size.width
    if kind == "selective":
        width, ffn = _SELECTIVE[train.precision]
        kept += tokens * (width * size.width + ffn * size.ffn)
    return size.layers * kept + block
