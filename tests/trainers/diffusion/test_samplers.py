"""Promises of the samplers: against closed forms, and against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.diffusion.samplers import Solver, fixed_noise, guided, sample, solve, solver

SCHEDULE = FlowSchedule(5.0)
DATA_STD = 0.5


def gaussian_velocity(noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The exact velocity for data N(0, DATA_STD^2): E[eps - x0 | x_t] = x (s - (1 - s) d^2) / (s^2 + (1 - s)^2 d^2)."""
    s = (timesteps / 1000).double().reshape(-1, *[1] * (noisy.ndim - 1))
    d2 = DATA_STD**2
    return noisy.double() * (s - (1 - s) * d2) / (s**2 + (1 - s) ** 2 * d2)


def test_two_deterministic_steps_by_hand() -> None:
    # shift 5 on the grid: t = 1000 -> sigma 1; step 500 -> t = 833.33, sigma 5/6
    t = [1000.0, SCHEDULE.warp(500)]
    noise = torch.tensor([[2.0]], dtype=torch.float64)
    seen: list[float] = []

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(float(noisy))
        return torch.full_like(noisy, 3.0) if len(seen) == 1 else torch.full_like(noisy, 0.6)

    # x0 = 2 - 1*3 = -1, eps = x0 + v = 2; x = -1/6 + 5/6*2 = 1.5; x0 = 1.5 - 5/6*0.6 = 1.0
    assert float(sample(predict, SCHEDULE, noise, t)) == pytest.approx(1.0, abs=1e-12)
    assert seen == pytest.approx([2.0, 1.5], abs=1e-12)


def test_two_stochastic_steps_by_hand() -> None:
    t = [1000.0, SCHEDULE.warp(500)]
    noise = torch.tensor([[2.0]], dtype=torch.float64)
    fresh = float(torch.randn(1, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    seen: list[float] = []

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(float(noisy))
        return torch.full_like(noisy, 3.0)

    sample(predict, SCHEDULE, noise, t, generator=torch.Generator().manual_seed(7))
    assert seen[1] == pytest.approx(-1 / 6 + 5 / 6 * fresh, abs=1e-12)


@pytest.mark.parametrize("stochastic", [False, True], ids=["ode", "sde"])
def test_one_step_is_the_clean_prediction_and_batches_do_not_mix(stochastic: bool) -> None:
    noise = torch.randn(2, 3, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1) if stochastic else None
    got = sample(lambda x, t: 2 * x, SCHEDULE, noise, [1000.0], generator=generator)
    torch.testing.assert_close(got, -noise)


def test_many_steps_reach_the_data_distribution_exactly_as_the_flow_maps_it() -> None:
    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = sample(gaussian_velocity, SCHEDULE, noise, SCHEDULE.timesteps)
    # the flow of a centred Gaussian scales: x(0) = x(1) * std(0) / std(1)
    torch.testing.assert_close(got, noise * DATA_STD, rtol=5e-3, atol=0)


def test_euler_here_is_euler_in_diffusers() -> None:
    noise = torch.randn(3, 2, 1, 2, generator=torch.Generator().manual_seed(0))
    scheduler = solver("euler", 5.0)
    theirs = solve(lambda x, t: gaussian_velocity(x, t).float(), scheduler, noise, 7)
    fine = FlowSchedule(5.0)
    fine.timesteps, fine.sigmas = scheduler.timesteps, scheduler.sigmas[:-1].double()
    torch.testing.assert_close(sample(gaussian_velocity, fine, noise, scheduler.timesteps), theirs, rtol=0, atol=2e-6)


def test_euler_converges_to_the_flow_at_first_order_and_unipc_sooner() -> None:
    noise = torch.ones(1, 1)

    def error(kind: Solver, steps: int) -> float:
        return abs(solve(lambda x, t: gaussian_velocity(x, t).float(), solver(kind, 5.0), noise, steps).item() / DATA_STD - 1)

    assert error("euler", 100) / error("euler", 200) == pytest.approx(2, rel=0.05)
    assert error("euler", 50) == pytest.approx(0.0834, rel=0.01)
    assert error("unipc", 50) < 0.005


def test_guidance_is_u_plus_s_times_c_minus_u_and_free_at_one() -> None:
    def never(noisy: Tensor, timesteps: Tensor) -> Tensor:
        raise AssertionError

    x, t = torch.zeros(1, 1), torch.zeros(1)
    assert guided(lambda x, t: x + 3, lambda x, t: x + 1, 4.5)(x, t).item() == 1 + 4.5 * 2
    assert guided(lambda x, t: x + 3, never, 1.0)(x, t).item() == 3


def test_noise_is_a_function_of_the_seed_alone_in_the_layout_of_stock_pipelines() -> None:
    assert torch.equal(fixed_noise((2, 3, 4, 4), 5)[None], torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(fixed_noise((2, 3, 4, 4), 5), fixed_noise((2, 3, 4, 4), 6))
