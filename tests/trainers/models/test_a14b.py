"""Promises of roles of two experts: each predicts in its own range, draws over both are the ones of one network, bad ones are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.support.trainers.distilled import dmd2, kd, write_teacher
from tests.support.trainers.trainer_ranks import ARCHITECTURE, tiny
from trainers.config import TrainConfig, check
from trainers.config.models.wan_a14b import Config
from trainers.diffusion import expert_ranges
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.methods.dmd2 import DMD2Method
from trainers.methods.finetune import FineTuneMethod
from trainers.models.base import ModelBase
from trainers.models.wan_a14b import WanA14B

BOUNDARY = 875.0


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two different networks."""
    folder = write_teacher(tmp_path_factory.mktemp("experts"), seed=1)
    shutil.copytree(write_teacher(tmp_path_factory.mktemp("low"), seed=2) / "transformer", folder / "transformer_2")
    return folder


def a14b(parallel: ParallelContext, trainable: bool = False, **section: Any) -> WanA14B:
    made = Config.model_validate(section)
    return WanA14B(made, "student", trainable=trainable, precision="fp32", seed=1, parallel=parallel, load_weights=True)


def train(tmp_path: Path, **changes: Any) -> TrainConfig:
    models = {"student": {"family": "wan-a14b", "architecture": ARCHITECTURE}}
    return TrainConfig.model_validate(tiny(tmp_path, **{"models": models, **changes}))


# --- the role


def test_each_timestep_is_predicted_by_its_expert_the_boundary_by_the_first(parallel: ParallelContext, experts: Path) -> None:
    model = a14b(parallel, init_from=str(experts))
    noisy, prompt = torch.randn(3, 2, 4, 4, 4), torch.randn(3, 6, 16)
    for levels, who in (([900.0, 875.0, 875.0], [0, 0, 0]), ([1.0, 874.9, 3.0], [1, 1, 1]), ([900.0, 874.9, 875.0], [0, 1, 0])):
        timesteps = torch.tensor(levels)
        alone = [expert.predict_velocity(noisy, timesteps, prompt) for expert in (model.high, model.low)]
        found = model.predict_velocity(noisy, timesteps, prompt)
        assert all(torch.equal(found[n], alone[expert][n]) for n, expert in enumerate(who))
        assert not torch.equal(*alone)


def test_experts_of_random_weights_differ_and_an_expert_may_start_from_elsewhere(
    parallel: ParallelContext, experts: Path, tmp_path: Path
) -> None:
    def same(left: nn.Module, right: nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))

    random = a14b(parallel, architecture=ARCHITECTURE)
    assert not same(random.high.transformer, random.low.transformer)
    both = a14b(parallel, init_from=str(experts))
    assert not same(both.high.transformer, both.low.transformer)
    one = write_teacher(tmp_path, seed=1)
    alone = a14b(parallel, init_from=str(one), experts={"transformer_2": {"init_from": str(one / "transformer")}})
    assert same(alone.low.transformer, alone.high.transformer) and same(alone.high.transformer, both.high.transformer)
    swapped = {"transformer": {"subfolder": "transformer_2"}, "transformer_2": {"init_from": str(experts), "subfolder": "transformer"}}
    turned = a14b(parallel, init_from=str(experts), experts=swapped)
    assert same(turned.high.transformer, both.low.transformer) and same(turned.low.transformer, both.high.transformer)


def test_adapters_may_differ_between_experts(parallel: ParallelContext, experts: Path) -> None:
    own = {"transformer_2": {"lora": {"rank": 3, "target_modules": ["to_q"]}}}
    model = a14b(parallel, trainable=True, init_from=str(experts), lora={"rank": 2}, experts=own)
    ranks = [{p.shape[0] for n, p in network.named_parameters() if ".lora_A." in n} for network in model.networks.values()]
    assert ranks == [{2}, {3}]
    trained = [sum(p.requires_grad for p in network.parameters()) for network in model.networks.values()]
    assert trained == [16, 4]


def test_no_round_of_accumulation_is_lost_whichever_expert_it_was_of(parallel: ParallelContext, tmp_path: Path) -> None:
    """A gradient that FSDP has not reduced yet, since more rounds were to follow, must not be forgotten where they are the other's."""
    model = a14b(parallel, trainable=True, architecture=ARCHITECTURE)
    method = FineTuneMethod(train(tmp_path), {"student": model})
    for last, high in ((False, True), (True, False)):
        method.set_gradient_sync(last)
        model.expert(high).predict_velocity(torch.randn(1, 2, 4, 4, 4), torch.tensor([500.0]), torch.randn(1, 6, 16)).sum().backward()
    assert all(p.grad is not None for network in model.networks.values() for p in network.parameters())
    assert method.stepped_parts(1) == ["student.transformer", "student.transformer_2"]


# --- draws


@pytest.mark.parametrize("method", [{}, {"weighting_scheme": "logit_normal", "logit_mean": -0.4}, {"weighting_scheme": "mode"}])
def test_noise_levels_over_both_sides_are_those_of_one_network(tmp_path: Path, method: dict[str, Any]) -> None:
    two = FineTuneMethod(train(tmp_path, method={"kind": "finetune", **method}), {"student": Pair("student")})
    ranges_of = two.ranges
    assert ranges_of is not None
    first, end = ranges_of.high
    assert (first, ranges_of.low) == (0, (end, 1000))
    assert two.schedule.timesteps[end - 1] >= BOUNDARY > two.schedule.timesteps[end]
    two.cuda_generator.manual_seed(3)
    count = 40_000
    drawn = {high: two.draw_timesteps(count, 2, high) for high in (True, False)}
    assert drawn[True].min() >= BOUNDARY > drawn[False].max()
    ranges_of, two.ranges = two.ranges, None
    whole = two.draw_timesteps(4 * count, 2).double()
    assert ranges_of is not None and (whole >= BOUNDARY).double().mean().item() == pytest.approx(ranges_of.share, abs=0.005)
    for high, actual in drawn.items():
        expected = whole[(whole >= BOUNDARY) == high]
        for level in (100.0, 400.0, 600.0, 800.0, 860.0, 890.0, 920.0, 950.0, 990.0):
            assert (actual < level).double().mean().item() == pytest.approx((expected < level).double().mean().item(), abs=0.012)


def test_a_side_is_the_same_for_all_micro_batches_of_a_step_and_changes_with_the_step(tmp_path: Path) -> None:
    method = FineTuneMethod(train(tmp_path), {"student": Pair("student")})
    found = []
    for step in range(400):
        method.shared_generator.manual_seed(step)
        drawn = [method.ranges.draw(method.shared("side")) for _ in range(2) if method.ranges]
        assert drawn[0] == drawn[1]
        found.append(drawn[0])
    assert method.ranges is not None and sum(found) / 400 == pytest.approx(method.ranges.share, abs=0.08)


@pytest.mark.parametrize(("window", "expected"), [((0.0, 1.0), None), ((0.02, 0.8), 0.0), ((0.9, 1.0), 1.0)])
def test_score_timesteps_are_of_a_side_as_often_as_of_the_sampling_window(
    tmp_path: Path, window: tuple[float, float], expected: float | None
) -> None:
    bounds = {"min_timestep_ratio": window[0], "max_timestep_ratio": window[1]}
    method = scored(tmp_path, **bounds)
    every = [min(max(1000 * 3 * k / (1000 + 2 * k), 1000 * window[0]), 1000 * window[1]) for k in range(1000)]
    assert method.score_ranges is not None
    assert method.score_ranges.share == pytest.approx(sum(t >= BOUNDARY for t in every) / 1000, abs=1e-12)
    assert expected is None or method.score_ranges.share == expected
    for high in (True, False):
        if method.score_ranges.entries(high, 1000)[0] == method.score_ranges.entries(high, 1000)[1]:
            continue
        _, _, timesteps = method.noised(torch.zeros(500, 1, 1, 1, 1), high)
        assert {bool(t >= BOUNDARY) for t in timesteps} == {high}
        assert timesteps.unique().numel() > 50 or window != (0.0, 1.0)


class Expert(ModelBase):
    def __init__(self, name: str, seen: list[tuple[str, float, float]]) -> None:
        self.name, self.seen, self.transformer, self.device = name, seen, nn.Linear(1, 1, bias=False), torch.device("cpu")

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        self.seen.append((self.name, float(timesteps.min()), float(timesteps.max())))
        found: Tensor = noisy * self.transformer.weight.sum()
        return found


class Pair(ModelBase):
    """Two experts that note which of them was asked, and for what."""

    boundary = BOUNDARY

    def __init__(self, role: str) -> None:
        self.role, self.device, self.seen = role, torch.device("cpu"), list[tuple[str, float, float]]()
        self.experts = {high: Expert(name, self.seen) for high, name in ((True, "high"), (False, "low"))}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.experts[True].transformer, "transformer_2": self.experts[False].transformer}

    def expert(self, high: bool | None) -> ModelBase:
        assert high is not None
        return self.experts[high]

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        raise AssertionError("a step asks the expert that all ranks have agreed on")


def scored(tmp_path: Path, **method: Any) -> DMD2Method:
    section = {"family": "wan-a14b", "init_from": "x"}
    models = dict.fromkeys(("student", "teacher", "critic"), section)
    block = dmd2(tmp_path, tmp_path, models=models, method__denoising_steps=[1000, 950, 600, 300], method__generator_update_interval=1)
    block["method"] |= {"teacher_guidance_scale": 1.0, **method}
    made = DMD2Method(TrainConfig.model_validate(block), {role: Pair(role) for role in models})
    made.cuda_generator.manual_seed(0)
    return made


def test_distilling_asks_each_expert_only_in_its_own_range_and_steps_those_with_a_gradient(tmp_path: Path) -> None:
    moved, ends = set(), set()
    for step in range(40):
        method = scored(tmp_path)
        method.shared_generator.manual_seed(step)
        method.cuda_generator.manual_seed(step)
        maps = method.single_train_step({"prompt": torch.randn(5, 2, 3)}, 1)
        method.backward(*maps[:2])
        for model in (method.student, method.teacher, method.critic):
            pair: Any = model
            assert all(low >= BOUNDARY if name == "high" else high < BOUNDARY for name, low, high in pair.seen)
        student: Any = method.student
        passes = [name for name, _, _ in student.seen]
        assert passes[:3] == passes[4:7] == ["high", "high", "low"] and len(passes) == 8  # every step but the last, then the drawn one
        parts = method.stepped_parts(1)
        assert [part.partition(".")[0] for part in parts] == ["student", "critic"]
        assert list(method.get_grad_clip_targets(1)) == [part.replace(".", "_") for part in parts]
        assert len(method.get_optimizers(1)) == 2 and len(method.get_lr_schedulers(1)) == 2
        assert ("student.transformer" if passes[3] == "high" else "student.transformer_2") == parts[0]
        moved |= set(parts)
        ends.add((passes[3], passes[7]))
    assert moved == {f"{role}.{name}" for role in ("student", "critic") for name in ("transformer", "transformer_2")}
    assert len(ends) == 4


# --- pieces, by hand


def test_states_at_the_boundary_and_noise_above_it_are_those_derived_by_hand() -> None:
    schedule, level = FlowSchedule(5.0), 0.875
    x, v, eps = (torch.randn(2, 3, 1, 1, 1, dtype=torch.float64) for _ in range(3))
    timesteps = torch.tensor([1000.0, 937.5])
    for n, sigma in enumerate((1.0, 0.9375)):
        torch.testing.assert_close(schedule.to_level(x, v, timesteps, level)[n], x[n] - (sigma - 0.875) * v[n], rtol=0, atol=1e-12)
        alpha = (1 - sigma) / 0.125
        expected = alpha * x[n] + (sigma**2 - (alpha * 0.875) ** 2) ** 0.5 * eps[n]
        torch.testing.assert_close(schedule.add_noise_above(x, eps, timesteps, level)[n], expected, rtol=0, atol=1e-12)
    assert torch.equal(schedule.to_level(x, v, timesteps, 0.0), schedule.to_clean(x, v, timesteps))
    torch.testing.assert_close(schedule.add_noise_above(x, eps, timesteps, 0.0), schedule.add_noise(x, eps, timesteps), rtol=0, atol=1e-12)
    assert torch.equal(schedule.add_noise_above(x, eps, torch.tensor([875.0, 875.0]), 0.875), x)


def test_sides_of_a_list_up_or_down() -> None:
    assert expert_ranges.split([True, True, False]) == expert_ranges.ExpertRanges((0, 2), (2, 3), 2 / 3)
    assert expert_ranges.split([False, True]) == expert_ranges.ExpertRanges((1, 2), (0, 1), 0.5)
    assert expert_ranges.split([True, True]).entries(False, 2) == (2, 2) and expert_ranges.split([False]).share == 0
    assert expert_ranges.split([True, False]).entries(None, 2) == (0, 2)
    assert expert_ranges.boundary([None, 875.0, 875.0]) == 875.0 and expert_ranges.boundary([None]) is None
    with pytest.raises(UserError, match="different timesteps"):
        expert_ranges.boundary([875.0, 900.0])
    assert expert_ranges.share_below(lambda u: u.square(), 0.25) == pytest.approx(0.5, abs=1e-15)
    assert (expert_ranges.share_below(lambda u: u, 0.0), expert_ranges.share_below(lambda u: u, 2.0)) == (0.0, 1.0)


# --- what is refused


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.1, "x"])
def test_a_boundary_outside_of_0_and_1_is_refused(ratio: Any) -> None:
    with pytest.raises(ValidationError, match="boundary_ratio"):
        Config.model_validate({"architecture": ARCHITECTURE, "boundary_ratio": ratio})


def test_one_expert_missing_is_told_at_its_key_and_refused_where_it_is_loaded(
    parallel: ParallelContext, experts: Path, tmp_path: Path
) -> None:
    one = write_teacher(tmp_path)
    for folder in (one, one / "transformer"):
        section = Config.model_validate({"init_from": str(folder)})
        problem = section.missing_inputs("student")[-1]
        assert problem.path == ("models", "student", "init_from") and "no folder transformer_2" in problem.message and problem.hint
        with pytest.raises(UserError, match="one expert is missing"):
            a14b(parallel, init_from=str(folder))
    other = Config.model_validate({"init_from": str(experts), "experts": {"transformer": {"init_from": str(experts), "subfolder": "high"}}})
    (problem,) = other.missing_inputs("critic")
    assert problem.path == ("models", "critic", "experts", "transformer", "init_from") and "no folder high" in problem.message
    assert Config.model_validate({"init_from": str(experts)}).missing_inputs("student") == []


def test_a_pipeline_with_another_boundary_is_told_unless_one_was_named(experts: Path, tmp_path: Path) -> None:
    shutil.copytree(experts, folder := tmp_path / "made")
    (folder / "model_index.json").write_text('{"boundary_ratio": 0.9}')
    (problem,) = Config.model_validate({"init_from": str(folder)}).missing_inputs("student")
    assert problem.path == ("models", "student", "boundary_ratio") and "0.9" in problem.message and "0.9" in problem.hint
    for ratio in (0.9, 0.8):
        assert Config.model_validate({"init_from": str(folder), "boundary_ratio": ratio}).missing_inputs("student") == []


def _two(section: dict[str, Any]) -> Callable[[Path], dict[str, Any]]:
    return lambda path: tiny(path, models={"student": {"family": "wan-a14b", **section}})


def _distilled(student: dict[str, Any], **method: Any) -> Callable[[Path], dict[str, Any]]:
    def made(path: Path) -> dict[str, Any]:
        both = {"family": "wan-a14b", "init_from": "x"}
        block = dmd2(path, path, models={"student": {**both, **student}, "teacher": both, "critic": both})
        block["method"] |= {"denoising_steps": [1000, 950, 600], **method}
        return block

    return made


def _traced(**method: Any) -> Callable[[Path], dict[str, Any]]:
    def made(path: Path) -> dict[str, Any]:
        block = kd(path, path, path / "cache")
        block["models"]["student"] = {"family": "causal-wan-a14b", "architecture": ARCHITECTURE, "num_frames_per_block": 1}
        block["method"] |= {"kind": "kd-causal", "trajectory_steps": 48, "t_list": [1000, 937, 833, 0], **method}
        return block

    return made


@pytest.mark.parametrize(
    ("block", "path", "said"),
    [
        (_two({"init_from": "x", "experts": {"transformer": {"lora": {"rank": 2}}}}), ("models", "student", "experts"), "trained whole"),
        (
            _two({"init_from": "x", "experts": {"transformer": {"revision": "main"}}}),
            ("models", "student", "experts", "transformer", "revision"),
            "is missing",
        ),
        (
            _two({"architecture": ARCHITECTURE, "experts": {"transformer": {"init_from": "x"}}}),
            ("models", "student", "experts"),
            "random weights",
        ),
        (_distilled({}, denoising_steps=[1000, 950]), ("method", "denoising_steps"), "transformer_2 would do nothing"),
        (_distilled({}, denoising_steps=[1000, 950, 600]), None, ""),
        (_traced(t_list=[1000, 875, 833, 0]), ("method", "t_list"), "nothing left to do"),
        (_traced(trajectory_steps=40, t_list=[1000, 833, 0]), ("method", "trajectory_steps"), "not on the teacher's"),
        (_traced(), None, ""),
    ],
)
def test_what_two_experts_cannot_be_is_told_at_its_key(
    tmp_path: Path, block: Callable[[Path], dict[str, Any]], path: tuple[str, ...] | None, said: str
) -> None:
    found = check(TrainConfig.model_validate(block(tmp_path)), 1)
    assert [problem.path for problem in found] == ([] if path is None else [path]), found
    assert all(said in problem.message and problem.hint for problem in found)


def test_roles_that_change_over_at_different_timesteps_are_told_of_each(tmp_path: Path) -> None:
    found = check(TrainConfig.model_validate(_distilled({"boundary_ratio": 0.9})(tmp_path)), 1)
    assert {problem.path for problem in found} == {("models", role, "boundary_ratio") for role in ("student", "teacher", "critic")}


def test_diffusion_forcing_of_two_experts_needs_a_clean_past(tmp_path: Path) -> None:
    section = {"family": "causal-wan-a14b", "architecture": ARCHITECTURE, "num_frames_per_block": 1}
    for forcing, expected in ((False, [("method", "teacher_forcing")]), (True, [])):
        made = train(tmp_path, method={"kind": "dfsft", "teacher_forcing": forcing}, models={"student": section})
        assert [problem.path for problem in check(made, 1)] == expected
