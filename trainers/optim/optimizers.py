"""Owns optimizers: AdamW and a Muon for sharded matrices, learning-rate schedules, gradient norms. Must not know methods.

Nothing here waits for the device: where a gradient is not finite, the update is skipped on the device (`found_inf`, as gradient scalers
do).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config.optimizers import AdamWConfig, MuonConfig, ScheduleConfig
from ..distributed.dtensor import local, shard_group
from .sharded_muon import ShardedMuon


def build(config: AdamWConfig | MuonConfig, module: nn.Module) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a network's trainable parameters."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if isinstance(config, AdamWConfig):
        return [_adamw(config, [p for _, p in named])]
    matrices = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
    rest = [p for name, p in named if not (name.startswith("blocks.") and p.ndim == 2)]
    muon = ShardedMuon(matrices, config.lr, config.momentum, config.nesterov, config.weight_decay)
    return [muon, _adamw(config.rest, rest)]


def _adamw(config: AdamWConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, config.lr, config.betas, config.eps, config.weight_decay, fused=True)


class RateSchedule:
    """Moves the learning rates of some optimizers together: each is its configured rate times `factor(number of steps done)`."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], config: ScheduleConfig, max_steps: int) -> None:
        self._optimizers = list(optimizers)
        self._full = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
        self._config, self._max_steps = config, max_steps
        self.steps = 0
        self._apply()

    def factor(self, step: int) -> float:
        """Return the factor after `step` steps."""
        return self._config.factor(step, self._max_steps)

    def step(self) -> None:
        self.steps += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position only: the rates are the configuration's, which may have changed."""
        self.steps = int(state["steps"])
        self._apply()

    def _apply(self) -> None:
        for optimizer, rates in zip(self._optimizers, self._full, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):  # loading an optimizer makes its groups anew
                group["lr"] = full * self.factor(self.steps)


def seed_state(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter without state zero moments, so that a checkpoint finds all tensors that it fills. Only for the optimizers of
    `build`."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if not p.requires_grad or p in optimizer.state:
                continue
            if isinstance(optimizer, ShardedMuon):
                optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p).detach()}
            elif isinstance(optimizer, torch.optim.AdamW):
                moments = {name: torch.zeros_like(p).detach() for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **moments}


def step(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Update unless found_inf (0 or 1, on the device). An optimizer that cannot read it there costs a wait for the device."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = found_inf
        optimizer.step()
        del optimizer.found_inf
    elif not found_inf.item():
        optimizer.step()


def clip_gradients(module: nn.Module, max_norm: float | None) -> Tensor:
    """Scale the module's whole gradient down to max_norm; return its norm before that (float64, equal on all ranks)."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = _norm(gradients, next(module.parameters()).device)
    if max_norm is not None and gradients:
        torch._foreach_mul_([local(g) for g in gradients], (max_norm / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].dtype))
    return norm


def _norm(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the norm of sharded gradients: squares are summed over the local parts, then over the ranks that hold the others. That takes
    far fewer calls than a norm of DTensors."""
    by_group: dict[dist.ProcessGroup | None, list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_group[shard_group(gradient)].append(local(gradient))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for group, parts in by_group.items():
        squares = torch.stack(list(torch._foreach_norm(parts, 2, dtype=torch.float64))).square().sum()
        if group is not None:
            dist.all_reduce(squares, group=group)
        total = total + squares
    return total.sqrt()
