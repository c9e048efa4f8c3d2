"""Promises of keys and values that lie side by side: written once and in place, the numbers of copies, no copy kept to go back."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config.models.causal_wan import Config
from trainers.diffusion.block_rollout import FewSteps, roll_out
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.models.attention.kv_cache import KVCache
from trainers.models.causal_wan import CausalWan

FRAMES, SIZE, TOKENS, LAYERS, HEADS = 7, (4, 8), 8, 3, (2, 12)
"""Blocks of two frames and a last one of one; 8 tokens a frame."""


def made(parallel: ParallelContext, precision: str = "fp32", **config: Any) -> CausalWan:
    """The same weights at each call."""
    section = {"num_frames_per_block": 2, "architecture": {**ARCHITECTURE, "num_layers": LAYERS}, **config}
    return CausalWan(
        Config.model_validate(section), "student", trainable=True, precision=precision, seed=1, parallel=parallel, load_weights=True
    )


class Copies(TorchDispatchMode):
    """Keeps track of keys and values that are joined: how long each is, and which of them are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self._joined = list[int](), list[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "cat" and found.shape[-2:] == HEADS:
            self.tokens.append(found.shape[1])
            self._joined.append(weakref.ref(found))
        return found

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self._joined)


def rollout(model: CausalWan, exits: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    noise, prompt = torch.randn(2, FRAMES, 4, *SIZE, generator=generator), torch.randn(2, 6, 16, generator=generator)
    steps = FewSteps(FlowSchedule(3.0), torch.tensor([1000.0, 800.0, 400.0]), stochastic=True)
    return roll_out(
        model, steps, prompt, noise, exits, schedule=FlowSchedule(3.0), draw=lambda like: torch.randn(like.shape, generator=generator)
    )


@pytest.fixture
def in_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each block's keys and values by themselves, as where a window rolls."""
    plain = KVCache.__init__

    def without_rows(cache: KVCache, *arguments: Any, **named: Any) -> None:
        plain(cache, *arguments, **named)
        cache._rows = None

    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "__init__", without_rows)
        yield


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_numbers_are_those_of_copies_to_the_bit(
    parallel: ParallelContext, request: pytest.FixtureRequest, checkpointing: str, precision: str
) -> None:
    found = []
    for form in ("in place", "in copies"):
        if form == "in copies":
            request.getfixturevalue("in_copies")
        model = made(parallel, precision, activation_checkpointing=checkpointing)
        video = rollout(model, [2, 0, 1, 2])
        video.square().mean().backward()
        gradients = [dtensor.whole(p.grad) for p in model.transformer.parameters()]
        with torch.no_grad():
            found.append([video.detach(), rollout(model, [2, 2, 2, 2]), *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_a_pass_without_gradient_copies_no_past_but_for_the_last_block(parallel: ParallelContext) -> None:
    model = made(parallel)
    with torch.no_grad(), Copies() as copies:
        rollout(model, [2, 2, 2, 2])
    assert copies.tokens == [FRAMES * TOKENS] * 2 * LAYERS * 3  # the last block's three steps
    with Copies() as copies:
        rollout(model, [2, 0, 2, 1])
    graded = [end * TOKENS for end in (4, 6, 7)]  # the first block has no past
    last = [FRAMES * TOKENS]
    assert sorted(copies.tokens) == sorted((graded + last) * 2 * LAYERS)


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_no_copy_of_a_past_is_kept_for_the_backward_pass_where_it_is_recomputed(parallel: ParallelContext, checkpointing: str) -> None:
    for kind, kept in (("none", 3 * 2 * LAYERS), (checkpointing, 0)):
        with Copies() as copies:
            video = rollout(made(parallel, activation_checkpointing=kind), [1, 1, 1, 1])
            assert copies.alive == kept
            video.square().mean().backward()
            assert copies.alive == 0


def test_what_a_block_has_written_is_never_changed(parallel: ParallelContext) -> None:
    model, generator = made(parallel), torch.Generator().manual_seed(3)
    latents, prompt, zero = torch.randn(2, FRAMES, 4, *SIZE, generator=generator), torch.randn(2, 6, 16), torch.zeros(2)
    cache, kept = model.open_cache(2, prompt, FRAMES, SIZE), dict[int, list[Tensor]]()

    def as_written(end: int) -> list[Tensor]:
        assert cache._rows is not None
        return [part for layer in range(LAYERS) for part in cache._rows.first(layer, end * TOKENS)]

    for start, end in ((0, 2), (2, 4), (4, 6), (6, 7)):
        block = latents[:, start:end]
        for graded in (False, True, False):
            with torch.set_grad_enabled(graded):
                model.predict_block(block * 3, zero + 500, prompt, cache, start=start)
        with pytest.raises(ValueError, match="is not the next"):
            model.write_block(latents[:, :2], zero, prompt, cache, start=start + 2)
        model.write_block(block, zero, prompt, cache, start=start)
        if end < FRAMES:
            kept[end] = [part.clone() for part in as_written(end)]
        for written, before in kept.items():
            assert all(torch.equal(now, then) for now, then in zip(as_written(written), before, strict=True))


def test_memory_is_taken_once_for_all_blocks_that_are_written(parallel: ParallelContext) -> None:
    model, prompt, zero = made(parallel), torch.randn(2, 6, 16), torch.zeros(2)
    cache, sizes = model.open_cache(2, prompt, FRAMES, SIZE), list[int]()
    for start, end in ((0, 2), (2, 4), (4, 6), (6, 7)):
        model.write_block(torch.randn(2, end - start, 4, *SIZE), zero, prompt, cache, start=start)
        sizes.append(cache.num_bytes)
    numbers_a_token = 2 * LAYERS * 2 * 24  # keys and values of two videos
    assert sizes == [4 * numbers_a_token * (6 * TOKENS + 6)] * 4  # six frames, and the prompt's tokens
