"""Owns the layout of the keys and values that a causal network keeps of earlier frames. Must not decide which frames are kept or seen.

Where every block sees all earlier frames they lie side by side (Rows), so that a pass without gradient puts its block's own behind
them and attends to all where it lies. A pass with gradient gets a copy, to which its own are joined; so does any pass where a window
rolls (Part).
"""

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

    def followed_by(self, layer: int, key: Tensor, value: Tensor) -> KeysAndValues:
        """Return a layer's keys and values of the past, followed by a block's own, which alone may have a gradient."""
        if not self._parts:
            return key, value
        pairs = [*(part.keys_and_values(layer) for part in self._parts), (key, value)]
        return torch.cat([key for key, _ in pairs], 1), torch.cat([value for _, value in pairs], 1)


class Rows:
    """Keys and values of a video's first `capacity` tokens, by layer, in memory that is taken once. What a written block has there is never
    changed: only what lies behind all of them is written over, by each pass over the block that comes next."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_layer: dict[int, KeysAndValues] = {}

    def first(self, layer: int, tokens: int) -> KeysAndValues:
        """Return a layer's keys and values of the first tokens, in place."""
        key, value = self._by_layer[layer]
        return key[:, :tokens], value[:, :tokens]

    def put(self, layer: int, start: int, key: Tensor, value: Tensor) -> KeysAndValues | None:
        """Write a block's keys and values behind the first `start` tokens; return all up to their end, in place. None: there is no room, as
        for the last block, which no other sees."""
        end = start + key.shape[1]
        if end > self._capacity:
            return None
        if layer not in self._by_layer:
            shape = (len(key), self._capacity, *key.shape[2:])
            self._by_layer[layer] = key.new_empty(shape), value.new_empty(shape)
        for rows, own in zip(self._by_layer[layer], (key, value), strict=True):
            rows[:, start:end] = own
        return self.first(layer, end)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self._by_layer.values() for tensor in pair)


class PastRows:
    """The first `start` tokens of rows, as what one pass sees of earlier blocks."""

    def __init__(self, rows: Rows, start: int) -> None:
        self._rows, self._start = rows, start

    def followed_by(self, layer: int, key: Tensor, value: Tensor) -> KeysAndValues:
        """Return a layer's keys and values of the past, followed by a block's own, which alone may have a gradient: in place where there is
        none, in copies where there is one."""
        if not torch.is_grad_enabled() and (in_place := self._rows.put(layer, self._start, key, value)):
            return in_place
        if not self._start:
            return key, value
        past = self._rows.first(layer, self._start)
        return torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
