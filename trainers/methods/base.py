"""Owns the interface between the trainer and a training method. Must not know any method, nor how steps are counted, logged or saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    """One training algorithm, which trains the networks of some roles. Subclasses keep the roles as plain attributes (`student`, `teacher`,
    `critic`)."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__()
        self.cfg, self.role_models = cfg, role_models
        self.role_modules = nn.ModuleDict({role: nn.ModuleDict(model.networks) for role, model in role_models.items()})
        self.device = next(iter(role_models.values())).device
        self.cuda_generator = torch.Generator(self.device)
        """Seeded by the trainer before each micro-batch: every draw of a method comes from it, with device=self.device."""
        self.shared_generator = torch.Generator()
        """On the CPU and the same on all ranks, seeded by the trainer before each step: for what all ranks must decide alike."""
        self._optimizer_dict: dict[str, Sequence[torch.optim.Optimizer]] = {}
        """The optimizers of each part; `build_optimizer` fills this and the next."""
        self._lr_scheduler_dict: dict[str, Any] = {}
        """One schedule a role: the learning rates of its parts move together, even that of a part which did not step."""

    @abstractmethod
    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """Return (losses with "total_loss", outputs for `backward`, further metrics) of one micro-batch. Iterations count from 1."""

    @abstractmethod
    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        """Return the optimizers that step at this iteration."""

    @abstractmethod
    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        """Return the schedules that step at this iteration: one moves only together with its optimizers."""

    @abstractmethod
    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        """Return the modules that got a gradient at this iteration; each is clipped by itself."""

    def backward(self, loss_map: dict[str, Tensor], outputs: dict[str, Any], grad_accum_rounds: int = 1) -> None:
        """Accumulate the gradients of one micro-batch."""
        (loss_map["total_loss"] / grad_accum_rounds).backward()

    def losses_in_turn(self, batch: Batch, iteration: int) -> Iterator[tuple[str, Tensor]] | None:
        """Yield each loss of one micro-batch with its name; None: they come from `single_train_step`, all at once.

        The gradients of a loss are accumulated before the next one is computed, so that the activations which they keep never live
        together. Whoever says this says the same in `single_train_step` and `backward`: where a subclass has its own version of these
        two, it is theirs that counts.
        """
        return None

    def accumulate(self, batch: Batch, iteration: int, rounds: int = 1) -> dict[str, Any]:
        """Accumulate the gradients of one of the `rounds` micro-batches of a step; return what is logged of it, "loss" first."""
        in_turn = self.losses_in_turn(batch, iteration) if self.takes_turns() else None
        if in_turn is None:
            loss_map, outputs, metrics = self.single_train_step(batch, iteration)
            self.backward(loss_map, outputs, grad_accum_rounds=rounds)
            return {"loss": loss_map["total_loss"], **{k: v for k, v in loss_map.items() if k != "total_loss"}, **metrics}
        found = {}
        for name, loss in in_turn:
            self.take_gradient(loss, rounds)
            found[name] = loss.detach()
            del loss  # and with it what is left of its graph, before the next one is made
        return {"loss": torch.stack(list(found.values())).sum(), **found}

    def take_gradient(self, loss: Tensor, rounds: int) -> None:
        """Accumulate the gradient of one of the losses that come in turn."""
        (loss / rounds).backward()

    def drop_gathered(self) -> None:
        """Free what passes after the last backward pass have gathered of trained networks. As long as it is there, a network's parameters
        are the gathered ones: without gradients, and without the next update of the weights."""
        for network in self._trained_parts().values():
            mesh.drop_gathered(network)

    def takes_turns(self) -> bool:
        """Return whether `losses_in_turn` is what this method computes: not where a class below the one that has it, or this object, has
        another `single_train_step` or `backward`."""
        owner = next(base for base in type(self).__mro__ if "losses_in_turn" in vars(base))
        both = ("single_train_step", "backward")
        return all(getattr(getattr(self, name), "__func__", None) is getattr(owner, name) for name in both)

    def on_train_start(self) -> None:
        """Run whatever is needed before a checkpoint is loaded and the first step is made."""

    # --- roles and their parts

    def parts(self, role: str) -> dict[str, nn.Module]:
        """Return the units that are stepped, clipped and averaged by themselves: a role's only network under the role's name, or each of
        its two experts as role.network."""
        networks = self.role_models[role].networks
        return {role if len(networks) == 1 else f"{role}.{name}": network for name, network in networks.items()}

    def moving_parts(self, *roles: str) -> dict[str, nn.Module]:
        """Return for each role its only network, or those of its experts that have a gradient. A gradient is reduced over all ranks or not
        at all, so the answer is the same on all ranks."""
        moving = {}
        for role in roles:
            parts = self.parts(role)
            moving.update({part: network for part, network in parts.items() if len(parts) == 1 or _has_gradient(network)})
        return moving

    def build_optimizer(self, role: str, every: int = 1) -> None:
        """Make a role's optimizers and schedule. `every`: the role steps at every so many iterations, and its schedule counts only
        these."""
        config = self.cfg.optimizers[role]
        made = {part: optim.build(config, network) for part, network in self.parts(role).items()}
        self._optimizer_dict.update(made)
        together = [optimizer for optimizers in made.values() for optimizer in optimizers]
        self._lr_scheduler_dict[role] = optim.RateSchedule(together, config.schedule, max(1, self.cfg.max_steps // every))

    def all_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return every optimizer, whether it steps at this iteration or not."""
        return [optimizer for optimizers in self._optimizer_dict.values() for optimizer in optimizers]

    def optimizers_of(self, *roles: str) -> list[torch.optim.Optimizer]:
        """Return the optimizers of the roles' parts that have a gradient."""
        return [optimizer for part in self.moving_parts(*roles) for optimizer in self._optimizer_dict[part]]

    def schedulers_of(self, *roles: str) -> list[Any]:
        return [self._lr_scheduler_dict[role] for role in roles]

    def clip_targets_of(self, *roles: str) -> dict[str, nn.Module]:
        return {part.replace(".", "_"): network for part, network in self.moving_parts(*roles).items()}

    def stepped_parts(self, iteration: int) -> list[str]:
        """Return the parts whose weights move at this iteration. Call it before the gradients are cleared."""
        stepping = {id(optimizer) for optimizer in self.get_optimizers(iteration)}
        return [part for part, optimizers in self._optimizer_dict.items() if any(id(optimizer) in stepping for optimizer in optimizers)]

    def averaged_roles(self) -> list[str]:
        """Return the roles of which a moving average is worth keeping."""
        return self.trained_roles

    @property
    def trained_roles(self) -> list[str]:
        return list(dict.fromkeys(part.partition(".")[0] for part in self._optimizer_dict))

    def set_gradient_sync(self, enabled: bool) -> None:
        """Turn the reduction of gradients over ranks on or off. For roles of two experts it stays on: an expert that is not used in the
        last round would otherwise never share its gradient."""
        for model in self.role_models.values():
            for network in model.networks.values():
                mesh.sync_gradients(network, enabled or len(model.networks) > 1)

    def shared(self, purpose: str) -> torch.Generator:
        """Return a CPU generator that is the same on all ranks and in all micro-batches of a step, however many ranks share these out."""
        return torch.Generator().manual_seed(derived_seed(purpose, self.shared_generator.initial_seed()))

    # --- checkpoints

    def seed_optimizer_state_for_resume(self) -> None:
        """Give new optimizers an empty state to be filled: a checkpoint is loaded only into tensors that exist."""
        for optimizer in self.all_optimizers():
            optim.seed_state(optimizer)

    def checkpoint_state(self) -> dict[str, Any]:
        """Return roles.<role>.<network>, optimizers.<part> and schedulers.<role>. Hyper-parameters are left out: they are the
        configuration's."""
        parts = self._trained_parts()
        return {
            "roles": {role: {n: _weights(m) for n, m in self.role_models[role].networks.items()} for role in self.trained_roles},
            "optimizers": {part: {"state": self._optimizer_state(part, network)["state"]} for part, network in parts.items()},
            "schedulers": {role: scheduler.state_dict() for role, scheduler in self._lr_scheduler_dict.items()},
        }

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Take over what `checkpoint_state` returned when the checkpoint was made."""
        for role in self.trained_roles:
            for name, network in self.role_models[role].networks.items():
                set_model_state_dict(network, state["roles"][role][name], options=_NO_MISSING)
        for part, network in self._trained_parts().items():
            groups = self._optimizer_state(part, network)["param_groups"]
            loaded = {"state": state["optimizers"][part]["state"], "param_groups": groups}
            set_optimizer_state_dict(network, tuple(self._optimizer_dict[part]), loaded, options=_TRAINABLE_ONLY)
        for role, scheduler in self._lr_scheduler_dict.items():
            scheduler.load_state_dict(state["schedulers"][role])

    def _trained_parts(self) -> dict[str, nn.Module]:
        return {part: network for role in self.trained_roles for part, network in self.parts(role).items()}

    def _optimizer_state(self, part: str, network: nn.Module) -> dict[str, Any]:
        state: dict[str, Any] = get_optimizer_state_dict(network, tuple(self._optimizer_dict[part]), options=_TRAINABLE_ONLY)
        return state


def _weights(network: nn.Module) -> dict[str, Any]:
    weights: dict[str, Any] = get_model_state_dict(network, options=_TRAINABLE_ONLY)
    return weights


def _has_gradient(network: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in network.parameters())


def frames_per_block(student: ModelBase, kind: str) -> int:
    """Return how many latent frames a block of a block-causal student has; UserError for a student of another kind. `kind` is the method's
    name."""
    per_block = getattr(student, "num_frames_per_block", None)
    if per_block is None:
        raise UserError(f"{kind} needs a block-causal student, not a {type(student).__name__}", "models.student.family: causal-wan")
    return int(per_block)
