"""Promises of `python -m trainers.sample` of a causal student: as its validation showed, block by block, longer than it was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers.exports import finished, wan_config
from tests.support.trainers.shapes_runs import VALIDATION, config, validation_of
from tests.support.trainers.videos import frames, run_sample, same_video
from trainers import export


@pytest.fixture(scope="module")
def run(runs: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = config(
        shapes,
        {
            **VALIDATION,
            "every_steps": 4,
            "loss": None,
            "solver": "sde",
            "timesteps": [1000, 900, 500],
            "num_steps": None,
            "prompts": ["a cross moving down"],
        },
    )
    made["method"] = {"kind": "dfsft"}
    made["models"]["student"] |= {"family": "causal-wan", "num_frames_per_block": 2}
    folder: Path = tmp_path_factory.mktemp("run")
    (folder / "attempts").mkdir()
    (folder / "attempts/0001.config.json").write_text(json.dumps({"train": made}))
    trained: Path = runs.finish(made, folder, world=2)
    return trained


def test_sample_writes_what_validation_showed_and_goes_on_block_by_block(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    """The validation was made by two ranks, over which the network is sharded."""
    words = [run, "--weights", "ema", "--prompt", validation_of(run, 4)["videos"]["000.mp4"]]
    code, _, err = run_sample(capsys, *words, "--to", tmp_path / "short.mp4")
    assert code == 0, err
    assert same_video(tmp_path / "short.mp4", run / "samples/step-00000004/000.mp4")
    code, _, err = run_sample(capsys, *words, "--to", tmp_path / "long.mp4", "--num-frames", 42, "--local-attn-size", 5)
    assert code == 0, err
    assert [line for line in err.splitlines() if " frames (" in line][-1].startswith(f"{tmp_path / 'long.mp4'}: 42 frames")
    assert len(err.splitlines()) == 23  # that it runs on the CPU, which weights, 20 blocks after the first, and what was made
    assert frames(tmp_path / "long.mp4").shape == (42, 64, 64, 3)
    code, _, err = run_sample(capsys, *words, "--to", tmp_path / "x.mp4", "--num-frames", 42, "--local-attn-size", 1)
    assert code == 1 and "does not hold" in err and "at least 2" in err


def test_a_pipeline_exported_from_a_causal_student_is_sampled_as_the_run(
    capsys: pytest.CaptureFixture[str], runs: Any, base: Path, wan_data: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Not by stock diffusers, in which frames would look at later ones; its own VAE decodes block by block."""
    made = wan_config(wan_data, base, family="causal-wan", num_frames_per_block=1) | {"method": {"kind": "dfsft"}}
    (tmp_path / "run").mkdir()
    trained = finished(runs, tmp_path / "run", made)
    assert export.main([str(trained), "--to", str(tmp_path / "made")]) == 0
    assert (tmp_path / "made/model_index.json").is_file()
    words = ["--prompt", "a cat", "--negative", "dull", "--steps", 2, "--num-frames", 13]
    for source, name in ((trained, "run"), (tmp_path / "made", "export")):
        code, _, err = run_sample(capsys, source, *words, "--to", tmp_path / f"{name}.mp4")
        assert code == 0, err
    assert frames(tmp_path / "run.mp4").shape == (13, 64, 64, 3) and same_video(tmp_path / "run.mp4", tmp_path / "export.mp4")
