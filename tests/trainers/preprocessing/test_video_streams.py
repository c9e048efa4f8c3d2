"""Which stream of a file is its video."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trainers.ffmpeg_program import differs, ffmpeg
from trainers.preprocessing.clips import Settings, read_clip
from trainers.sources.entries import Rejected

SMALL, LARGE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=16:d=0.5"), ("-f", "lavfi", "-i", "testsrc=s=96x64:r=16:d=0.5")
SOUND = ("-f", "lavfi", "-i", "sine=d=0.5")
H264 = ("-c:v", "libx264", "-preset", "ultrafast")
LATE = 0.001


@pytest.fixture(scope="module")
def cover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cover") / "cover.jpg"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=300x300", "-frames:v", 1, path)
    return path


def _width(path: Path) -> int:
    return read_clip(path, Settings(5, 48, 64, 16)).width


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_the_default_stream_is_read(suffix: str, tmp_path: Path) -> None:
    widths = {}
    for name, first, second in (("first", "default", "0"), ("second", "0", "default"), ("both", "default", "default")):
        path = tmp_path / f"{name}.{suffix}"
        ffmpeg(*SMALL, *LARGE, "-map", 0, "-map", 1, *H264, "-disposition:v:0", first, "-disposition:v:1", second, path)
        assert differs(path, 5, tick_s=LATE) == ""
        widths[name] = _width(path)
    assert widths == {"first": 64, "second": 96, "both": 96}  # of two the larger, as ffmpeg chooses


def test_a_stream_larger_than_the_default_one_is_not_read(tmp_path: Path, cover: Path) -> None:
    ffmpeg("-i", cover, *SMALL, "-map", 0, "-map", 1, "-c:v:0", "copy", *H264[2:], "-c:v:1", "libx264", "-disposition:v:0", 0,
           "-disposition:v:1", "default", tmp_path / "a.mkv")  # fmt: skip
    assert _width(tmp_path / "a.mkv") == 64


def test_a_cover_is_never_read(tmp_path: Path, cover: Path) -> None:
    first, last, attached = (tmp_path / name for name in ("first.mp4", "last.mp4", "attached.mkv"))
    attach = ("-attach", cover, "-metadata:s:t", "mimetype=image/jpeg", "-metadata:s:t", "filename=cover.jpg")
    ffmpeg("-i", cover, *SMALL, "-map", 0, "-map", 1, "-c:v:0", "copy", "-c:v:1", "libx264", "-disposition:v:0", "attached_pic", first)
    ffmpeg(*SMALL, "-i", cover, "-map", 0, "-map", 1, "-c:v:0", "libx264", "-c:v:1", "copy", "-disposition:v:1", "attached_pic", last)
    ffmpeg(*SMALL, *H264, *attach, attached)
    assert [_width(path) for path in (first, last, attached)] == [64, 64, 64]


@pytest.mark.parametrize("others", ["0", "default"])
def test_a_cover_that_is_a_track_like_any_other_is_not_read(others: str, tmp_path: Path, cover: Path) -> None:
    path, codecs = tmp_path / "a.mkv", ("-c:v:0", "copy", "-c:v:1", "libx264")
    ffmpeg("-i", cover, *SMALL, "-map", 0, "-map", 1, *codecs, "-disposition:v:0", "default", "-disposition:v:1", others, path)
    assert _width(path) == 64
    moving = tmp_path / "moving.mkv"
    ffmpeg(*LARGE, *SMALL, "-map", 0, "-map", 1, "-c:v:0", "mjpeg", "-c:v:1", "libx264", "-disposition:v:0", "default", moving)
    assert _width(moving) == 96


def test_sound_without_a_video_is_one_rejected_entry(tmp_path: Path, cover: Path) -> None:
    for name in ("song.m4a", "song.flac", "song.mp3"):
        ffmpeg(*SOUND, "-i", cover, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v:0", "attached_pic", tmp_path / name)
        with pytest.raises(Rejected, match="no video stream, only a cover picture"):
            _width(tmp_path / name)
    ffmpeg(*SOUND, tmp_path / "song.mp4")
    with pytest.raises(Rejected, match=r"no video stream$"):
        _width(tmp_path / "song.mp4")
