"""Wan's codec does what WanPipeline does, to the bit, with the folder's own VAE and text encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.clip_files import write_clip, write_merged
from trainers.data.prompt_embeddings import read
from trainers.errors import UserError
from trainers.models.codecs.wan import DEFAULT_NEGATIVE_PROMPT, WanCodec, text_encoder_digest
from trainers.models.loading import tiny_wan
from trainers.preprocessing.clips import Settings
from trainers.preprocessing.video_task import preprocess

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan.build(tmp_path_factory.mktemp("tiny") / "wan")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers import WanPipeline

    return WanPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def codec(folder: Path) -> WanCodec:
    return WanCodec(folder, CPU, torch.float32)


@pytest.mark.parametrize("text", ["a red ball", "", "tom &amp;amp; jerry,\n  twice", "一只猫", "word " * 300])
def test_a_text_is_embedded_as_the_pipeline_does(codec: WanCodec, pipeline: Any, text: str) -> None:
    with torch.no_grad():
        expected = pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512)[0][0]
    found = codec.encode_text(text)
    assert torch.equal(found, expected[: len(found)])
    assert not expected[len(found) :].any()
    assert found.shape[1] == tiny_wan.TEXT_DIM


def test_latents_are_the_posterior_mean_before_any_normalisation(codec: WanCodec, pipeline: Any) -> None:
    frames = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode_video(frames)
    assert latents.shape == (16, 3, 4, 6)
    assert codec.strides == (4, 8, 8)
    with torch.no_grad():
        assert torch.equal(latents, pipeline.vae.encode(frames[None]).latent_dist.mean[0])
        decoded = pipeline.vae.decode(latents[None]).sample[0].clamp(-1, 1)
    assert torch.equal(codec.decode_video(latents), decoded)
    assert decoded.shape == (3, 9, 32, 48)


@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1, 1, 1), (2, 3), (3, 2)], ids=str)
def test_latents_that_come_part_by_part_are_decoded_to_the_same_frames(codec: WanCodec, lengths: tuple[int, ...]) -> None:
    """To the bit, and each part's frames before the next part is asked for."""
    latents = torch.randn(16, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def parts() -> Iterator[torch.Tensor]:
        for part in latents.split(lengths, 1):
            asked.append(part.shape[1])
            yield part

    found = []
    for video in codec.decode_parts(parts()):
        found.append(video)
        assert sum(part.shape[1] for part in found) == 4 * sum(asked) - 3
    assert torch.equal(torch.cat(found, 1), codec.decode_video(latents))


def test_parts_are_loaded_where_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "wan", ignore=shutil.ignore_patterns("vae", "transformer"))
    codec = WanCodec(tmp_path / "wan", CPU, torch.bfloat16, video=False)
    assert codec.encode_text("a").dtype == torch.float32
    codec.free_text()
    with pytest.raises(AssertionError, match="without the text encoder"):
        codec.encode_text("a")
    with pytest.raises(UserError, match=r"has no vae\n.*diffusers' layout"):
        WanCodec(tmp_path / "wan", CPU, torch.float32, text=False)


def test_a_damaged_folder_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "wan")
    weights = next((tmp_path / "wan/vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot load .*wan/vae: .*\n.*damaged"):
        WanCodec(tmp_path / "wan", CPU, torch.float32, text=False)


def test_the_digest_tells_text_encoders_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "same")
    other = tiny_wan.build(tmp_path / "other", seed=1)
    read_bytes: list[int] = []
    assert text_encoder_digest(folder, read_bytes.append) == text_encoder_digest(tmp_path / "same")
    assert text_encoder_digest(folder) != text_encoder_digest(other)
    assert sum(read_bytes) == sum(p.stat().st_size for part in ("tokenizer", "text_encoder") for p in (folder / part).iterdir())


def test_clips_become_samples_of_this_codec(codec: WanCodec, tmp_path: Path) -> None:
    write_clip(write_merged(tmp_path, 2) / "videos/000.mp4", frames=9, size=(48, 40))
    told = preprocess(tmp_path, tmp_path / "out", codec, Settings(5, 32, 16, 8), report=lambda _: None)
    assert told["written"] == 2
    assert json.loads((tmp_path / "out/report.json").read_text()) == told
    found = read(tmp_path / "out/prompts.safetensors")
    assert found.texts == {"empty": "", "negative": DEFAULT_NEGATIVE_PROMPT}
    assert torch.equal(found.negative, codec.encode_text(DEFAULT_NEGATIVE_PROMPT))


class _Broken:
    """Overflows, as a VAE in half precision may."""

    negative_prompt = ""

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        return frames / 0

    def decode_video(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def encode_text(self, text: str) -> torch.Tensor:
        return torch.zeros(1, 2)


def test_latents_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    write_merged(tmp_path, 1)
    with pytest.raises(UserError, match=r"none of 1 entry.*\n.*000.mp4: its latents are not finite"):
        preprocess(tmp_path, tmp_path / "out", _Broken(), Settings(5, 8, 8, 8), report=lambda _: None)
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert json.loads((tmp_path / "out/report.json").read_text())["rejected"] == {"not_finite": 1}
