"""Promises of validation: it changes no bit of the training, shows the same noise every time, and is made up for after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.small_disk import small_disk
from tests.support.trainers.shapes_runs import PROMPTS, VALIDATION, config, samples, validation_of
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics, read
from trainers.config import TrainConfig, check
from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.models.codecs.shapes import MODES, TRAINING, ShapesCodec
from trainers.seeding import derived_seed


@pytest.fixture(scope="module")
def plain(runs: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = runs.finish(config(shapes), tmp_path_factory.mktemp("plain"))
    return run


@pytest.fixture(scope="module")
def validated(runs: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = runs.finish(config(shapes, VALIDATION), tmp_path_factory.mktemp("validated"))
    return run


def same_training(left: Path, right: Path) -> None:
    assert losses(left) == losses(right)
    a, b = read(left, 4), read(right, 4)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(b[key], value) if isinstance(value, torch.Tensor) else b[key] == value, key


def test_a_run_with_validation_is_bitwise_the_run_without(plain: Path, validated: Path) -> None:
    same_training(plain, validated)
    assert any(key.startswith("callbacks.ema.") for key in read(plain, 4))


def test_on_two_ranks_too_from_live_weights_and_averages(runs: Any, shapes: Path, validated: Path, tmp_path: Path) -> None:
    without = runs.finish(config(shapes), tmp_path / "without", world=2)
    with_it = runs.finish(config(shapes, VALIDATION), tmp_path / "with", world=2)
    same_training(without, with_it)
    one, two = validation_of(validated, 4)["numbers"], validation_of(with_it, 4)["numbers"]
    assert two == pytest.approx(one, rel=1e-5)
    sheets = [np.asarray(Image.open(samples(run, 4) / "sheet.png")).astype(int) for run in (validated, with_it)]
    assert np.abs(sheets[0] - sheets[1]).max() <= 1
    assert sorted(path.name for path in samples(with_it, 4).iterdir()) == ["000.mp4", "001.mp4", "002.mp4", "sheet.png", "validation.json"]


def test_each_validation_leaves_videos_a_sheet_and_its_numbers(validated: Path) -> None:
    assert sorted(p.name for p in (validated / "samples").iterdir()) == ["step-00000002", "step-00000004"]
    found = validation_of(validated, 4)
    assert found["videos"] == {f"{n:03d}.mp4": text for n, text in enumerate(PROMPTS)}
    assert found["negative_prompt"] == ""
    assert all((samples(validated, 4) / name).stat().st_size > 500 for name in found["videos"])
    assert (samples(validated, 2) / "sheet.png").read_bytes() != (samples(validated, 4) / "sheet.png").read_bytes()


def test_its_loss_stands_in_the_line_of_its_step(validated: Path) -> None:
    lines = metrics(validated)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["validation_loss" in line for line in lines] == [False, True, False, True]
    assert {k: v for k, v in lines[3].items() if k.startswith("validation_loss")} == validation_of(validated, 4)["numbers"]
    assert list(lines[3])[:2] == ["step", "loss"]


def test_its_loss_is_that_of_the_averages_at_fixed_noise_by_hand(validated: Path, shapes: Path) -> None:
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(**{**ARCHITECTURE, "text_dim": 32}).eval()
    prefix = "callbacks.ema.student."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in read(validated, 4).items() if k.startswith(prefix)})
    codec, schedule, values = ShapesCodec(), FlowSchedule(3.0), {300: [], 700: []}
    for index, step in [(i, s) for i in range(3) for s in (300, 700)]:
        mode = MODES[TRAINING[index]]
        clean = ((codec.encode_video(mode.pixels().expand(3, -1, -1, -1)) + 0.63) / 0.78)[None]
        u = step / 1000
        sigma = 3 * u / (1 + 2 * u)
        noise = torch.randn(1, 5, 4, 4, 4, generator=torch.Generator().manual_seed(derived_seed("validation", 0, index, step)))
        noise = noise.transpose(1, 2)
        prompt = torch.zeros(1, 6, 32)
        prompt[0, :4] = codec.encode_text(mode.caption)
        with torch.no_grad():
            v = network((1 - sigma) * clean + sigma * noise, torch.tensor([schedule.warp(step)]), prompt, return_dict=False)[0]
        values[step].append(float((v.double() - (noise - clean).double()).square().mean()))
    by_step = {step: sum(actual) / 3 for step, actual in values.items()}
    expected = {"validation_loss": sum(by_step.values()) / 2, **{f"validation_loss_{step}": value for step, value in by_step.items()}}
    assert validation_of(validated, 4)["numbers"] == pytest.approx(expected, rel=1e-5)


def test_a_resume_makes_up_for_a_validation_that_was_cut_off(runs: Any, shapes: Path, validated: Path, tmp_path: Path) -> None:
    started = runs.start(config(shapes, VALIDATION), tmp_path / "cut", hold_at=("validating", 0))
    started.wait_held()
    started.notice()
    assert started.join() == [75]
    cut = tmp_path / "cut"
    assert [line["step"] for line in metrics(cut)] == [1, 2]
    assert "validation_loss" not in metrics(cut)[1]
    runs.finish(config(shapes, VALIDATION), cut, attempt=2)
    same_training(validated, cut)
    for step in (2, 4):
        assert validation_of(cut, step)["numbers"] == validation_of(validated, step)["numbers"]
        assert (samples(cut, step) / "sheet.png").read_bytes() == (samples(validated, step) / "sheet.png").read_bytes()
    assert [line.get("validation_loss") for line in metrics(cut)] == [line.get("validation_loss") for line in metrics(validated)]


def test_what_is_there_already_is_not_made_again_at_a_resume(runs: Any, shapes: Path, validated: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(validated, again)
    before = (samples(again, 4) / "sheet.png").stat().st_mtime_ns
    runs.finish(config(shapes, VALIDATION), again, attempt=2)
    assert (samples(again, 4) / "sheet.png").stat().st_mtime_ns == before
    assert metrics(again) == metrics(validated)


def test_a_disk_that_takes_no_samples_does_not_end_the_run(runs: Any, shapes: Path, plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "full"
    run.mkdir()
    (run / "samples").write_text("in the way")
    attempt = runs.start(config(shapes, VALIDATION), run)
    assert attempt.join() == [0]
    same_training(plain, run)
    told = [message["text"] for message in attempt.sent() if message["kind"] == "warning"]
    assert [text.split(":")[0] for text in told] == [f"the samples of step {step} could not be written" for step in (2, 4)]


def test_samples_that_a_full_disk_cuts_short_leave_nothing_and_are_made_up_for_at_the_next_start(
    runs: Any, shapes: Path, plain: Path, validated: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", kb=64) as disk:
        run = tmp_path / "run"
        run.mkdir()
        (run / "samples").symlink_to(disk.path)
        disk.fill(leave=12288)
        attempt = runs.start(config(shapes, VALIDATION), run)
        assert attempt.join() == [0]
        same_training(plain, run)
        assert "No space left on device" in attempt.log() and "Traceback" not in attempt.log()
        assert [path.name for path in disk.path.iterdir()] == [".filler"]
        disk.empty()
        runs.finish(config(shapes, VALIDATION), run, attempt=2)
        assert validation_of(run, 4)["numbers"] == validation_of(validated, 4)["numbers"]
    assert metrics(run)[3]["validation_loss"] > 0
    assert any("samples of step 2 could not be written" in m.get("text", "") for m in attempt.sent())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": ["a circle"]}, "no word 'circle'"),
        ({"model": None}, "nothing tells whose VAE"),
    ],
)
def test_what_cannot_be_validated_is_told_before_the_first_step(
    runs: Any, shapes: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    attempt = runs.start(config(shapes, {**VALIDATION, **change}, callbacks={"validation": {**VALIDATION, **change}}), tmp_path)
    assert attempt.join() == [76]
    assert said in attempt.log() and "Traceback" not in attempt.log()


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        ({"width": 10}, ("width",), "10 is not a multiple of"),
        ({"weights": "ema"}, ("weights",), "there are no averages"),
    ],
)
def test_what_can_be_known_of_a_validation_is_told_at_submit(
    shapes: Path, change: dict[str, Any], where: tuple[str, ...], said: str
) -> None:
    asked = TrainConfig.model_validate(config(shapes, callbacks={"validation": {**VALIDATION, **change}}))
    [problem] = check(asked, 1)
    assert problem.path == ("callbacks", "validation", *where) and said in problem.message and problem.hint


def test_without_prompts_anywhere_the_first_two_samples_are_shown(runs: Any, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "others")
    run = runs.finish(config(tmp_path / "others", {**VALIDATION, "guidance_scale": 1.0, "loss": None}), tmp_path / "run")
    assert list(validation_of(run, 4)["videos"].values()) == [MODES[number].caption for number in TRAINING[:2]]
    assert (samples(run, 4) / "001.mp4").is_file()
