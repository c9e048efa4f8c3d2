"""Owns the moving average of trained weights. Must not know methods: the caller says which parts of roles stepped.

Averages are DTensors like the weights, so a checkpoint of them reshards as the weights do.
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
    """shadow <- decay * shadow + (1 - decay) * weights at the steps where the part stepped; a plain copy up to start_step.

    A part is a role of one network, by the role's name, or one of a role's two experts, as role.network.
    """

    def __init__(self, config: EMAConfig, modules: dict[str, nn.Module]) -> None:
        self._config, self._modules = config, modules
        self._live = {part: {n: p for n, p in module.named_parameters() if p.requires_grad} for part, module in modules.items()}
        self._shadows = {part: {n: p.detach().clone() for n, p in live.items()} for part, live in self._live.items()}

    @torch.no_grad()
    def on_step(self, step: int, stepped_parts: Iterable[str]) -> None:
        """Update the averages of the parts that stepped."""
        weight = 1.0 if step <= self._config.start_step else 1 - self._config.decay
        for part in (part for part in stepped_parts if part in self._shadows):
            shadows, live = self._pairs(part)
            torch._foreach_lerp_(shadows, live, weight)

    @torch.no_grad()
    def restart(self) -> None:
        """Make the averages copies of the live weights, as where a checkpoint has none."""
        for part in self._live:
            torch._foreach_copy_(*self._pairs(part))

    @contextmanager
    def in_place_of_weights(self, role: str) -> Iterator[None]:
        """Inside, give the role's networks their averages for weights; afterwards restore the weights bit by bit. Collective."""
        parts = [part for part in self._live if part.partition(".")[0] == role]
        saved = {part: [tensor.detach().clone() for tensor in self._pairs(part)[1]] for part in parts}
        for part in parts:
            self._set(part, self._pairs(part)[0])
        try:
            yield
        finally:
            for part, values in saved.items():
                self._set(part, values)

    @torch.no_grad()
    def _set(self, part: str, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._pairs(part)[1], values)
        drop_gathered(self._modules[part])  # otherwise the next forward pass would use the parameters that it gathered before

    def _pairs(self, part: str) -> tuple[list[Tensor], list[Tensor]]:
        return [local(s) for s in self._shadows[part].values()], [local(p) for p in self._live[part].values()]

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by part and parameter name: the tensors themselves, which a load in place fills."""
        return {part: dict(shadows) for part, shadows in self._shadows.items()}
