"""Owns the estimate of a training run's memory on one rank, role by role, and of its checkpoints on disk. Pure; must not import torch.

Weights, gradients, optimizer state and averages are counted exactly as they are sharded; what passes hold, tensor by tensor
(memory_network.py), stage by stage (memory_stages.py). The sum is what torch's allocator takes from the GPU, with segments that grow: each
stream has memory of its own, so that what FSDP gathers and reduces comes on top of the most that one stage holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from . import network_size
from .attention import SparseAttention
from .cross_checks import Batching, batching
from .memory_network import Network
from .memory_stages import Stage, expert_networks, passing_networks, stages
from .models.wan import WanArchitecture
from .models.wan_a14b import HIGH, LOW, TwoExperts
from .network_size import NetworkSize
from .optimizers import MuonConfig
from .train import TrainConfig

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
    """What sharding takes beside the shards as long as the role computes: blocks on their way from and to these."""
    activations: int = 0
    """The most that its own passes hold: activations, and the blocks that they compute with."""
    before_training: bool = False
    """It only makes the data, and is gone when training starts."""

    @property
    def kept(self) -> int:
        """Return the bytes that are taken all the time."""
        return self.weights + self.gradients + self.optimizer + self.averages

    @property
    def passing(self) -> int:
        """Return the bytes that are taken while this role computes."""
        return self.gathered + self.activations


@dataclass(frozen=True)
class Memory:
    roles: tuple[RoleMemory, ...]
    checkpoint: int
    """Bytes of one checkpoint on disk, of all ranks."""
    stages: tuple[Stage, ...] = ()
    """Of a step, those that may hold most."""

    @property
    def peak(self) -> int:
        """Return the bytes that torch's allocator takes from one rank's GPU: what all roles keep and gather, and the most of a stage."""
        training = [role for role in self.roles if not role.before_training]
        always = sum(role.kept + role.gathered for role in training)
        return max(self._before, always + max((stage.size for stage in self.stages), default=0))

    @property
    def highest(self) -> Stage | None:
        """Return the stage that holds most; None where what only makes the data takes more than all that follows."""
        return None if self._before >= self.peak else max(self.stages, key=lambda stage: stage.size, default=None)

    @property
    def _before(self) -> int:
        return max((role.kept + role.passing for role in self.roles if role.before_training), default=0)

    @property
    def unknown(self) -> list[str]:
        return [role.role for role in self.roles if role.parameters is None]


def estimate(train: TrainConfig, world_size: int) -> Memory:
    """Estimate the memory of a train block that `check` found nothing wrong with."""
    batch, (_, shard, _) = batching(train, world_size), train.parallel.mesh(world_size)
    sizes = {role: size_of(model) for role, model in train.models.items()}
    networks = {role: _network(train, role, size, shard, batch.micro) for role, size in sizes.items() if size is not None}
    roles = tuple(_role(train, role, sizes[role], networks.get(role), batch) for role in train.models)
    there = {role: network for role, network in networks.items() if role not in train.method.preparing_roles}
    on_disk = sum(_on_disk(train, role, size) for role, size in sizes.items() if size is not None)
    return Memory(roles, on_disk, tuple(stages(train, there)))


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


def _network(train: TrainConfig, role: str, size: NetworkSize, shard: int, micro: int) -> Network:
    model: Any = train.models[role]
    times = 2 if role == "student" and getattr(train.method, "teacher_forcing", False) else 1
    if role in train.method.preparing_roles:
        micro = getattr(train.method, "teacher_batch_size", micro)
    tokens, low = times * micro * size.tokens(train.data.latent_shape), _BYTES[train.precision]
    lora = getattr(model, "lora", None)
    return Network(
        size, low, role in train.optimizers, tokens, micro * train.data.text_len, shard=shard,
        adapted=network_size.adapted_layers(lora) if lora is not None and size.adapters else frozenset(),
        sparse=isinstance(getattr(model, "attention", None), SparseAttention),
        checkpointing=getattr(model, "activation_checkpointing", "none"),
        beside=passing_networks(train, role) - 1,
        mask=(1 + low) * (tokens // micro) ** 2 if getattr(model, "attention", None) == "dense" else 0,
    )  # fmt: skip


def _role(train: TrainConfig, role: str, size: NetworkSize | None, network: Network | None, batch: Batching) -> RoleMemory:
    trained, before = role in train.optimizers, role in train.method.preparing_roles
    if size is None or network is None:
        return RoleMemory(role, trained, None, before_training=before)
    learned, shard = _trained(train, role, size), network.shard
    masters = 4 * learned + network.low * (size.parameters + size.adapters - learned if size.adapters or not trained else 0)
    return RoleMemory(
        role,
        trained,
        size.parameters,
        weights=masters // shard,
        gradients=_gradients(train, role, size, shard, batch) if trained else 0,
        optimizer=4 * _states(train, role, size) // shard,
        averages=4 * _averaged(train, role, size) // shard,
        gathered=network.gathered,
        activations=network.left() + network.backward() if trained else network.passing(),
        before_training=before,
    )


def _gradients(train: TrainConfig, role: str, size: NetworkSize, shard: int, batch: Batching) -> int:
    """Return the bytes of the gradients of those of a role's networks that learn in a step. Over several rounds they are summed before they
    are shared out, but for roles of two experts."""
    learned = 4 * _trained(train, role, size) * expert_networks(train, role) // size.networks
    return learned // shard + (learned if batch.accumulation > 1 and size.networks == 1 and shard > 1 else 0)
