"""Owns the layout of the keys and values that a causal network keeps of earlier frames. Must not decide which frames are kept or seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .projections import rotated

KeysAndValues = tuple[Tensor, Tensor]
"""[B, S, heads, head dim] each; keys are rotated to their frames' positions."""


class Layers:
    """Keys and values by layer. Neither a dict nor a dataclass: at each block fully_shard would look in it for gradients, and copy it."""

    def __init__(self) -> None:
        self._by_layer: dict[int, KeysAndValues] = {}

    def put(self, layer: int, keys_and_values: KeysAndValues) -> None:
        self._by_layer[layer] = keys_and_values

    def get(self, layer: int) -> KeysAndValues | None:
        return self._by_layer.get(layer)

    def tokens(self, layer: int, chosen: slice) -> KeysAndValues:
        """Return a layer's keys and values of the chosen tokens."""
        key, value = self._by_layer[layer]
        return key[:, chosen], value[:, chosen]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self._by_layer.values() for tensor in pair)


@dataclass(frozen=True)
class Part:
    """Consecutive tokens of a stored block. `rotation`: the angles that move their keys to a later position."""

    layers: Layers
    tokens: slice
    rotation: tuple[Tensor, Tensor] | None

    def keys_and_values(self, layer: int) -> KeysAndValues:
        """Return this part's keys and values of one layer, keys rotated."""
        key, value = self.layers.tokens(layer, self.tokens)
        return (key if self.rotation is None else rotated(key, *self.rotation)), value


class Past:
    """The keys and values of earlier blocks that one pass sees. No dataclass, for the reason that Layers gives."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def concatenated(self, layer: int, key: Tensor, value: Tensor) -> KeysAndValues:
        """Return a layer's keys and values of the past, followed by a block's own, which alone may have a gradient."""
        if not self._parts:
            return key, value
        pairs = [*(part.keys_and_values(layer) for part in self._parts), (key, value)]
        return torch.cat([key for key, _ in pairs], 1), torch.cat([value for _, value in pairs], 1)
