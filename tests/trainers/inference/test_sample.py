"""Promises of `python -m trainers.sample`: a run and its exports give the same video, and what cannot be sampled is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.small_disk import small_disk
from tests.support.trainers.shapes_runs import VALIDATION, config
from tests.support.trainers.videos import frames, run_sample, same_video
from trainers import export
from trainers.models.loading.tiny_wan import build


@pytest.fixture(scope="module")
def run(runs: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "attempts").mkdir()
    made = config(shapes, {**VALIDATION, "videos": False, "loss": None})
    (folder / "attempts/0001.config.json").write_text(json.dumps({"train": made}))
    finished: Path = runs.finish(made, folder)
    return finished


def test_a_run_is_sampled_as_its_seed_says(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, out, err = run_sample(capsys, run, "--prompt", "a cross moving down", "--seed", seed, "--to", tmp_path / f"{name}.mp4")
        assert (code, out) == (0, f"{tmp_path / name}.mp4\n"), err
    assert frames(tmp_path / "a.mp4").shape == (5, 64, 64, 3)
    assert same_video(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert not same_video(tmp_path / "a.mp4", tmp_path / "c.mp4")


def test_its_export_gives_the_same_video(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    assert export.main([str(run), "--to", str(tmp_path / "made"), "--weights", "ema"]) == 0
    for source, words, name in ((run, ["--weights", "ema"], "run"), (tmp_path / "made", [], "export")):
        assert run_sample(capsys, source, *words, "--prompt", "a cross moving down", "--to", tmp_path / f"{name}.mp4")[0] == 0
    assert same_video(tmp_path / "run.mp4", tmp_path / "export.mp4")


def test_a_file_of_prompts_gives_a_folder_with_a_sheet(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cross moving down\n\na square moving right\n")
    words = ["--prompts", tmp_path / "prompts.txt", "--num-videos", 2, "--steps", 2, "--guidance", 1, "--to", tmp_path / "out"]
    code, out, _ = run_sample(capsys, run, *words)
    assert code == 0
    assert out.split() == [str(tmp_path / "out" / f"{n:03d}.mp4") for n in range(4)]
    assert (tmp_path / "out/sheet.png").stat().st_size > 100


def test_a_full_disk_is_one_error_and_leaves_no_half_video(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kb=64) as disk:
        disk.fill()
        code, out, err = run_sample(capsys, run, "--prompt", "a cross moving down", "--to", disk.path / "x.mp4")
        assert (code, out) == (1, "") and err.count("error: ") == 1 and "no space left" in err and "Traceback" not in err, err
        assert [path.name for path in disk.path.iterdir()] == [".filler"]
        disk.empty()
        assert run_sample(capsys, run, "--prompt", "a cross moving down", "--to", disk.path / "x.mp4")[0] == 0


def test_a_pipelines_folder_goes_through_stock_diffusers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from diffusers import WanPipeline

    folder = build(tmp_path / "wan")
    words = ["--steps", 2, "--guidance", 3, "--num-frames", 5, "--height", 32, "--width", 32, "--seed", 5]
    code, _, err = run_sample(capsys, folder, "--prompt", "a cat", *words, "--to", tmp_path / "x.mp4")
    assert code == 0, err
    words = ["--height", 33, "--width", 50, "--num-frames", 10, "--to", tmp_path / "out/x.mp4"]
    code, out, err = run_sample(capsys, folder, "--prompt", "a cat", *words)
    assert (code, out) == (1, "") and "Traceback" not in err and err.count("error:") == 1 and not (tmp_path / "out").exists()
    assert "10 frames are not 1 + a multiple of" in err and "height: 33 is not a multiple of 16" in err and "width: 50" in err
    assert "use 9 or 13" in err and "use 32 or 48" in err
    pipe = WanPipeline.from_pretrained(folder)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "num_frames": 5, "height": 32, "width": 32, "output_type": "np"}
    theirs = pipe("a cat", generator=torch.Generator().manual_seed(5), **options).frames[0]
    shown = frames(tmp_path / "x.mp4")[:, ::2, ::2]  # it was enlarged
    assert np.abs(shown.mean((1, 2)) - 255 * theirs.mean((1, 2))).max() < 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no prompt"),
        (["--prompt", "a circle"], "no word 'circle'"),
        (["--prompt", "a", "--prompt", "a", "--to", "x.mp4"], "2 videos do not fit into"),
        (["--prompts", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--prompt", "a", "--step", "9"], "no checkpoint of step 9"),
        (["--prompt", "a", "--guidance", "-1"], "--guidance: '-1' is not a number of 0 or more"),
        (["--prompt", "a", "--guidance", "nan"], "--guidance: 'nan'"),
        (["--prompt", "a", "--width", "9"], "width: 9 is not a multiple of"),
        (["--prompt", "a", "--width", "9", "--height", "6"], "height: 6 is not a multiple of 4 (VAE stride 2 x patch 2); width: 9 is not"),
        (["--prompt", "a", "--steps", "0"], "--steps: 0 is not 1 or more"),
        (["--prompt", "a", "--num-videos", "-2"], "--num-videos: -2 is not 1 or more"),
        (["--prompt", "a", "--fps", "2.5"], "--fps: '2.5' is not a whole number"),
        (["--prompt", "a", "--seed", "-1"], "--seed: -1 is not 0 or more"),
        (["--prompt", "a", "--timesteps", "1000,x"], "--timesteps: '1000,x' is not a list of timesteps"),
        (["--prompt", "a", "--solver", "ddim"], "--solver: invalid choice: 'ddim'"),
        (["--prompt", "a", "--to", "x.GIF"], "x.GIF: videos are written as .mp4, not as .GIF"),
        (["--prompt", "a", "--to", "deep/x.webm"], "deep/x.webm: videos are written as .mp4"),
        (["--prompt", "a", "--prompt", "a", "--to", "x.MP4"], "2 videos do not fit into x.MP4"),
    ],
)
def test_what_cannot_be_sampled_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_sample(capsys, run, *words)
    assert (code, out) == (1, "") and said in err and "Traceback" not in err and err.count("error:") == 1
    if said != "no word 'circle'":  # known only to the codec
        asked = run_sample(capsys, run, *words, "--check-only", "all")
        assert asked[:2] == (code, out) and asked[2] == err[err.index("error:") :], "what a launcher is told before it queues a job"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--steps", 2, "--weights", "ema"), ("--step", 4, "--width", 32)])
def test_what_can_be_sampled_passes_the_check_and_nothing_is_made(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    asked = run_sample(capsys, run, "--prompt", "a cross moving down", *words, "--to", tmp_path / "x.mp4", "--check-only", "all")
    assert asked == (0, "", "") and not list(tmp_path.iterdir())


def test_the_check_of_options_alone_reads_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [tmp_path / "in a container", "--prompts", "there.txt", "--check-only", "options"]
    assert run_sample(capsys, *words) == (0, "", "")
    assert "--steps: 0 is not 1 or more" in run_sample(capsys, *words, "--steps", 0)[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_a_gpu_that_was_given_and_is_not_there_is_an_error_for_runs_and_for_stock_pipelines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRAINER_GPUS", "1")
    sizes = ["--num-frames", 5, "--height", 32, "--width", 32]
    for source, words in ((run, []), (build(tmp_path / "wan"), sizes)):
        code, out, err = run_sample(capsys, source, "--prompt", "a cross moving down", *words, "--to", tmp_path / "x.mp4")
        assert (code, out) == (1, "") and "error: 1 GPU was given to this node's ranks, and torch" in err and "Traceback" not in err
        assert not (tmp_path / "x.mp4").exists()


def test_a_suffix_in_capitals_is_a_file_and_a_folder_may_have_a_point(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.gif").mkdir()
    for to, made in (("x.MP4", "x.MP4"), ("wan2.1", "wan2.1/000.mp4"), ("old.gif", "old.gif/000.mp4")):
        code, _, err = run_sample(capsys, run, "--prompt", "a cross moving down", "--steps", 1, "--to", tmp_path / to)
        assert code == 0 and frames(tmp_path / made).shape == (5, 64, 64, 3), err
    code, _, err = run_sample(capsys, run, "--prompt", "a", "--to", tmp_path / "x.MP4/deep/y.mp4")
    assert code == 1 and "x.MP4 is a file" in err


def test_an_adapters_folder_is_asked_for_the_sizes_of_its_base(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "wan/vae").mkdir(parents=True)
    (tmp_path / "wan/vae/config.json").write_text(json.dumps({"temperal_downsample": [True, True, True], "dim_mult": [1, 2, 4, 4]}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/pytorch_lora_weights.safetensors").touch()
    words = ["--prompt", "a cat", "--model", tmp_path / "wan", "--num-frames", 5, "--height", 8, "--to", tmp_path / "out/x.mp4"]
    code, out, err = run_sample(capsys, tmp_path / "adapter", *words)
    assert (code, out) == (1, "") and "5 frames are not 1 + a multiple of the VAE's time stride 8" in err
    assert "use 1 or 9" in err and "height: use 16" in err and not (tmp_path / "out").exists()


def test_a_folder_that_is_neither_is_refused_and_nothing_overwritten(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, _, err = run_sample(capsys, tmp_path, "--prompt", "a", "--to", tmp_path / "x.mp4")
    assert code == 1 and "is neither a run nor a folder that can be sampled" in err
    (tmp_path / "there.mp4").write_text("")
    code, _, err = run_sample(capsys, run, "--prompt", "a", "--to", tmp_path / "there.mp4")
    assert code == 1 and "exists already" in err


def test_an_adapters_folder_is_sampled_on_its_base(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, made = build(tmp_path / "wan"), tmp_path / "adapter"
    made.mkdir()
    layer = "transformer.blocks.0.attn1.to_q"
    random = torch.Generator().manual_seed(0)
    tensors = {f"{layer}.lora_{side}.weight": torch.randn(shape, generator=random) for side, shape in (("A", (2, 24)), ("B", (24, 2)))}
    safetensors.torch.save_file(tensors, made / "pytorch_lora_weights.safetensors")
    words = ["--prompt", "a cat", "--steps", 2, "--num-frames", 5, "--height", 32, "--width", 32]
    code, _, err = run_sample(capsys, made, *words, "--to", tmp_path / "x.mp4")
    assert code == 1 and "--model names its base" in err
    for name, source in (("with", made), ("without", base)):
        assert run_sample(capsys, source, *words, "--model", base, "--to", tmp_path / f"{name}.mp4")[0] == 0
    assert (tmp_path / "with.mp4").read_bytes() != (tmp_path / "without.mp4").read_bytes()
