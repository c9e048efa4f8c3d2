"""Promises of whole DMD2 runs: the same numbers whatever interrupts them and however many ranks make them; adapters; averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.distilled import dmd2, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import losses, metrics, read


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompted_data(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def whole(runs: Any, prompted: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven iterations on one rank, of which the third and the sixth step the student."""
    run: Path = runs.finish(
        dmd2(prompted, teacher, checkpoint__every_steps=1, checkpoint__keep_every_steps=1), tmp_path_factory.mktemp("run")
    )
    return run


def of(state: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert found, prefix
    return found


def changed(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, right[key]) for key, value in left.items())


def test_student_schedule_and_average_move_only_where_the_student_steps(whole: Path) -> None:
    states = {step: read(whole, step) for step in (1, 2, 3, 4)}
    for before, after, moves in ((1, 2, False), (2, 3, True), (3, 4, False)):
        a, b = states[before], states[after]
        for prefix in ("roles.student.", "callbacks.ema.student.", "optimizers.student.state."):
            assert changed(of(a, prefix), of(b, prefix)) == moves, (prefix, after)
        assert changed(of(a, "roles.critic."), of(b, "roles.critic."))
        assert b["schedulers.student.steps"] - a["schedulers.student.steps"] == int(moves)
        assert b["schedulers.critic.steps"] - a["schedulers.critic.steps"] == 1


def test_a_checkpoint_holds_what_is_trained_and_the_students_average_alone(whole: Path) -> None:
    keys = read(whole, 7)
    assert {key.split(".")[1] for key in keys if key.startswith("roles.")} == {"student", "critic"}
    assert {key.split(".")[2] for key in keys if key.startswith("callbacks.ema.")} == {"student"}


def test_each_line_tells_the_losses_of_its_step(whole: Path) -> None:
    for line in metrics(whole):
        student = line["step"] % 3 == 0
        assert ("generator_loss" in line) == ("grad_norm_student" in line) == student
        assert line["loss"] == pytest.approx(line["critic_loss"] + line.get("generator_loss", 0.0), rel=1e-6)


def test_a_run_that_was_cut_between_the_students_steps_resumes_bitwise(
    runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path
) -> None:
    run = runs.finish(dmd2(prompted, teacher, max_steps=4), tmp_path)
    runs.finish(dmd2(prompted, teacher), run, attempt=2)
    assert losses(run) == losses(whole)
    same_state(whole, run, 7, 0.0)


def test_two_ranks_and_another_world_size_agree_with_one(runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path) -> None:
    run = runs.finish(dmd2(prompted, teacher, max_steps=4), tmp_path, world=2)
    assert losses(run) == pytest.approx(losses(whole)[:4], rel=1e-6)
    runs.finish(dmd2(prompted, teacher), run, world=1, attempt=2)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
    same_state(whole, run, 7, 1e-4)


def test_noised_clips_recomputed_activations_and_replicas_agree_too(runs: Any, prompted: Path, teacher: Path, tmp_path: Path) -> None:
    changes = {"method__rollout": "data_latent", "max_steps": 3}
    one = runs.finish(dmd2(prompted, teacher, **changes), tmp_path / "one")
    role = {"init_from": str(teacher), "activation_checkpointing": "full"}
    models = {"models": {"student": role, "teacher": {"init_from": str(teacher)}, "critic": role}}
    two = runs.finish(dmd2(prompted, teacher, **changes, **models, parallel={"replicate": 2}), tmp_path / "two", world=2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    same_state(one, two, 3, 1e-4)


def test_student_and_critic_may_be_adapters_of_the_teacher(runs: Any, prompted: Path, teacher: Path, tmp_path: Path) -> None:
    role = {"init_from": str(teacher), "lora": {"rank": 2}}
    models = {"models": {"student": role, "teacher": {"init_from": str(teacher)}, "critic": role}}
    run = runs.finish(dmd2(prompted, teacher, **models, max_steps=3), tmp_path)
    state = read(run, 3)
    for role_name in ("student", "critic"):
        names = of(state, f"roles.{role_name}.transformer.")
        assert all(".lora_" in name for name in names)
        assert all(".lora_" in name for name in of(state, f"optimizers.{role_name}.state."))
        assert any(float(value.abs().max()) > 0 for name, value in names.items() if ".lora_B." in name)


def test_what_cannot_be_distilled_ends_a_run_with_what_to_change(runs: Any, data: Path, teacher: Path, tmp_path: Path) -> None:
    for name, config, said in (
        ("list", dmd2(data, teacher, method__denoising_steps=[500, 1000]), "not descending"),
        ("negative", dmd2(data, teacher), "no prompts.safetensors"),
        ("guidance", dmd2(data, teacher, method__real_score_guidance_scale=3.5), "s = w + 1: 4.5; its newer YAML files mean s itself: 3.5"),
    ):
        started = runs.start(config, tmp_path / name)
        assert started.join() == [76]
        assert said in started.log() and "Traceback" not in started.log(), started.log()
