"""Promises of the tiny Wan and of where models are found: a real pipeline, the same each time, never the network."""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.paths import ROOT
from trainers.errors import UserError
from trainers.models.loading import model_folder, tiny_wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan.build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return load(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face home."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


def load(folder: Path) -> Any:
    from diffusers import WanPipeline

    made = WanPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_stock_diffusers_samples_with_it(pipeline: Any) -> None:
    options: Any = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "output_type": "np"}
    one, other = (pipeline("a cat", **options, generator=torch.Generator().manual_seed(seed)).frames for seed in (0, 1))
    assert one.shape == (1, 9, 32, 32, 3)
    assert (one != other).any()


def test_it_is_small_and_the_same_each_time_but_for_the_seed(folder: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    again, other = tiny_wan.build(tmp_path / "again"), tiny_wan.build(tmp_path / "other", seed=1)
    assert files(again) == files(folder)
    assert (
        files(other)["transformer/diffusion_pytorch_model.safetensors"] != files(folder)["transformer/diffusion_pytorch_model.safetensors"]
    )
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 400_000
    assert torch.get_rng_state().equal(before)


def test_two_experts_have_weights_of_their_own(tmp_path: Path) -> None:
    made = load(tiny_wan.build(tmp_path / "model", experts=2))
    assert made.config.boundary_ratio == 0.875
    assert not made.transformer.proj_out.weight.equal(made.transformer_2.proj_out.weight)


def test_different_prompts_stay_different(pipeline: Any) -> None:
    prompts = ["a cat", "a cap", "A cat", "色调艳丽", "色调艳", "café", "a  cat."]
    ids = [tuple(pipeline.tokenizer(prompt).input_ids) for prompt in prompts]
    assert len(set(ids)) == len(prompts)
    assert pipeline.tokenizer.unk_token_id not in {number for row in ids for number in row}
    assert pipeline.tokenizer.decode(ids[3], skip_special_tokens=True).strip() == "色调艳丽"


def test_its_latents_are_normal_once_normalised_as_wans_are(pipeline: Any) -> None:
    frames = torch.linspace(-1, 1, 9)[None, None, :, None, None]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96), indexing="ij")
    clip = torch.stack([rows * columns, rows, columns.square() - 0.5])[None, :, None] * 0.8 + 0.2 * frames
    with torch.no_grad():
        latents = pipeline.vae.encode(clip).latent_dist.mean
    mean, std = (torch.tensor(getattr(pipeline.vae.config, name)).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    assert latents.shape == (1, 16, 3, 8, 12)
    normalised_std, normalised_mean = torch.std_mean((latents - mean) / std, dim=(0, 2, 3, 4))
    assert normalised_mean.abs().max() < 1.5
    assert normalised_std.min() > 0.4 and normalised_std.max() < 2.5


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert list(tiny_wan.build(tmp_path / "mine").iterdir()) == []


def test_racing_builders_leave_one_whole_model(folder: Path, hub: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(model_folder.resolve, ["tiny-wan"] * 2)
    assert first == second == model_folder.resolve("tiny-wan")
    assert [path.name for path in hub.iterdir()] == [first.name]
    assert files(first).keys() == files(folder).keys()


def test_a_folder_wins_and_a_name_must_be_one(tmp_path: Path) -> None:
    assert model_folder.resolve(str(tmp_path)) == tmp_path
    for wrong in (str(tmp_path / "none"), "no-slash", "a/b/c", "../a", "org/na--me", "org/name\n", ""):
        with pytest.raises(UserError, match="there is no model folder") as caught:
            model_folder.resolve(wrong)
        assert "tiny-wan-a14b" in caught.value.hint


def test_a_hub_id_is_looked_up_in_the_cache_at_its_revision(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    with pytest.raises(UserError, match="model org/name is not in") as caught:
        model_folder.resolve("org/name")
    assert "download it first" in caught.value.hint
    cached = hub / "hub" / "models--org--name"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    assert model_folder.resolve("org/name") == model_folder.resolve("org/name", "a" * 40) == snapshot
    with pytest.raises(UserError, match="at revision v2 is not in"):
        model_folder.resolve("org/name", "v2")


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="tiny-wan cannot be made") as caught:
        model_folder.resolve("tiny-wan")
    assert "HF_HOME" in caught.value.hint


def test_finding_a_model_needs_no_torch() -> None:
    import subprocess

    resolve = f"from trainers.models.loading.model_folder import resolve; resolve({str(Path(__file__).parent)!r})"
    check = f"import sys; {resolve}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
