"""Promises of whole runs of two experts: only those used are moved, no ranks wait for each other for ever, resumes are bitwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.distilled import dmd2, kd, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics, read, tiny

NETWORKS = ("transformer", "transformer_2")
EMA = {"ema": {"decay": 0.5}}


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompted_data(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_teacher(tmp_path_factory.mktemp("experts"), seed=1)
    shutil.copytree(write_teacher(tmp_path_factory.mktemp("low"), seed=2) / "transformer", folder / "transformer_2")
    return folder


def finetune(data: Path, **changes: Any) -> dict[str, Any]:
    models = {"student": {"family": "wan-a14b", "architecture": ARCHITECTURE}}
    return tiny(data, **{"models": models, "callbacks": EMA, **changes})


def distil(data: Path, experts: Path, kind: str = "self-forcing", **changes: Any) -> dict[str, Any]:
    """Seven iterations, of which the third and the sixth step the student."""
    two = {"family": "wan-a14b", "init_from": str(experts)}
    student = {**two, "family": "causal-wan-a14b", "num_frames_per_block": 1} if kind == "self-forcing" else two
    method = {"kind": kind, "denoising_steps": [1000, 950, 750, 400], "generator_update_interval": 3, "teacher_guidance_scale": 3.0}
    if kind == "self-forcing":
        method["require_causal_start"] = False
    models = {"student": student, "teacher": two, "critic": two}
    return dmd2(data, experts, **{"models": models, "method": method, "flow_shift": 5.0, **changes})


def parts(state: dict[str, Any], role: str, network: str) -> dict[str, torch.Tensor]:
    """Weights, averages and moments of one network."""
    prefixes = (f"roles.{role}.{network}.", f"callbacks.ema.{role}.{network}.", f"optimizers.{role}.{network}.")
    return {key: value for key, value in state.items() if key.startswith(prefixes)}


def moved(before: dict[str, Any], after: dict[str, Any], role: str, network: str) -> bool:
    """Whether all of it did; an AssertionError where some of it did."""
    old, new = parts(before, role, network), parts(after, role, network)
    assert old.keys() == new.keys() and old
    if all(torch.equal(value, new[key]) for key, value in old.items()):
        return False
    for prefix in {key.split(".blocks")[0] for key in old if ".blocks" in key}:
        assert any(not torch.equal(value, new[key]) for key, value in old.items() if key.startswith(prefix)), prefix
    return True


def test_a_step_moves_the_expert_whose_noise_range_was_used_and_no_bit_of_the_other(runs: Any, data: Path, tmp_path: Path) -> None:
    each = {"checkpoint__every_steps": 1, "checkpoint__keep_every_steps": 1}
    run = runs.finish(finetune(data, max_steps=3, **each), tmp_path)
    states = {step: read(run, step) for step in (1, 2, 3)}
    used = [line["high_noise"] for line in metrics(run)]
    assert set(used[1:]) == {0.0, 1.0}
    for step in (2, 3):
        found = [moved(states[step - 1], states[step], "student", network) for network in NETWORKS]
        assert found == [used[step - 1] == 1.0, used[step - 1] == 0.0], step
    assert states[3]["schedulers.student.steps"] == 3


@pytest.mark.parametrize("kind", [pytest.param("dmd2", marks=pytest.mark.long), "self-forcing"])
def test_distilling_moves_the_experts_that_its_losses_went_through(
    runs: Any, prompted: Path, experts: Path, tmp_path: Path, kind: str
) -> None:
    each = {"checkpoint__every_steps": 1, "checkpoint__keep_every_steps": 1, "method__generator_update_interval": 1, "max_steps": 4}
    run = runs.finish(distil(prompted, experts, kind, **each), tmp_path)
    states, seen = {step: read(run, step) for step in range(1, 5)}, set[str]()
    for step in range(2, 5):
        told = {key.removeprefix("grad_norm_") for key in metrics(run)[step - 1] if key.startswith("grad_norm_")}
        for role in ("student", "critic"):
            for network in NETWORKS:
                assert moved(states[step - 1], states[step], role, network) == (f"{role}_{network}" in told), (step, role, network)
        seen |= told
        assert len(told) == 2
    assert {name.partition("_")[2] for name in seen} == set(NETWORKS)


def test_a_run_that_was_cut_resumes_bitwise_and_two_ranks_agree_with_one(runs: Any, data: Path, tmp_path: Path) -> None:
    whole = runs.finish(finetune(data, max_steps=6), tmp_path / "whole")
    cut = runs.finish(finetune(data, max_steps=3), tmp_path / "cut")
    runs.finish(finetune(data, max_steps=6), cut, attempt=2)
    assert losses(cut) == losses(whole)
    same_state(whole, cut, 6, 0.0)
    two = runs.finish(finetune(data, max_steps=6), tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-6)
    same_state(whole, two, 6, 2e-5)


def test_self_forcing_of_two_experts_resumes_bitwise_and_two_ranks_agree_with_one(
    runs: Any, prompted: Path, experts: Path, tmp_path: Path
) -> None:
    whole = runs.finish(distil(prompted, experts), tmp_path / "whole")
    cut = runs.finish(distil(prompted, experts, max_steps=4), tmp_path / "cut")
    runs.finish(distil(prompted, experts), cut, attempt=2)
    assert losses(cut) == losses(whole)
    same_state(whole, cut, 7, 0.0)
    recomputed = distil(prompted, experts, max_steps=4)
    for role in ("student", "critic"):
        recomputed["models"][role]["activation_checkpointing"] = "full"
    two = runs.finish(recomputed, tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(whole)[:4], rel=1e-5)


@pytest.mark.parametrize("kind", ["dfsft", "kd-causal"])
def test_causal_starts_train_both_experts(runs: Any, prompted: Path, experts: Path, tmp_path: Path, kind: str) -> None:
    student = {"family": "causal-wan-a14b", "init_from": str(experts), "num_frames_per_block": 1, "boundary_ratio": 0.909}
    if kind == "dfsft":
        method = {"kind": "dfsft", "teacher_forcing": True}
        config = finetune(prompted, models={"student": student}, method=method, flow_shift=5.0)
    else:
        config = kd(prompted, experts, tmp_path / "cache")
        config["models"] = {"student": student, "teacher": {**student, "family": "wan-a14b"}}
        config["models"]["teacher"].pop("num_frames_per_block")
        config["method"] |= {"kind": "kd-causal", "num_trajectories": 8}
    run = runs.finish({**config, "max_steps": 5}, tmp_path / "run", world=2)
    assert {line["high_noise"] for line in metrics(run)} == {0.0, 1.0}
    state = read(run, 5)
    for network in NETWORKS:
        assert any(float(value.abs().max()) > 0 for key, value in parts(state, "student", network).items() if key.endswith("exp_avg"))


def test_two_ranks_never_wait_for_each_other_for_ever(runs: Any, data: Path, tmp_path: Path) -> None:
    """Their own draws differ; which expert they call does not. 200 steps, of mixed batches over both sides in validation too."""
    validation = {"every_steps": 100, "videos": False, "loss": {"num_samples": 3, "steps": [100, 300, 600, 900]}}
    config = finetune(data, max_steps=200, data__global_batch_size=2, data__micro_batch_size=1, callbacks={"validation": validation})
    run = runs.finish(config, tmp_path, world=2)
    assert sum(line["high_noise"] for line in metrics(run)) == pytest.approx(200 * 0.301, abs=25)
    assert "validation_loss" in metrics(run)[-1]


@pytest.mark.long
def test_two_ranks_that_distil_never_wait_for_each_other_for_ever(runs: Any, prompted: Path, experts: Path, tmp_path: Path) -> None:
    small = {"data__global_batch_size": 2, "data__micro_batch_size": 1, "max_steps": 200, "method__same_step_across_blocks": False}
    run = runs.start(distil(prompted, experts, **small), tmp_path, 2)
    assert run.join(500) == [0, 0], run.log()


def test_adapters_of_both_experts_are_all_that_is_trained_and_kept(runs: Any, data: Path, experts: Path, tmp_path: Path) -> None:
    models = {"student": {"family": "wan-a14b", "init_from": str(experts), "lora": {"rank": 2}}}
    run = runs.finish(finetune(data, models=models, max_steps=6), tmp_path)
    state = read(run, 6)
    assert {line["high_noise"] for line in metrics(run)} == {0.0, 1.0}
    for network in NETWORKS:
        found = parts(state, "student", network)
        assert found and all(".lora_" in key for key in found)
        assert any(float(value.abs().max()) > 0 for key, value in found.items() if key.startswith("roles") and ".lora_B." in key)


def test_one_missing_expert_ends_a_run_with_what_to_change(runs: Any, data: Path, tmp_path: Path) -> None:
    one = write_teacher(tmp_path / "one")
    started = runs.start(finetune(data, models={"student": {"family": "wan-a14b", "init_from": str(one)}}), tmp_path / "run")
    assert started.join() == [76]
    assert "one expert is missing" in started.log() and "experts.transformer_2.init_from" in started.log()
    assert "Traceback" not in started.log()
