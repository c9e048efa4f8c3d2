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

from .. import optim, parallel
from ..config import TrainConfig
from ..models.base import ModelBase

Batch = dict[str, Tensor]
_TRAINABLE_ONLY = StateDictOptions(ignore_frozen_params=True)
_NO_MISSING = StateDictOptions(ignore_frozen_params=True, strict=False)


class TrainingMethod(nn.Module, ABC):
    """One training algorithm. Roles are plain attributes of the subclass (`student`, `teacher`, `critic`)."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__()
        self.cfg, self.role_models = cfg, role_models
        self.role_modules = nn.ModuleDict({role: model.transformer for role, model in role_models.items()})
        self.device = next(iter(role_models.values())).device
        self.cuda_generator = torch.Generator(self.device)
        """Seeded by the trainer before each micro-batch: every draw comes from it, with device=self.device."""
        self.shared_generator = torch.Generator()
        """On the CPU, the same on all ranks, seeded by the trainer before each step: for what all ranks must decide alike."""
        self._optimizer_dict: dict[str, Sequence[torch.optim.Optimizer]] = {}
        """By role; `build_optimizer` fills both."""
        self._lr_scheduler_dict: dict[str, Any] = {}

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

    def build_optimizer(self, role: str, every: int = 1) -> None:
        """`every`: the role steps at every so many iterations, and its schedule counts these."""
        config = self.cfg.optimizers[role]
        self._optimizer_dict[role] = optim.build(config, self.role_models[role].transformer)
        self._lr_scheduler_dict[role] = optim.RateSchedule(self._optimizer_dict[role], config.schedule, max(1, self.cfg.max_steps // every))

    def all_optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizers in self._optimizer_dict.values() for optimizer in optimizers]

    def stepped_roles(self, iteration: int) -> list[str]:
        """Roles whose weights move at this iteration."""
        stepping = {id(optimizer) for optimizer in self.get_optimizers(iteration)}
        return [role for role, optimizers in self._optimizer_dict.items() if any(id(optimizer) in stepping for optimizer in optimizers)]

    def averaged_roles(self) -> list[str]:
        """Roles whose moving average is worth keeping."""
        return list(self._optimizer_dict)

    def set_gradient_sync(self, enabled: bool) -> None:
        for model in self.role_models.values():
            parallel.sync_gradients(model.transformer, enabled)

    # --- checkpoints

    def seed_optimizer_state_for_resume(self) -> None:
        """A new optimizer has no state; a checkpoint fills only what exists."""
        for optimizer in self.all_optimizers():
            optim.seed_state(optimizer)

    def checkpoint_state(self) -> dict[str, Any]:
        """roles.<role>.transformer, optimizers.<role>, schedulers.<role>. Hyper-parameters are left out: they are the configuration's."""
        return {
            "roles": {role: {"transformer": self._weights(role)} for role in self._optimizer_dict},
            "optimizers": {role: {"state": self._optimizer_state(role)["state"]} for role in self._optimizer_dict},
            "schedulers": {role: scheduler.state_dict() for role, scheduler in self._lr_scheduler_dict.items()},
        }

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        for role, optimizers in self._optimizer_dict.items():
            module = self.role_models[role].transformer
            set_model_state_dict(module, state["roles"][role]["transformer"], options=_NO_MISSING)
            groups = self._optimizer_state(role)["param_groups"]
            set_optimizer_state_dict(
                module, tuple(optimizers), {"state": state["optimizers"][role]["state"], "param_groups": groups}, options=_TRAINABLE_ONLY
            )
        for role, scheduler in self._lr_scheduler_dict.items():
            scheduler.load_state_dict(state["schedulers"][role])

    def _weights(self, role: str) -> dict[str, Any]:
        weights: dict[str, Any] = get_model_state_dict(self.role_models[role].transformer, options=_TRAINABLE_ONLY)
        return weights

    def _optimizer_state(self, role: str) -> dict[str, Any]:
        found: dict[str, Any] = get_optimizer_state_dict(
            self.role_models[role].transformer, tuple(self._optimizer_dict[role]), options=_TRAINABLE_ONLY
        )
        return found
