"""Promises of a teacher's cached trajectories: they are its ODE with guidance, made once by whichever ranks, and never another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.small_disk import small_disk
from tests.support.trainers.distilled import kd, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import losses
from trainers.config import TrainConfig, check
from trainers.config.trajectory_metadata import teacher_digest
from trainers.data.parquet_schema import decode_array
from trainers.data.prompt_embeddings import read as read_prompts
from trainers.seeding import derived_seed

SAMPLES, SHIFT, STEPS = 11, 5.0, 6
Made = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompted_data(tmp_path_factory.mktemp("prompted"), SAMPLES)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def whole(runs: Any, prompted: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with cache/."""
    run = tmp_path_factory.mktemp("run")
    runs.finish(kd(prompted, teacher, run / "cache", max_steps=2), run)
    return run


def files(cache: Path) -> list[Path]:
    return sorted((cache / "samples").iterdir())


def read(path: Path) -> Made:
    (row,) = pq.read_table(path).to_pylist()
    names = ("trajectory_latents", "trajectory_timesteps", "text_embedding")
    return {name: decode_array(*(row[f"{name}_{part}"] for part in ("bytes", "shape", "dtype"))) for name in names}


def test_a_trajectory_is_the_teachers_ode_with_guidance(whole: Path, prompted: Path, teacher: Path) -> None:
    """Euler by the formulas of trainers/methods/README.md section 8, with the network as stock diffusers loads it."""
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel.from_pretrained(teacher / "transformer").eval()
    rows = pq.read_table(prompted / "part-00000.parquet").to_pylist()
    actual = read(files(whole / "cache")[7])
    text = decode_array(*(rows[7][f"text_embedding_{part}"] for part in ("bytes", "shape", "dtype")))
    assert np.array_equal(actual["text_embedding"], text)
    grid = [SHIFT * k / (1000 + (SHIFT - 1) * k) for k in range(1, 1001)]
    timesteps = [int(1000 * SHIFT * u / (1 + (SHIFT - 1) * u)) for u in (1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    assert timesteps == [1000, 961, 909, 833, 714, 500]
    sigmas = [min(grid, key=lambda s, t=t: abs(1000 * s - t)) for t in timesteps] + [0.0]
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(derived_seed("trajectory", 7))).double()
    states, prompts = {}, (torch.from_numpy(text.copy()), read_prompts(prompted / "prompts.safetensors").negative)
    for t, sigma, then in zip(timesteps, sigmas, sigmas[1:], strict=False):
        states[t], both = x, []
        for prompt in prompts:
            padded = torch.zeros(1, 6, 16)
            padded[0, : len(prompt)] = prompt
            with torch.no_grad():
                made = network(x.float().transpose(0, 1)[None], torch.tensor([float(t)]), padded, return_dict=False)[0]
            both.append(made[0].transpose(0, 1).double())
        velocity = both[1] + 2.0 * (both[0] - both[1])
        x0 = x - sigma * velocity
        eps = (x - (1 - sigma) * x0) / sigma
        x = (1 - then) * x0 + then * eps
    assert actual["trajectory_timesteps"].tolist() == [1000, 833, 0]
    for stored, expected in zip(actual["trajectory_latents"], (states[1000], states[833], x), strict=True):
        np.testing.assert_allclose(stored, expected.numpy(), rtol=1e-3, atol=1e-3)  # half precision on the disk


def test_a_cache_tells_what_it_is_of_and_is_complete(whole: Path, teacher: Path) -> None:
    actual = json.loads((whole / "cache/metadata.json").read_text())
    assert actual["teacher"] == teacher_digest(teacher) and str(teacher) not in json.dumps(actual["teacher_name"])
    expected = {"flow_shift": SHIFT, "trajectory_steps": STEPS, "teacher_guidance_scale": 2.0, "timesteps": [1000, 833], "total": SAMPLES}
    assert expected.items() <= actual.items()
    assert (whole / "cache/COMPLETE").is_file()
    assert [path.name for path in files(whole / "cache")] == [f"{n:08d}.parquet" for n in range(SAMPLES)]


def test_any_ranks_make_the_same_trajectories(runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path) -> None:
    config = kd(prompted, teacher, tmp_path / "cache", max_steps=2, method__teacher_batch_size=1)
    run = runs.finish(config, tmp_path / "run", world=2)
    for ours, theirs in zip(files(tmp_path / "cache"), files(whole / "cache"), strict=True):
        assert ours.name == theirs.name
        for name, values in read(theirs).items():
            np.testing.assert_allclose(read(ours)[name], values, rtol=0, atol=2e-3)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)


def test_a_cache_that_was_cut_short_goes_on_at_the_sample(runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    started = runs.start(kd(prompted, teacher, cache, max_steps=2, method__teacher_batch_size=1), tmp_path / "run", hold_at=("caching", 2))
    started.wait_held()
    started.notice()
    assert started.join() == [75]
    assert len(list((cache / "samples").glob("0*"))) == 2
    assert any(m.get("phase") == "caching" for m in started.sent()) and not (cache / "COMPLETE").exists()
    # half of another cache, with a torn file of a rank that died
    shutil.copytree(whole / "cache", tmp_path / "half")
    (tmp_path / "half/COMPLETE").unlink()
    for path in files(tmp_path / "half")[4:]:
        path.unlink()
    (tmp_path / "half/samples/.00000004.0a.parquet").write_bytes(b"PAR1 torn")
    before = [path.stat().st_mtime_ns for path in files(tmp_path / "half") if path.suffix == ".parquet" and path.name[0] != "."]
    run = runs.finish(kd(prompted, teacher, tmp_path / "half", max_steps=2), tmp_path / "again")
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "half/samples").glob("0*"))[:4]] == before
    assert losses(run) == losses(whole)


def test_a_complete_cache_needs_neither_teacher_nor_prompts(runs: Any, whole: Path, tmp_path: Path) -> None:
    without = kd(tmp_path / "gone", None, whole / "cache", max_steps=2)
    assert check(TrainConfig.model_validate(without), 1) == []
    assert losses(runs.finish(without, tmp_path / "run")) == losses(whole)


def test_more_trajectories_than_prompts_are_of_other_noise(runs: Any, prompted: Path, teacher: Path, tmp_path: Path) -> None:
    runs.finish(kd(prompted, teacher, tmp_path / "cache", max_steps=1, method__num_trajectories=SAMPLES + 1), tmp_path / "run")
    first, again = (read(files(tmp_path / "cache")[n]) for n in (0, SAMPLES))
    assert np.array_equal(first["text_embedding"], again["text_embedding"])
    assert not np.array_equal(first["trajectory_latents"], again["trajectory_latents"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": "another"}, "teacher "),
        ({"flow_shift": 5.5, "method__t_list": [1000, 846, 0]}, "flow_shift 5.0, not 5.5"),
        ({"method__trajectory_steps": 12}, "trajectory_steps 6, not 12"),
        ({"method__teacher_guidance_scale": 3.0}, "teacher_guidance_scale 2.0, not 3.0"),
        ({"method__t_list": [1000, 714, 0]}, "states at timesteps [1000, 833], not at 714"),
        ({"method__num_trajectories": 3}, "total 11, not 3"),
        ({"data__num_frames": 3}, "latents [2, 4, 4], not [3, 4, 4]"),
    ],
)
def test_a_cache_made_otherwise_is_refused_at_submission_and_by_the_ranks(
    runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    if change.get("models") == "another":
        other = write_teacher(tmp_path / "other", seed=1)
        config = kd(prompted, other, whole / "cache")
    else:
        config = kd(prompted, teacher, whole / "cache", **change)
    made = TrainConfig.model_validate(config)
    assert check(made, 1) == []
    (problem,) = made.method.missing_inputs(made)
    assert problem.path == ("method", "cache") and said in problem.message and problem.hint
    if said == "teacher ":  # the others go the same way
        started = runs.start(config, tmp_path / "run")
        assert started.join() == [76]
        assert "were made otherwise: teacher " in started.log() and "Traceback" not in started.log()


def test_a_cache_that_nobody_can_finish_is_told(runs: Any, prompted: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "cache", tmp_path / "part")
    (tmp_path / "part/COMPLETE").unlink()
    files(tmp_path / "part")[3].unlink()
    for name, said in (("part", "10 of 11 trajectories"), ("none", "nothing")):
        made = TrainConfig.model_validate(kd(prompted, None, tmp_path / name))
        (problem,) = made.method.missing_inputs(made)
        assert problem.path == ("models",) and said in problem.message and "models.teacher" in problem.hint
    started = runs.start(kd(prompted, None, tmp_path / "part"), tmp_path / "run")
    assert started.join() == [76]
    assert "no teacher to make the rest" in started.log() and "Traceback" not in started.log()


def test_a_digest_tells_weights_apart_and_not_places(teacher: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    assert teacher_digest(moved) == teacher_digest(teacher) == teacher_digest(moved / "transformer")
    file = moved / "transformer/diffusion_pytorch_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    assert teacher_digest(moved) != teacher_digest(teacher)


def test_a_full_disk_is_one_error_leaves_no_half_trajectory_and_the_next_start_goes_on(
    runs: Any, prompted: Path, teacher: Path, whole: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", kb=256) as disk:
        made = kd(prompted, teacher, disk.path / "cache", max_steps=2)
        disk.fill(leave=49152)
        attempt = runs.start(made, tmp_path / "run")
        assert attempt.join() == [76]
        log = attempt.log()
        assert log.count("error: ") == 1 and "No space left on device" in log and "make room, then resume" in log and "Traceback" not in log
        some = [path.name for path in files(disk.path / "cache")]
        assert some and not [name for name in some if name.startswith(".")]
        disk.empty()
        runs.finish(made, tmp_path / "run", attempt=2)
        assert losses(tmp_path / "run") == losses(whole)
