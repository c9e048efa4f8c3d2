"""Owns the moving average of trained weights. Must not know methods: it is told which roles stepped.

Shadows are DTensors like the weights, so a checkpoint of them reshards as the weights do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .config.runtime import EMAConfig
from .parallel import drop_gathered
from .sharding import local


class EMACallback:
    """shadow <- decay * shadow + (1 - decay) * weights, on the steps where the role stepped; a plain copy up to start_step."""

    def __init__(self, config: EMAConfig, modules: dict[str, nn.Module]) -> None:
        self._config, self._modules = config, modules
        self._live = {role: {n: p for n, p in module.named_parameters() if p.requires_grad} for role, module in modules.items()}
        self._shadows = {role: {n: p.detach().clone() for n, p in live.items()} for role, live in self._live.items()}

    @torch.no_grad()
    def on_step(self, step: int, stepped_roles: Iterable[str]) -> None:
        weight = 1.0 if step <= self._config.start_step else 1 - self._config.decay
        for role in (role for role in stepped_roles if role in self._shadows):
            shadows, live = self._pairs(role)
            torch._foreach_lerp_(shadows, live, weight)

    @torch.no_grad()
    def restart(self) -> None:
        """Shadows become copies of the live weights, as where a checkpoint has none."""
        for role in self._live:
            torch._foreach_copy_(*self._pairs(role))

    @contextmanager
    def in_place_of_weights(self, role: str) -> Iterator[None]:
        """Inside, the role's network has its average for weights; afterwards the weights themselves again, bit by bit. Collective."""
        shadows, live = self._pairs(role)
        kept = [tensor.detach().clone() for tensor in live]
        self._set(role, live, shadows)
        try:
            yield
        finally:
            self._set(role, live, kept)

    @torch.no_grad()
    def _set(self, role: str, live: list[Tensor], values: list[Tensor]) -> None:
        torch._foreach_copy_(live, values)
        drop_gathered(self._modules[role])  # or the next forward pass would use what it gathered before

    def _pairs(self, role: str) -> tuple[list[Tensor], list[Tensor]]:
        return [local(s) for s in self._shadows[role].values()], [local(p) for p in self._live[role].values()]

    def state_dict(self) -> dict[str, Any]:
        """By role and parameter name. The tensors themselves: a load in place fills them."""
        return {role: dict(shadows) for role, shadows in self._shadows.items()}
