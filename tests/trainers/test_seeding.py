"""Promises of seeds: one for each purpose, the same everywhere, and nothing depends on what was drawn before."""

from __future__ import annotations

import torch

from trainers import seeding


def test_seeds_differ_by_purpose_step_and_micro_batch() -> None:
    parts = [(kind, seed, step, index) for kind in ("a", "b") for seed in range(3) for step in range(20) for index in range(8)]
    assert len({seeding.derived_seed(*p) & 0xFFFFFFFF for p in parts}) == len(parts)
    assert seeding.derived_seed("a", 12) != seeding.derived_seed("a", 1, 2)


def test_a_seed_never_changes_between_versions() -> None:
    assert seeding.derived_seed("micro-batch", 1000, 1, 0) == 3894495553752065767


def test_a_micro_batch_draws_the_same_whatever_came_before() -> None:
    generator = torch.Generator()
    seeding.seed_micro_batch(generator, 1000, 7, 3)
    first = torch.rand(3, generator=generator), torch.rand(3)
    torch.rand(1000, generator=generator)
    torch.rand(1000)
    seeding.seed_micro_batch(generator, 1000, 7, 3)
    assert torch.rand(3, generator=generator).equal(first[0])
    assert torch.rand(3).equal(first[1])


def test_the_shared_generator_depends_on_the_step_alone() -> None:
    draws = []
    for step in (1, 1, 2):
        generator = torch.Generator()
        seeding.seed_step(generator, 1000, step)
        draws.append(torch.rand(1, generator=generator).item())
    assert draws[0] == draws[1] != draws[2]
