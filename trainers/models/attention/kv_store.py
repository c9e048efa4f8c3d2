"""Owns the keys and values that a causal network keeps of the frames before: their layout, and what may be read and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .projections import rotated

KeysAndValues = tuple[Tensor, Tensor]
"""[B, S, heads, head dim] each; keys rotated to their frames' positions."""


class Layers:
    """Keys and values by layer. Neither a dict nor a dataclass: fully_shard would look in it for gradients, and copy it, at each block."""

    def __init__(self) -> None:
        self._found: dict[int, KeysAndValues] = {}

    def put(self, layer: int, found: KeysAndValues) -> None:
        self._found[layer] = found

    def get(self, layer: int) -> KeysAndValues | None:
        return self._found.get(layer)

    def tokens(self, layer: int, chosen: slice) -> KeysAndValues:
        key, value = self._found[layer]
        return key[:, chosen], value[:, chosen]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self._found.values() for tensor in pair)


@dataclass(frozen=True)
class Part:
    """Consecutive tokens of a block that was written; `turned`: with keys at a later position, by these angles."""

    layers: Layers
    tokens: slice
    turned: tuple[Tensor, Tensor] | None

    def of(self, layer: int) -> KeysAndValues:
        key, value = self.layers.tokens(layer, self.tokens)
        return (key if self.turned is None else rotated(key, *self.turned)), value


class Past:
    """What one pass sees of earlier blocks. No dataclass, for the reason above."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def followed_by(self, layer: int, key: Tensor, value: Tensor) -> KeysAndValues:
        """A layer's keys and values with a block's own at the end, which alone may have a gradient."""
        if not self._parts:
            return key, value
        found = [*(part.of(layer) for part in self._parts), (key, value)]
        return torch.cat([key for key, _ in found], 1), torch.cat([value for _, value in found], 1)
