"""The order of samples: a pure function of (seed, step, micro-batch)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.sampler import Sampler, block_permutation, permutation
from trainers.errors import UserError

CUTS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))  # micro, data-parallel ranks, rounds


def global_batch(num_samples: int, micro: int, ranks: int, rounds: int, seed: int, step: int) -> list[tuple[int, int]]:
    """A step's samples in the order of global micro-batches."""
    samplers = [Sampler(num_samples, micro * ranks * rounds, micro, rank, ranks, seed) for rank in range(ranks)]
    return [key for round_ in range(rounds) for sampler in samplers for key in sampler.indices(step, round_)]


@given(CUTS, st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**70), st.integers(0, 3))
def test_an_epoch_shows_each_sample_once(cut: tuple[int, int, int], steps: int, rest: int, seed: int, epoch: int) -> None:
    size = cut[0] * cut[1] * cut[2]
    num_samples = size * steps + min(rest, size - 1)
    keys = [key for s in range(steps) for key in global_batch(num_samples, *cut, seed, epoch * steps + s)]
    assert {e for e, _ in keys} == {epoch}
    indices = [i for _, i in keys]
    assert len(indices) == len(set(indices)) == size * steps
    assert set(indices) <= set(range(num_samples))


@given(st.integers(1, 3), st.sampled_from([(1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)]), st.integers(0, 50), st.integers(0, 9))
def test_a_micro_batch_is_the_same_at_any_world_size(micro: int, cut: tuple[int, int], step: int, seed: int) -> None:
    ranks, rounds = cut
    assert global_batch(100, micro, ranks, rounds, seed, step) == global_batch(100, micro, 1, 12, seed, step)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_a_step_does_not_depend_on_the_steps_asked_for_before(steps: list[int]) -> None:
    sampler = Sampler(20, 6, 3, 1, 2, seed=5)
    for step in steps:
        assert sampler.indices(step, 0) == Sampler(20, 6, 3, 1, 2, seed=5).indices(step, 0)


def test_rank_and_round_take_their_place_in_the_global_batch() -> None:
    order = permutation(30, 7, 1).tolist()
    sampler = Sampler(30, 12, micro=2, rank=1, data_parallel=3, seed=7)
    # 2 steps an epoch, so step 3 is the second of epoch 1: positions 12.. ; round 1 of rank 1 is micro-batch 1 * 3 + 1 = 4
    assert sampler.indices(3, 1) == [(1, i) for i in order[12 + 8 : 12 + 10]]


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    orders = {tuple(permutation(50, seed, epoch)) for seed in (0, 1, 2**32) for epoch in (0, 1, 2)}
    assert len(orders) == 9


def test_the_order_never_changes_between_releases() -> None:
    assert permutation(8, 1000, 0).tolist() == [6, 2, 4, 3, 0, 7, 1, 5]


def test_too_few_samples_are_told_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"has 7 samples, less than one global batch of 8"):
        Sampler(7, 8, 2, 0, 2, seed=0)


SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


@given(SIZES, st.integers(0, 2**70), st.integers(0, 3))
def test_a_block_permutation_keeps_the_rows_of_a_block_together(sizes: list[int], seed: int, epoch: int) -> None:
    order = block_permutation(np.array(sizes), seed, epoch)
    assert sorted(order) == list(range(sum(sizes)))
    block = np.arange(len(sizes)).repeat(sizes)[order]
    assert (np.diff(block) != 0).sum() + 1 == len(set(block))


def test_blocks_and_the_rows_in_them_are_shuffled_anew_each_epoch() -> None:
    sizes = np.full(6, 8)
    orders = [block_permutation(sizes, 7, epoch) for epoch in range(4)]
    assert len({tuple(order[::8] // 8) for order in orders}) == 4
    inside = {tuple(row % 8 for row in order if row // 8 == 3) for order in orders}
    assert len(inside) == 4 and (*range(8),) not in inside


def test_the_block_order_never_changes_between_releases() -> None:
    assert block_permutation(np.array([3, 2, 3]), 1000, 0).tolist() == [0, 2, 1, 6, 7, 5, 4, 3]


@settings(max_examples=30)
@given(st.integers(1, 3), st.sampled_from([(1, 12), (2, 6), (4, 3), (12, 1)]), st.integers(0, 20), st.integers(0, 9))
def test_a_micro_batch_of_blocks_is_the_same_at_any_world_size(micro: int, cut: tuple[int, int], step: int, seed: int) -> None:
    sizes = np.array([7, 13, 30, 1, 0, 49])
    ranks, rounds = cut
    whole = [Sampler(100, 12 * micro, micro, 0, 1, seed, sizes).indices(step, round_) for round_ in range(12)]
    parts = [Sampler(100, 12 * micro, micro, rank, ranks, seed, sizes).indices(step, r) for r in range(rounds) for rank in range(ranks)]
    assert parts == whole


def test_an_epoch_of_blocks_shows_each_sample_once() -> None:
    sampler = Sampler(40, 8, 2, 0, 1, 5, np.full(5, 8))
    keys = [key for step in range(5, 10) for round_ in range(4) for key in sampler.indices(step, round_)]
    assert sorted(keys) == [(1, index) for index in range(40)]
