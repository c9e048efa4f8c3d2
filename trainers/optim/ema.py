"""Owns the moving average of trained weights. Must not know methods: it is told which parts of roles stepped.

Shadows are DTensors like the weights, so a checkpoint of them reshards as the weights do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config.callbacks import EMAConfig
from ..distributed.dtensor import local
from ..distributed.mesh import drop_gathered


class EMACallback:
    """shadow <- decay * shadow + (1 - decay) * weights, on the steps where the part stepped; a plain copy up to start_step.

    Parts: a role of one network by the role's name; one of two experts by role.network.
    """

    def __init__(self, config: EMAConfig, modules: dict[str, nn.Module]) -> None:
        self._config, self._modules = config, modules
        self._live = {part: {n: p for n, p in module.named_parameters() if p.requires_grad} for part, module in modules.items()}
        self._shadows = {part: {n: p.detach().clone() for n, p in live.items()} for part, live in self._live.items()}

    @torch.no_grad()
    def on_step(self, step: int, stepped_parts: Iterable[str]) -> None:
        weight = 1.0 if step <= self._config.start_step else 1 - self._config.decay
        for part in (part for part in stepped_parts if part in self._shadows):
            shadows, live = self._pairs(part)
            torch._foreach_lerp_(shadows, live, weight)

    @torch.no_grad()
    def restart(self) -> None:
        """Shadows become copies of the live weights, as where a checkpoint has none."""
        for part in self._live:
            torch._foreach_copy_(*self._pairs(part))

    @contextmanager
    def in_place_of_weights(self, role: str) -> Iterator[None]:
        """Inside, the role's networks have their averages for weights; afterwards the weights themselves again, bit by bit. Collective."""
        parts = [part for part in self._live if part.partition(".")[0] == role]
        kept = {part: [tensor.detach().clone() for tensor in self._pairs(part)[1]] for part in parts}
        for part in parts:
            self._set(part, self._pairs(part)[0])
        try:
            yield
        finally:
            for part, values in kept.items():
                self._set(part, values)

    @torch.no_grad()
    def _set(self, part: str, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._pairs(part)[1], values)
        drop_gathered(self._modules[part])  # or the next forward pass would use what it gathered before

    def _pairs(self, part: str) -> tuple[list[Tensor], list[Tensor]]:
        return [local(s) for s in self._shadows[part].values()], [local(p) for p in self._live[part].values()]

    def state_dict(self) -> dict[str, Any]:
        """By part and parameter name. The tensors themselves: a load in place fills them."""
        return {part: dict(shadows) for part, shadows in self._shadows.items()}
