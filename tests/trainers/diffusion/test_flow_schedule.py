"""Promises of the schedule: the published grids, lookup by nearest timestep, exact conversions."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.diffusion.flow_schedule import FlowSchedule, middle_weights, shifted


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_the_grid_is_diffusers_grid(shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs, ours = FlowMatchEulerDiscreteScheduler(shift=shift), FlowSchedule(shift)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=0, atol=2e-4)
    torch.testing.assert_close(ours.sigmas.float(), theirs.sigmas, rtol=0, atol=2e-7)
    assert len(ours.timesteps) == 1000
    assert ours.sigmas[0] == 1.0


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(5.0, [1000, 937.5, 833.3333, 625]), (8.0, [1000, 960, 888.8889, 727.2727]), (12.0, [1000, 972.973, 923.0769, 800])],
)
def test_warped_steps_are_the_published_ones(shift: float, expected: list[float]) -> None:
    assert [FlowSchedule(shift).warp(step) for step in (1000, 750, 500, 250)] == pytest.approx(expected, abs=1e-3)
    assert FlowSchedule(shift).warp(0) == 0.0


def test_shift_by_hand() -> None:
    assert shifted(torch.tensor(0.5), 3.0).item() == 0.75
    assert shifted(torch.tensor(1.0), 8.0).item() == 1.0


def test_sigma_is_that_of_the_nearest_timestep() -> None:
    schedule = FlowSchedule(5.0)
    assert schedule.sigma(torch.tensor([937.0, 1000.0, 0.0])).tolist() == pytest.approx(
        [3.740 / 3.992, 1.0, 0.005 / 1.004]
    )  # S(0.748), S(1), S(0.001)
    assert schedule.sigma(schedule.timesteps).equal(schedule.sigmas)


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_each_timestep_of_the_grid_is_found_again(shift: float) -> None:
    schedule = FlowSchedule(shift)
    entries = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).reshape(20, 50)
    assert schedule.index(schedule.timesteps[entries]).equal(entries)


def test_the_weights_of_diffusion_forcing_by_hand() -> None:
    bell = [math.exp(-2 * ((k - 500) / 1000) ** 2) for k in range(1000)]
    total = sum(y - bell[0] for y in bell)
    weights = middle_weights()
    assert weights.tolist() == pytest.approx([(y - bell[0]) * 1000 / total for y in bell], rel=1e-9)
    assert weights[0] == 0.0 and weights.argmax() == 500
    assert weights.max().item() == pytest.approx(1.58, abs=0.005)
    assert weights.mean().item() == pytest.approx(1.0)


def test_noise_is_added_by_sigma_to_each_sample_and_frame() -> None:
    schedule = FlowSchedule(1.0)
    clean, noise = torch.full((2, 3, 1, 1, 1), 2.0), torch.full((2, 3, 1, 1, 1), 10.0)
    assert schedule.add_noise(clean, noise, torch.tensor([1000.0, 250.0]))[:, 0].flatten().tolist() == [10.0, 4.0]
    frames = torch.tensor([[1000.0, 500.0, 250.0], [250.0, 500.0, 1000.0]])
    assert schedule.add_noise(clean, noise, frames).flatten().tolist() == [10.0, 6.0, 4.0, 4.0, 6.0, 10.0]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_velocity_and_clean_convert_into_each_other_down_to_the_smallest_sigma(kind: torch.dtype) -> None:
    schedule = FlowSchedule(1.0)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 2, 3, 2, 2, generator=generator, dtype=kind) for _ in range(2))
    timesteps = schedule.timesteps[[0, 300, 600, 900, 999]]
    noisy = schedule.add_noise(clean, noise, timesteps)
    tolerance = 1e-6 if kind == torch.float32 else 1e-13
    torch.testing.assert_close(schedule.to_clean(noisy, noise - clean, timesteps), clean, rtol=0, atol=tolerance)
    velocity = schedule.to_velocity(noisy, clean, timesteps)
    torch.testing.assert_close(schedule.to_clean(noisy, velocity, timesteps), clean, rtol=0, atol=tolerance)
    assert velocity.dtype == kind
