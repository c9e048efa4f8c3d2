"""Clips to parquet: which frames, which pixels, which bytes, and what becomes of clips that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from torch import Tensor

from trainers.data.preprocess import Rejected, Settings, captions, fit, frame_indices, preprocess, read_clip
from trainers.errors import UserError

SETTINGS = Settings(num_frames=5, height=4, width=8, train_fps=8, rows_per_file=2, duration_tolerance=3)


class PlainCodec:
    """Latents are the pixels, a text is its length."""

    negative_prompt = "bad"

    def encode_video(self, frames: Tensor) -> Tensor:
        return frames

    def encode_text(self, text: str) -> Tensor:
        return torch.full((2, 3), float(len(text)))


def write_clip(path: Path, frames: int = 5, rate: int = 8, size: tuple[int, int] = (16, 32), codec: str = "libx264") -> None:
    """Frame i is grey 40 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            image = np.full((*size, 3), 40 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def run(folder: Path, names: dict[str, str], settings: Settings = SETTINGS) -> dict[str, Any]:
    (folder / "videos2caption.json").write_text(json.dumps([{"path": p, "cap": c} for p, c in names.items()]))
    done: list[int] = []
    summary = preprocess(folder, folder / "out", PlainCodec(), settings, report=done.append)
    assert done == list(range(1, len(names) + 1))
    assert json.loads((folder / "out" / "report.json").read_text()) == summary
    return summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return tmp_path


def test_frames_are_taken_at_the_training_rate() -> None:
    assert frame_indices(8, 30, 16) == [0, 1, 3, 5, 7, 9, 11, 13]  # k * 1.875, rounded down
    assert frame_indices(4, 8, 8) == [0, 1, 2, 3]
    assert frame_indices(5, 8, 16) == [0, 0, 1, 1, 2]
    assert frame_indices(6, 24, 16) == np.arange(0, 8, 24 / 16).astype(int).tolist()


def test_a_whole_number_reduction_averages() -> None:
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    image[0, 0], image[2:, 2:] = 255, 255
    scaled = fit(image, 2, 2)
    assert scaled.shape == (3, 2, 2)
    torch.testing.assert_close(scaled[0], torch.tensor([[-0.5, -1.0], [-1.0, 1.0]]))


def test_the_centre_is_kept_when_the_aspect_ratio_differs() -> None:
    image = torch.zeros(2, 6, 3, dtype=torch.uint8)
    image[:, 2:4] = 255  # the middle square of a strip
    torch.testing.assert_close(fit(image, 2, 2), torch.ones(3, 2, 2))
    torch.testing.assert_close(fit(image.transpose(0, 1), 2, 2), torch.ones(3, 2, 2))


def test_any_size_is_scaled_to_the_wanted_one() -> None:
    for size in [(7, 11), (3, 3), (100, 9)]:
        scaled = fit(torch.full((*size, 3), 255, dtype=torch.uint8), 4, 8)
        torch.testing.assert_close(scaled, torch.ones(3, 4, 8))


def test_a_clip_is_resampled_scaled_and_normalised(folder: Path) -> None:
    write_clip(folder / "videos/a.mp4", frames=10, rate=16)
    clip = read_clip(folder / "videos/a.mp4", SETTINGS)
    assert clip.frames.shape == (3, 5, 4, 8)
    # every second frame: grey 0, 80, 160, 240, 320 - 256
    expected = torch.tensor([0, 80, 160, 240, 64]) / 127.5 - 1
    torch.testing.assert_close(clip.frames.mean((0, 2, 3)), expected, atol=0.02, rtol=0)
    assert (clip.width, clip.height, clip.fps, clip.duration_s) == (32, 16, 16, 10 / 16)


def test_the_file_is_the_t2v_schema_one_sample_a_row_group(folder: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_clip(folder / "videos" / name)
    run(folder, {"a.mp4": "one", "b.mp4": "three", "c.mp4": "seven"})
    parts = sorted((folder / "out").rglob("*"))
    assert [str(p.relative_to(folder / "out")) for p in parts if p.is_file()] == [
        "combined_parquet_dataset/worker_0/part-00000.parquet",
        "combined_parquet_dataset/worker_0/part-00001.parquet",
        "prompts.safetensors",
        "report.json",
    ]
    file = pq.ParquetFile(folder / "out/combined_parquet_dataset/worker_0/part-00000.parquet")
    assert [(f.name, str(f.type)) for f in file.schema_arrow] == [
        ("id", "string"),
        ("vae_latent_bytes", "binary"),
        ("vae_latent_shape", "list<element: int64>"),
        ("vae_latent_dtype", "string"),
        ("text_embedding_bytes", "binary"),
        ("text_embedding_shape", "list<element: int64>"),
        ("text_embedding_dtype", "string"),
        ("file_name", "string"),
        ("caption", "string"),
        ("media_type", "string"),
        ("width", "int64"),
        ("height", "int64"),
        ("num_frames", "int64"),
        ("duration_sec", "double"),
        ("fps", "double"),
    ]
    assert file.metadata.num_rows == file.metadata.num_row_groups == 2
    assert file.metadata.row_group(0).column(1).compression == "ZSTD"
    row = file.read_row_group(1).to_pylist()[0]
    assert np.frombuffer(row.pop("text_embedding_bytes"), "<f4").tolist() == [5] * 6
    latents = np.frombuffer(row.pop("vae_latent_bytes"), "<f4").reshape(3, 5, 4, 8)
    np.testing.assert_array_equal(latents, read_clip(folder / "videos/b.mp4", SETTINGS).frames)
    assert row == {
        "id": "b",
        "vae_latent_shape": [3, 5, 4, 8],
        "vae_latent_dtype": "float32",
        "text_embedding_shape": [2, 3],
        "text_embedding_dtype": "float32",
        "file_name": "b.mp4",
        "caption": "three",
        "media_type": "video",
        "width": 32,
        "height": 16,
        "num_frames": 5,
        "duration_sec": 5 / 8,
        "fps": 8.0,
    }


def test_prompts_are_written_beside_the_samples(folder: Path) -> None:
    write_clip(folder / "videos/a.mp4")
    run(folder, {"a.mp4": "one"})
    found = safetensors.torch.load_file(folder / "out/prompts.safetensors")
    assert {name: values.tolist() for name, values in found.items()} == {"empty": [[0.0] * 3] * 2, "negative": [[3.0] * 3] * 2}


def test_clips_that_cannot_be_used_are_counted_and_named(folder: Path) -> None:
    videos = folder / "videos"
    write_clip(videos / "good.mp4")
    (videos / "garbage.mp4").write_bytes(b"no video at all" * 100)
    (videos / "empty.mp4").touch()
    (videos / "folder.mp4").mkdir()
    (videos / "cut.mp4").write_bytes((videos / "good.mp4").read_bytes()[:-300])
    write_clip(videos / "short.mp4", frames=4)
    write_clip(videos / "long.mp4", frames=16)
    names = ["good.mp4", "garbage.mp4", "empty.mp4", "folder.mp4", "cut.mp4", "missing.mp4", "short.mp4", "long.mp4"]
    summary = run(folder, {**dict.fromkeys(names, "x"), "./good.mp4": " "})
    assert (summary["clips"], summary["written"]) == (9, 1)
    assert summary["rejected"] == {"no_caption": 1, "too_long": 1, "too_short": 1, "unreadable": 5}
    told = {p["path"]: p["text"] for p in summary["problems"]}
    assert told["short.mp4"] == "4 frames at 8 fps, 5 are needed"
    assert told["long.mp4"] == "2.00 s, at most 1.88 s are used"
    assert set(told) == {*names[1:], "./good.mp4"}


def test_a_container_that_does_not_say_how_many_frames_it_has_is_read_to_its_end(folder: Path) -> None:
    write_clip(folder / "videos/a.mkv", frames=5, codec="mpeg4")
    assert read_clip(folder / "videos/a.mkv", SETTINGS).frames.shape[1] == 5
    write_clip(folder / "videos/b.mkv", frames=4, codec="mpeg4")
    with pytest.raises(Rejected, match="ends before frame 4"):
        read_clip(folder / "videos/b.mkv", SETTINGS)


def test_no_usable_clip_is_an_error_that_tells_the_first_reason(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none of 1 clips.*\n.*nowhere.mp4"):
        run(folder, {"nowhere.mp4": "x"})


def test_a_preprocessing_that_dies_leaves_no_half_file(folder: Path) -> None:
    class Dies(PlainCodec):
        def encode_text(self, text: str) -> Tensor:
            if text == "b":
                raise RuntimeError("killed")
            return super().encode_text(text)

    for name in ("a.mp4", "b.mp4"):
        write_clip(folder / "videos" / name)
    (folder / "videos2caption.json").write_text('[{"path": "a.mp4", "cap": "a"}, {"path": "b.mp4", "cap": "b"}]')
    with pytest.raises(RuntimeError, match="killed"):
        preprocess(folder, folder / "out", Dies(), SETTINGS, report=lambda _: None)
    assert [p for p in (folder / "out").rglob("*") if p.is_file()] == []


def test_a_list_of_captions_gives_its_first(folder: Path) -> None:
    (folder / "videos2caption.json").write_text('[{"path": "a.mp4", "cap": ["one", "two"]}]')
    assert captions(folder) == [("a.mp4", "one")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a list"),
        ("[1]", "entry 0 has no path"),
        ('[{"path": "a.mp4"}]', "entry 0 has no path or no cap"),
        ('[{"path": "a.mp4", "cap": []}]', "entry 0"),
        ("[", "is not JSON"),
        (None, "cannot read"),
    ],
)
def test_a_bad_list_of_clips_is_one_clear_error(folder: Path, text: str | None, message: str) -> None:
    if text is not None:
        (folder / "videos2caption.json").write_text(text)
    with pytest.raises(UserError, match=message):
        captions(folder)
