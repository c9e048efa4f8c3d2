"""Promises of sampling in few steps: the student's own timesteps, as validation, sample, an export and a stock pipeline make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.trainers.distilled import dmd2
from tests.support.trainers.exports import finished, wan_config
from tests.support.trainers.one_rank import inputs, one_rank, wan
from tests.support.trainers.videos import frames, run_sample, same_video
from trainers import export
from trainers.config import TrainConfig, check
from trainers.config.denoising_steps import sigmas
from trainers.config.validation import ValidationConfig
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.diffusion.samplers import few_step_solver, sample, solve
from trainers.errors import UserError
from trainers.inference import generation
from trainers.inference.settings import Sampling
from trainers.inference.video_makers import SamplerOverrides
from trainers.seeding import derived_seed

STEPS, SHIFT = [1000, 900, 500], 3.0
KEYS = ("solver", "num_steps", "timesteps", "guidance_scale")


def train(**validation: Any) -> TrainConfig:
    made = dmd2(Path("x"), Path("y"), method__denoising_steps=STEPS, flow_shift=SHIFT, callbacks={"validation": validation})
    return TrainConfig.model_validate(made)


@pytest.mark.parametrize(
    ("validation", "wanted"),
    [
        ({}, ("sde", 3, STEPS, 1.0)),
        ({"solver": "ode", "guidance_scale": 2.0}, ("ode", 3, STEPS, 2.0)),
        ({"timesteps": [1000, 500]}, ("sde", 2, [1000, 500], 1.0)),
        ({"solver": "unipc", "num_steps": 7}, ("unipc", 7, None, 1.0)),
    ],
)
def test_a_student_of_few_steps_is_sampled_as_it_was_trained_unless_asked_otherwise(validation: dict[str, Any], wanted: Any) -> None:
    made = train(**validation)
    assert check(made, 1) == []
    assert tuple(getattr(made.sampling(), key) for key in KEYS) == wanted
    plain = ValidationConfig().filled(None)
    assert tuple(getattr(plain, key) for key in KEYS) == ("unipc", 50, None, 5.0)


@pytest.mark.parametrize(
    ("validation", "key", "said"),
    [
        ({"num_steps": 8}, "num_steps", "8 are not the 3 timesteps"),
        ({"solver": "euler", "timesteps": [1000]}, "timesteps", "not of euler"),
        ({"flow_shift": 5.0}, "flow_shift", "5 is not the 3"),
        ({"timesteps": [500, 1000]}, "timesteps", "not descending"),
        ({"timesteps": [700, 500]}, "timesteps", "starts from pure noise"),
    ],
)
def test_a_sampler_that_contradicts_itself_is_told_at_its_key(validation: dict[str, Any], key: str, said: str) -> None:
    (problem,) = check(train(**validation), 1)
    assert problem.path == ("callbacks", "validation", key) and said in problem.message and problem.hint


def test_a_student_of_many_steps_has_no_timesteps_to_sample_at() -> None:
    assert ValidationConfig(solver="sde").sampler_problem(None, SHIFT)[0] == "solver"  # type: ignore[index]


@pytest.mark.parametrize("kind", ["sde", "ode"])
def test_a_video_is_the_seeds_alone_and_takes_one_pass_a_step(kind: str) -> None:
    sampling = Sampling((4, 3, 4, 4), 3, 1.0, kind, SHIFT, tuple(STEPS))
    prompt, ticks = inputs()[2][0], []
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(7)).transpose(1, 2)
    fresh = torch.Generator().manual_seed(derived_seed("few steps", 7)) if kind == "sde" else None
    with one_rank() as parallel, torch.no_grad():
        model = wan(parallel)
        made = generation.latents(model, prompt, None, 7, sampling, lambda: ticks.append(None))
        wanted = sample(lambda x, t: model.predict_velocity(x, t, prompt[None]), FlowSchedule(SHIFT), noise, STEPS, generator=fresh)
        other = generation.latents(model, prompt, None, 8, sampling)
    assert torch.equal(made, wanted[0].transpose(0, 1)) and len(ticks) == 3 and not torch.equal(made, other)


@pytest.mark.parametrize("stochastic", [True, False])
def test_the_stock_scheduler_takes_the_same_steps(stochastic: bool) -> None:
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[list[float], torch.Tensor]] = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((timesteps.tolist(), noisy))
        return noisy.float().cos() * timesteps[:, None, None] / 1000

    scheduler = few_step_solver(STEPS, SHIFT, stochastic=stochastic)
    torch.manual_seed(3)
    theirs = solve(predict, scheduler, noise, 17)
    asked, states = [t for t, _ in seen], [x for _, x in seen]
    seen.clear()
    generator = torch.Generator().manual_seed(3) if stochastic else None
    ours = sample(predict, FlowSchedule(SHIFT), noise, STEPS, generator=generator)
    assert asked == [t for t, _ in seen] == [[float(t)] * 2 for t in STEPS]
    for left, (_, right) in zip(states, seen, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-6)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-6)


def test_weights_of_an_unknown_shift_take_no_timesteps_and_another_sampler_forgets_the_shift_of_the_first() -> None:
    with pytest.raises(UserError, match="flow shift"):
        SamplerOverrides(timesteps=[1000, 500]).over(None)
    many = train(solver="unipc", flow_shift=5.0, num_steps=9)
    kept, few = SamplerOverrides(solver="euler").over(many), SamplerOverrides(solver="ode").over(many)
    assert (kept.solver, kept.flow_shift, kept.num_steps) == ("euler", 5.0, 50)
    assert (few.solver, few.flow_shift, few.timesteps) == ("ode", None, STEPS)


# --- a whole run


@pytest.fixture(scope="module")
def student(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distilled from a whole pipeline, with samples."""
    config, role = wan_config(wan_data, base), {"init_from": str(base)}
    config["method"] = {"kind": "dmd2", "denoising_steps": STEPS, "generator_update_interval": 1, "teacher_guidance_scale": 1}
    config["models"] = {"student": role, "teacher": role, "critic": role}
    config["optimizers"]["critic"] = config["optimizers"]["student"]
    config["callbacks"]["validation"] = {"prompts": ["a cat on the grass"]}
    return finished(runs, tmp_path_factory.mktemp("student"), config)


def test_validation_shows_the_students_own_steps(student: Path) -> None:
    told = json.loads((student / "samples/step-00000002/validation.json").read_text())
    assert tuple(told["settings"][key] for key in KEYS) == ("sde", 3, STEPS, 1.0)
    assert frames(student / "samples/step-00000002/000.mp4").shape == (5, 64, 64, 3)


def test_an_export_records_steps_and_shift_and_its_snippet_runs(
    capsys: pytest.CaptureFixture[str], student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    made = tmp_path / "made"
    assert export.main([str(student), "--to", str(made)]) == 0
    found = json.loads((made / "training.json").read_text())["sampling"]
    assert [found[key] for key in (*KEYS, "flow_shift")] == ["sde", 3, STEPS, 1.0, SHIFT]
    assert found["sigmas"] == pytest.approx(sigmas(STEPS, SHIFT), abs=1e-6)
    pipeline = WanPipeline.from_pretrained(made)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert (pipeline.scheduler.config.shift, pipeline.scheduler.config.stochastic_sampling) == (SHIFT, True)
    card = (made / "README.md").read_text()
    assert "in 3 steps, at the timesteps 1000, 900, 500 (flow shift 3), with fresh noise after each" in card
    monkeypatch.chdir(tmp_path)
    made_by: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], made_by)
    assert made_by["pipe"].scheduler.timesteps.tolist() == STEPS and (tmp_path / "sample.webp").stat().st_size > 100
    # the same seed and steps with the implied noise: ours and the stock pipeline's are one video
    words = ["--prompt", "a cat", "--solver", "ode", "--seed", 4, "--height", 32, "--width", 32, "--num-frames", 5]
    for source, name in ((student, "ours"), (made, "stock")):
        code, _, err = run_sample(capsys, source, *words, "--to", tmp_path / f"{name}.mp4")
        assert code == 0, err
    assert same_video(tmp_path / "ours.mp4", tmp_path / "stock.mp4")
    assert np.abs(frames(tmp_path / "ours.mp4").astype(int)).max() > 0


def test_another_number_of_steps_is_refused_with_what_takes_it(capsys: pytest.CaptureFixture[str], student: Path, tmp_path: Path) -> None:
    words = ["--prompt", "a cat on the grass", "--to", tmp_path / "x.mp4"]
    code, _, err = run_sample(capsys, student, *words, "--steps", 5)
    assert code == 1 and "5 are not the 3 timesteps" in err and "unipc" in err
    assert run_sample(capsys, student, *words, "--steps", 5, "--solver", "unipc")[0] == 0
    assert run_sample(capsys, student, "--prompt", "x", "--timesteps", "1000,500", "--to", tmp_path / "y.mp4")[0] == 0
