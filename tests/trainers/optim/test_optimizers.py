"""Promises of optimizers: hand-made rates and norms, Muon against its formula, and updates skipped on the device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainers.config.optimizers import AdamWConfig, MuonConfig, ScheduleConfig
from trainers.optim import optimizers as optim
from trainers.optim.sharded_muon import ShardedMuon, orthogonalised


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 6)])
        self.head = nn.Linear(6, 2)


def rates(schedule: ScheduleConfig, max_steps: int, count: int) -> list[float]:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=2.0)
    moving = optim.RateSchedule([optimizer], schedule, max_steps)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        moving.step()
    return found


def test_rates_by_hand() -> None:
    assert rates(ScheduleConfig(), 4, 3) == [2.0, 2.0, 2.0]
    assert rates(ScheduleConfig(warmup_steps=4), 9, 6) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(ScheduleConfig(kind="linear", final_ratio=0.5), 4, 6) == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    assert rates(ScheduleConfig(kind="cosine"), 2, 4) == pytest.approx([2.0, 1.0, 0.0, 0.0])
    assert rates(ScheduleConfig(kind="linear", warmup_steps=2, decay_steps=4), 100, 6) == [1.0, 2.0, 2.0, 1.0, 0.0, 0.0]


def test_a_loaded_position_takes_the_configured_rate() -> None:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=4.0)
    moving = optim.RateSchedule([optimizer], ScheduleConfig(kind="linear"), 4)
    optimizer.load_state_dict({**optimizer.state_dict(), "param_groups": [{**optimizer.state_dict()["param_groups"][0], "lr": 99.0}]})
    moving.load_state_dict({"steps": 3})
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    module = Block()
    muon, rest = optim.build(MuonConfig(lr=0.1, rest=AdamWConfig(lr=0.01)), module)
    assert isinstance(muon, ShardedMuon)
    taken = {id(p) for p in muon.param_groups[0]["params"]}
    assert taken == {id(block.weight) for block in module.blocks}
    assert {id(p) for p in rest.param_groups[0]["params"]} == {id(p) for p in module.parameters()} - taken


def test_a_norm_over_all_gradients_is_clipped_by_hand() -> None:
    module = nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    norm = optim.clip_gradients(module, 1.0)
    assert norm.item() == 5.0
    assert norm.dtype == torch.float64
    assert module.weight.grad[0, 0].item() == pytest.approx(0.6, abs=1e-6)
    assert optim.clip_gradients(module, 100.0).item() == pytest.approx(1.0, abs=1e-6)
    assert module.bias.grad.item() == pytest.approx(0.8, abs=1e-6)
    assert optim.clip_gradients(module, None).item() == pytest.approx(1.0, abs=1e-6)


def test_a_module_without_gradients_has_norm_zero() -> None:
    assert optim.clip_gradients(nn.Linear(2, 1), 1.0).item() == 0.0


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_an_update_is_skipped_where_the_gradient_is_not_finite(kind: str) -> None:
    parameter = nn.Parameter(torch.eye(3))
    made: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW([parameter], lr=0.1, fused=True),
        "muon": ShardedMuon([parameter], 0.1, 0.9, True, 0.1),
        "sgd": torch.optim.SGD([parameter], lr=0.1),
    }
    optimizer = made[kind]
    parameter.grad = torch.full((3, 3), float("nan"))
    optim.step(optimizer, torch.tensor(1.0))
    assert parameter.equal(torch.eye(3))
    assert all(value.isfinite().all() for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    parameter.grad = torch.ones(3, 3)
    optim.step(optimizer, torch.tensor(0.0))
    assert parameter.isfinite().all()
    assert not parameter.equal(torch.eye(3))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_keep_their_directions(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalised(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = (u.mT @ found @ vh.mT).diagonal(dim1=-2, dim2=-1)
    assert ((values > 0.3) & (values < 1.3)).all()
    torch.testing.assert_close(u @ torch.diag_embed(values) @ vh, found)


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_of_muon_by_the_formula(nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = ShardedMuon([parameter], 0.1, 0.9, nesterov, 0.01)
    expected, momentum = start.clone(), torch.zeros(6, 4, dtype=torch.float64)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = 0.1 * gradient + 0.9 * momentum if nesterov else momentum
        expected = (1 - 0.1 * 0.01) * expected - 0.1 * math.sqrt(6 / 4) * newton_schulz(direction.T).T
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


def newton_schulz(x: torch.Tensor) -> torch.Tensor:
    x = x / math.sqrt(float((x * x).sum()))
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


def test_muon_agrees_with_torchs_up_to_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((16, 8), (8, 16), (8, 8), (8, 8))]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    pair = ShardedMuon(ours, 0.02, 0.95, True, 0.1), torch.optim.Muon(theirs, lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-3)  # of moves of 0.06


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.1), MuonConfig(lr=0.1, rest=AdamWConfig(lr=0.1))])
def test_seeded_state_is_what_a_first_step_would_make_and_changes_nothing(config: AdamWConfig | MuonConfig) -> None:
    torch.manual_seed(0)
    left = Block()
    right = Block()
    right.load_state_dict(left.state_dict())
    seeded, fresh = optim.build(config, left), optim.build(config, right)
    for optimizer in seeded:
        optim.seed_state(optimizer)
    for module, optimizers in ((left, seeded), (right, fresh)):
        module.head(module.blocks[1](module.blocks[0](torch.ones(1, 6)))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert a.equal(b)
    for a, b in zip(seeded, fresh, strict=True):
        assert [sorted(state) for state in a.state.values()] == [sorted(state) for state in b.state.values()]
