"""Owns what the trainer may ask of a training method. Must not know any method, nor how steps are counted, logged or saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..config import TrainConfig
from ..distributed import mesh
from ..errors import UserError
from ..models.base import ModelBase
from ..optim import optimizers as optim
from ..seeding import derived_seed

Batch = dict[str, Tensor]
_TRAINABLE_ONLY = StateDictOptions(ignore_frozen_params=True)
_NO_MISSING = StateDictOptions(ignore_frozen_params=True, strict=False)


class TrainingMethod(nn.Module, ABC):
    """One training algorithm. Roles are plain attributes of the subclass (`student`, `teacher`, `critic`)."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__()
        self.cfg, self.role_models = cfg, role_models
        self.role_modules = nn.ModuleDict({role: nn.ModuleDict(model.networks) for role, model in role_models.items()})
        self.device = next(iter(role_models.values())).device
        self.cuda_generator = torch.Generator(self.device)
        """Seeded by the trainer before each micro-batch: every draw comes from it, with device=self.device."""
        self.shared_generator = torch.Generator()
        """On the CPU, the same on all ranks, seeded by the trainer before each step: for what all ranks must decide alike."""
        self._optimizer_dict: dict[str, Sequence[torch.optim.Optimizer]] = {}
        """By part; `build_optimizer` fills both."""
        self._lr_scheduler_dict: dict[str, Any] = {}
        """By role: the rates of its parts move together, also of one that did not step."""

    @abstractmethod
    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """(losses with "total_loss", outputs for `backward`, further metrics) of one micro-batch. Iterations count from 1."""

    @abstractmethod
    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        """Those that step at this iteration."""

    @abstractmethod
    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        """Those that step at this iteration: an optimizer's schedule moves only with it."""

    @abstractmethod
    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        """Modules that got a gradient at this iteration; each is clipped by itself."""

    def backward(self, loss_map: dict[str, Tensor], outputs: dict[str, Any], grad_accum_rounds: int = 1) -> None:
        (loss_map["total_loss"] / grad_accum_rounds).backward()

    def on_train_start(self) -> None:
        """Before a checkpoint is loaded and the first step is made."""

    # --- roles and their parts

    def parts(self, role: str) -> dict[str, nn.Module]:
        """What is stepped, clipped and averaged by itself: the role's only network under its name; of two experts each, as role.network."""
        networks = self.role_models[role].networks
        return {role if len(networks) == 1 else f"{role}.{name}": network for name, network in networks.items()}

    def moving_parts(self, *roles: str) -> dict[str, nn.Module]:
        """Of each of these roles the only network, or the experts that have a gradient. A gradient is reduced over all ranks or not at
        all, so all of them find the same."""
        found = {}
        for role in roles:
            parts = self.parts(role)
            found.update({part: network for part, network in parts.items() if len(parts) == 1 or _has_gradient(network)})
        return found

    def build_optimizer(self, role: str, every: int = 1) -> None:
        """`every`: the role steps at every so many iterations, and its schedule counts these."""
        config = self.cfg.optimizers[role]
        made = {part: optim.build(config, network) for part, network in self.parts(role).items()}
        self._optimizer_dict.update(made)
        everything = [optimizer for optimizers in made.values() for optimizer in optimizers]
        self._lr_scheduler_dict[role] = optim.RateSchedule(everything, config.schedule, max(1, self.cfg.max_steps // every))

    def all_optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizers in self._optimizer_dict.values() for optimizer in optimizers]

    def optimizers_of(self, *roles: str) -> list[torch.optim.Optimizer]:
        """Those of the roles' parts that move."""
        return [optimizer for part in self.moving_parts(*roles) for optimizer in self._optimizer_dict[part]]

    def schedulers_of(self, *roles: str) -> list[Any]:
        return [self._lr_scheduler_dict[role] for role in roles]

    def clip_targets_of(self, *roles: str) -> dict[str, nn.Module]:
        return {part.replace(".", "_"): network for part, network in self.moving_parts(*roles).items()}

    def stepped_parts(self, iteration: int) -> list[str]:
        """Parts whose weights move at this iteration; before its gradients are gone."""
        stepping = {id(optimizer) for optimizer in self.get_optimizers(iteration)}
        return [part for part, optimizers in self._optimizer_dict.items() if any(id(optimizer) in stepping for optimizer in optimizers)]

    def averaged_roles(self) -> list[str]:
        """Roles whose moving average is worth keeping."""
        return self.trained_roles

    @property
    def trained_roles(self) -> list[str]:
        return list(dict.fromkeys(part.partition(".")[0] for part in self._optimizer_dict))

    def set_gradient_sync(self, enabled: bool) -> None:
        """Of two experts it stays on: one that is not used in the last round would keep what it has to itself."""
        for model in self.role_models.values():
            for network in model.networks.values():
                mesh.sync_gradients(network, enabled or len(model.networks) > 1)

    def shared(self, purpose: str) -> torch.Generator:
        """On the CPU, the same on all ranks and in all micro-batches of a step, however many ranks share these out."""
        return torch.Generator().manual_seed(derived_seed(purpose, self.shared_generator.initial_seed()))

    # --- checkpoints

    def seed_optimizer_state_for_resume(self) -> None:
        """A new optimizer has no state; a checkpoint fills only what exists."""
        for optimizer in self.all_optimizers():
            optim.seed_state(optimizer)

    def checkpoint_state(self) -> dict[str, Any]:
        """roles.<role>.<network>, optimizers.<part>, schedulers.<role>. Hyper-parameters are left out: they are the configuration's."""
        parts = self._trained_parts()
        return {
            "roles": {role: {n: _weights(m) for n, m in self.role_models[role].networks.items()} for role in self.trained_roles},
            "optimizers": {part: {"state": self._optimizer_state(part, network)["state"]} for part, network in parts.items()},
            "schedulers": {role: scheduler.state_dict() for role, scheduler in self._lr_scheduler_dict.items()},
        }

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        for role in self.trained_roles:
            for name, network in self.role_models[role].networks.items():
                set_model_state_dict(network, state["roles"][role][name], options=_NO_MISSING)
        for part, network in self._trained_parts().items():
            groups = self._optimizer_state(part, network)["param_groups"]
            held = {"state": state["optimizers"][part]["state"], "param_groups": groups}
            set_optimizer_state_dict(network, tuple(self._optimizer_dict[part]), held, options=_TRAINABLE_ONLY)
        for role, scheduler in self._lr_scheduler_dict.items():
            scheduler.load_state_dict(state["schedulers"][role])

    def _trained_parts(self) -> dict[str, nn.Module]:
        return {part: network for role in self.trained_roles for part, network in self.parts(role).items()}

    def _optimizer_state(self, part: str, network: nn.Module) -> dict[str, Any]:
        found: dict[str, Any] = get_optimizer_state_dict(network, tuple(self._optimizer_dict[part]), options=_TRAINABLE_ONLY)
        return found


def _weights(network: nn.Module) -> dict[str, Any]:
    weights: dict[str, Any] = get_model_state_dict(network, options=_TRAINABLE_ONLY)
    return weights


def _has_gradient(network: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in network.parameters())


def frames_per_block(student: ModelBase, kind: str) -> int:
    """Latent frames of a block of a student that must be block-causal; UserError for another."""
    per_block = getattr(student, "num_frames_per_block", None)
    if per_block is None:
        raise UserError(f"{kind} needs a block-causal student, not a {type(student).__name__}", "models.student.family: causal-wan")
    return int(per_block)
