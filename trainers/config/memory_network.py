"""Owns what one Wan network holds on a GPU while it computes: what a pass leaves for the backward pass, and what is in hand in each.

Tensors are counted as the code makes them: diffusers' WanTransformerBlock, trainers/models/attention, torch's FSDP. Each has so many
numbers for a token, in the compute type or in float32. Must not import torch, or know methods and roles. Blocks are counted as they run
uncompiled: compiled ones keep less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .network_size import NetworkSize

_FLOAT32 = 4


@dataclass(frozen=True)
class PerToken:
    """Bytes of a block, a token: of each of `width` numbers, and of each of `ffn`."""

    width: int
    ffn: int


@dataclass(frozen=True)
class Network:
    """One network of a role, its work and how it is sharded."""

    size: NetworkSize
    low: int
    """Bytes of a number in the type that it computes in."""
    trained: bool
    tokens: int
    """Of a micro-batch."""
    text: int = 0
    """Tokens of its prompts."""
    adapted: frozenset[str] = frozenset()
    """Layers of a block that have an adapter, which then is all that is trained."""
    sparse: bool = False
    """Whether its self-attention is video sparse attention, by a kernel."""
    shard: int = 1
    checkpointing: Literal["none", "full", "selective"] = "none"
    beside: int = 0
    """Other networks of its size that make passes in the same step, and learn nothing in it: the role's other expert."""
    mask: int = 0
    """Bytes of an attention mask that is made as a whole."""

    # --- FSDP

    @property
    def gathered(self) -> int:
        """Return the bytes that FSDP takes beside the blocks' own stream as long as the network computes: what is gathered of one block and
        of the next, one block's gradients on their way to the shards, and what belongs to no block, which stays whole."""
        if not self._gathers:
            return 0
        passing = (2 * self.low * self.size.block if self.shard > 1 else 0) + self.low * self.size.rest
        return (1 + self.beside) * passing + (_FLOAT32 * self._learned_of_block if self.trained else 0)

    @property
    def _unsharded(self) -> int:
        """Return the bytes of the blocks that are whole at a time, for computing."""
        return 2 * self.low * self.size.block if self._gathers else 0

    @property
    def _gathers(self) -> bool:
        return self.shard > 1 or self.low < _FLOAT32

    @property
    def _learned_of_block(self) -> int:
        return self.size.adapters // (self.size.networks * self.size.layers) if self.adapted else self.size.block

    # --- a pass

    def passing(self, tokens: int | None = None) -> int:
        """Return the bytes in hand in a pass without gradient over so many tokens. None: over all."""
        low, number = self.low, self.tokens if tokens is None else tokens
        between_layers = PerToken(4 * low, 2 * low)  # the feed-forward layers' inner numbers, before and after their activation
        at_the_end = PerToken(5 * low + 2 * self._copy + _FLOAT32, 0)
        rotating = PerToken((14 if self.sparse else 8) * low + 2 * _FLOAT32, 0)
        return max(self._bytes(each, number) for each in (between_layers, at_the_end, rotating)) + self._unsharded + self.mask

    def left(self, tokens: int | None = None) -> int:
        """Return the bytes that a pass with gradient over so many tokens leaves for the backward pass."""
        number = self.tokens if tokens is None else tokens
        if self.checkpointing == "none":
            return self.size.layers * self._kept(number)
        inputs = self._bytes(PerToken(self.low, 0), number)
        return self.size.layers * (inputs + (self._bytes(self._results, number) if self.checkpointing == "selective" else 0))

    def backward(self, tokens: int | None = None, past: int = 0) -> int:
        """Return the bytes in hand in the backward pass of so many tokens, beside what is `left`. `past`: tokens whose keys and values a
        block's own were joined to."""
        number = self.tokens if tokens is None else tokens
        joined = self._bytes(PerToken(4 * self.low, 0), past + number) if past else 0  # keys, values and the gradients of both
        mine = self.low * self.size.block if self.trained and not self.adapted else 0
        if self.checkpointing == "none":
            recomputed = 0
        else:
            known = self._results if self.checkpointing == "selective" else PerToken(0, 0)
            recomputed = self._kept(number) - self._bytes(known, number)
        return recomputed + self._gradients_in_hand(number) + joined + mine + self._unsharded + self.mask

    def past(self, tokens: int) -> int:
        """Return the bytes of a cache of the keys and values of so many tokens, and of the prompt's."""
        return self.size.layers * self._bytes(PerToken(2 * self.low, 0), tokens + self.text)

    # --- a block, counted

    @property
    def _whole(self) -> bool:
        """Whether all weights are trained: a layer then keeps its input, and a product with a gate or a scale keeps both factors."""
        return self.trained and not self.adapted

    @property
    def _copy(self) -> int:
        """Bytes of a float32 copy of a number of the compute type; 0: it is float32 already."""
        return _FLOAT32 if self.low < _FLOAT32 else 0

    @property
    def _saved(self) -> PerToken:
        """What a block keeps for its backward pass."""
        low = self.low
        width = 3 * _FLOAT32 + self._inputs_of("attn1.to_q", "attn1.to_k", "attn1.to_v")  # the norms' inputs; what is projected
        width += 6 * low + (3 * low if self.sparse else 0)  # query and key before norm and rotation, query, key, value, attention's result;
        # of sparse attention also the coarse result, the gate and the sum
        width += self._inputs_of("attn2.to_q") + 3 * low  # of cross-attention: its input, the query before and after its norm, its result
        width += self._inputs_of("ffn.net.0.proj")
        if self._whole:
            width += 2 * _FLOAT32 + low + _FLOAT32  # two norms' results, and the results of attention and feed-forward as they meet a gate
        return PerToken(width, low + self._inputs_of("ffn.net.2"))

    @property
    def _results(self) -> PerToken:
        """What selective checkpointing keeps: results of products, an adapter's beside its layer's, and of attention."""
        wide = [f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")] + ["attn2.to_q", "attn2.to_out.0", "ffn.net.2"]
        gates = ["attn1.to_gate_compress"] if self.sparse else []
        number = sum(1 + (layer in self.adapted) for layer in (*wide, *gates)) + 2
        return PerToken(number * self.low, (1 + ("ffn.net.0.proj" in self.adapted)) * self.low)

    def _inputs_of(self, *layers: str) -> int:
        """Return the bytes of these layers' common input, if any of them keeps it."""
        return self.low if self._whole or self.adapted.intersection(layers) else 0

    def _kept(self, tokens: int) -> int:
        """Return the bytes that a block keeps: of so many tokens, and of the prompt's keys and values."""
        return self._bytes(self._saved, tokens) + 3 * self.low * self.size.width * self.text

    def _gradients_in_hand(self, tokens: int) -> int:
        """Return what a block's backward pass has beside what the block keeps, where it has most: at its start, where the second forward
        pass still has its variables; or between the feed-forward layers, where the gradients before and after the activation live."""
        low = self.low
        start = PerToken(self._copy + 5 * low, 0) if self._whole else PerToken(2 * low, 0)
        inner = 2 * low - self._inputs_of("ffn.net.2")
        between = PerToken(2 * low - (_FLOAT32 if self._whole else 0), inner)
        return max(self._bytes(each, tokens) for each in (start, between))

    def _bytes(self, each: PerToken, tokens: int) -> int:
        return tokens * (each.width * self.size.width + each.ffn * self.size.ffn)
