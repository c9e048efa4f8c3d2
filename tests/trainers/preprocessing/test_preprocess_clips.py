"""One video file to frames: which of them, which pixels, and what becomes of files that cannot be used."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.support.paths import ROOT
from tests.support.rows import Figures, fault
from tests.support.trainers.clip_files import write_clip, write_sound
from trainers.preprocessing.clips import Settings, fit, read_clip
from trainers.preprocessing.decode_workers import Decoders
from trainers.preprocessing.frame_times import frame_indices
from trainers.sources.entries import Rejected

SETTINGS = Settings(num_frames=5, height=4, width=8, train_fps=8, duration_tolerance=3)


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


def test_a_container_that_does_not_say_how_many_frames_it_has_is_read_to_its_end(folder: Path) -> None:
    write_clip(folder / "videos/a.mkv", frames=5, codec="mpeg4")
    assert read_clip(folder / "videos/a.mkv", SETTINGS).frames.shape[1] == 5
    write_clip(folder / "videos/b.mkv", frames=4, codec="mpeg4")
    with pytest.raises(Rejected, match="4 frames at 8 fps, 5 are needed"):
        read_clip(folder / "videos/b.mkv", SETTINGS)


def test_a_stretch_at_random_lies_inside_the_clip(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "mpeg4")):  # one says how many frames it has, the other does not
        path = write_clip(tmp_path / name, frames=10, rate=16, codec=codec)
        first = []
        for start in (0.0, 0.4, 0.6, 0.99):
            clip = read_clip(path, Settings(num_frames=3, height=4, width=8, train_fps=8), start)
            grey = ((clip.frames.mean((0, 2, 3)) + 1) * 127.5).tolist()
            first.append(round(grey[0] / 80))
            # every second frame, each 80 greyer
            assert [round(g / 80) for g in grey] == [first[-1], first[-1] + 1, (first[-1] + 2) if first[-1] < 2 else 1]
        assert first == [0, 1, 1, 2]  # frames 0, 2, 4, 6, 8 are there: 3 places to begin


def test_a_file_is_read_from_memory_too(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    assert torch.equal(read_clip(path.read_bytes(), SETTINGS).frames, read_clip(path, SETTINGS).frames)


def _turned(path: Path) -> Path:
    """A clip 32 wide and 16 high, whose container says that it is to be shown a quarter turned to the right, as a phone's."""
    write_corners(path)
    content, upright = path.read_bytes(), struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    quarter = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 16 * 65536, 0, 1 << 30)
    path.write_bytes(content[:at] + quarter + content[at + len(upright) :])
    return path


def write_corners(path: Path) -> Path:
    """The upper left quarter is white, the rest black."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 16, 32, "yuv420p"
        image = np.zeros((16, 32, 3), np.uint8)
        image[:8, :16] = 255
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_phones_clip_is_turned_upright(tmp_path: Path) -> None:
    clip = read_clip(_turned(tmp_path / "turned.mp4"), Settings(5, 32, 16, 8))
    assert (clip.height, clip.width, clip.kept) == (32, 16, 1.0)
    assert clip.frames[:, :, 4, 12].min() > 0.9  # the upper right quarter now
    assert max(clip.frames[:, :, 28, 12].max(), clip.frames[:, :, 4, 4].max(), clip.frames[:, :, 28, 4].max()) < -0.9


def test_files_that_hold_no_clip_are_rejected_with_the_reason(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mp4").read_bytes()
    cases = {
        "unreadable": [b"", b"no video at all" * 100, good[: len(good) // 2], write_sound(tmp_path / "sound.mp4"), tmp_path / "absent.mp4"],
        "too_long": [write_clip(tmp_path / "long.mp4", frames=16)],
        "too_short": [write_clip(tmp_path / "short.mp4", frames=4)],
    }
    for reason, videos in cases.items():
        for video in videos:
            with pytest.raises(Rejected) as rejected:
                read_clip(video, SETTINGS)
            assert rejected.value.reason == reason, video


@fault("H7", "videos with flipped bytes")
def test_a_thousand_damaged_files_are_read_or_rejected(tmp_path: Path, figure: Figures) -> None:
    good, random = write_clip(tmp_path / "good.mp4").read_bytes(), np.random.RandomState(0)
    outcomes = set()
    for _ in range(1000):
        damaged = bytearray(good)
        for place in random.randint(0, len(good), random.randint(1, 30)):
            damaged[place] = random.randint(256)
        try:
            outcomes.add(read_clip(bytes(damaged), SETTINGS).frames.shape)
        except Rejected as rejected:
            outcomes.add(rejected.reason)
    assert {torch.Size([3, 5, 4, 8]), "unreadable"} <= outcomes
    figure.count("read or rejected", 1000, 1000)


@fault("H7", "clips of every container, damaged in every way, through the decoder processes")
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_damaged_clips_of_every_container_end_no_decoder_and_hold_none_up(tmp_path: Path, count: int, figure: Figures) -> None:
    words = [sys.executable, "-m", "tests.support.trainers.damaged_media", str(count), "1", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not found["wrong"], found["wrong"][:5]
    figure.count("clips decoded or rejected", sum(found["outcomes"].values()), count)


class _Deadly:
    """Ends the process that receives it."""

    def __reduce__(self) -> object:
        import os

        return os._exit, (9,)


class _Slow:
    """Keeps the process that receives it."""

    def __reduce__(self) -> object:
        import time

        return time.sleep, (600,)


def test_decoders_survive_what_their_files_do_and_keep_the_order(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mp4")
    decoders = Decoders(1, SETTINGS, limit_s=60, method="forkserver")  # has torch already
    try:
        jobs = [(good, 0.0), Rejected("listed", "as it was"), (b"garbage", 0.0), (_Deadly(), 0.0), (good.read_bytes(), 0.0)]
        found = [clip.reason if isinstance(clip, Rejected) else clip for clip in decoders.clips(jobs)]  # type: ignore[arg-type]
        assert found[1:4] == ["listed", "unreadable", "crashes"]
        for index in (0, 4):
            assert torch.equal(found[index].frames, read_clip(good, SETTINGS).frames)  # type: ignore[union-attr]
        decoders._limit_s, ticks = 0.1, list[int]()
        slow = list(decoders.clips([(_Slow(), 0.0)], lambda: ticks.append(1)))  # type: ignore[list-item]
        assert [clip.reason for clip in slow if isinstance(clip, Rejected)] == ["too_slow"]
        assert ticks
    finally:
        decoders.close()
