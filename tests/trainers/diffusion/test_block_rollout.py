"""Promises of a video's gradient: through one block's graph after another, with the numbers of all at once, and each graph gone in time."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.diffusion.block_rollout import joined

LENGTHS = (2, 2, 1)


class Kept:
    """A tensor that a block's graph keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def blocks_of(network: nn.Module, graded: tuple[bool, ...], kept: list[list[Any]]) -> list[Tensor]:
    generator, found = torch.Generator().manual_seed(2), list[Tensor]()
    for length, with_gradient in zip(LENGTHS, graded, strict=True):
        mine: list[Any] = []

        def pack(tensor: Tensor, mine: list[Any] = mine) -> Kept:
            mine.append(weakref.ref(packed := Kept(tensor)))
            return packed

        with torch.set_grad_enabled(with_gradient), torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
            found.append(network(torch.randn(2, length, 6, generator=generator)))
        kept.append(mine)
    return found


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))


@pytest.mark.parametrize("graded", [(True, True, True), (False, True, True), (True, False, False)])
def test_the_gradient_is_that_of_all_blocks_at_once(graded: tuple[bool, ...]) -> None:
    found = []
    for join in (joined, lambda blocks: torch.cat(blocks, 1)):
        made = network()
        video = join(blocks_of(made, graded, []))
        (video.square().sum() / 3).backward()
        found.append([video.detach(), *(p.grad for p in made.parameters() if p.grad is not None)])
    assert len(found[0]) == 5
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_each_blocks_graph_is_gone_and_its_gradient_complete_before_the_one_before_it_is_gone_through() -> None:
    made, kept, alive = network(), list[list[Any]](), list[list[bool]]()
    video = joined(blocks_of(made, (True, True, True), kept))
    weight = next(made.parameters())
    weight.register_post_accumulate_grad_hook(lambda _: alive.append([any(ref() is not None for ref in mine) for mine in kept]))
    video.sum().backward()
    # at the end of the last block's the two others are there; its own may be under way
    assert [found[: 2 - number] for number, found in enumerate(alive)] == [[True, True], [True], []]
    assert [found[3 - number :] for number, found in enumerate(alive)] == [[], [False], [False, False]]
    assert not any(ref() is not None for mine in kept for ref in mine)


def test_what_has_no_gradient_is_joined_as_it_is_and_a_gradient_is_taken_once() -> None:
    assert not joined(blocks_of(network(), (False, False, False), [])).requires_grad
    video = joined(blocks_of(network(), (True, True, True), []))
    loss = video.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="was taken already"):
        loss.backward()
