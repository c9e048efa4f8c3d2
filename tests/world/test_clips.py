"""Clips as people have them, preprocessed by the trainers' program: what arrives is what ffmpeg's own program shows."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.rows import row
from tests.support.trainers.clip_files import finish, rows, write_clip
from tests.support.trainers.ffmpeg_program import ffmpeg, make, shown
from tests.support.trainers.mp4_boxes import ONE, with_edits, with_matrix
from trainers.models.codecs.shapes import ShapesCodec
from trainers.preprocessing.clips import fit

H264 = "-c:v libx264 -preset veryfast -bf 2"
NUM_FRAMES, FPS = 9, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def differing(folder: Path) -> list[str]:
    """Preprocess a folder of clips and return which of them did not arrive as ffmpeg shows them at the training rate."""
    clips = {path.stem: path for path in sorted(folder.iterdir())}
    (folder / "videos2caption.json").write_text(
        json.dumps([{"path": path.name, "cap": "a square moving right"} for path in clips.values()])
    )
    (folder / "videos").symlink_to(folder)
    report = finish(folder, folder.parent / "out", num_frames=NUM_FRAMES, fps=FPS, duration_tolerance=3)
    assert (report["problems"], report["written"]) == ([], len(clips))
    return [str(stored["id"]) for stored in rows(folder.parent / "out") if not _arrived(stored, clips[str(stored["id"])])]


def _arrived(stored: dict[str, object], clip: Path) -> bool:
    times, pictures = shown(clip)
    indices = [bisect_right(times, k / FPS + 0.001) - 1 for k in range(NUM_FRAMES)]
    frames = torch.stack([fit(torch.from_numpy(pictures[index].copy()), 8, 8) for index in indices], 1)
    latents = np.frombuffer(stored["vae_latent_bytes"], np.float32).reshape(stored["vae_latent_shape"])  # type: ignore[call-overload]
    return bool(np.abs(latents - ShapesCodec().encode_video(frames).numpy()).max() < 0.03)


@row("1", "60 frames a second for a second, then 10, in mp4, mkv and ts")
def test_a_variable_rate_keeps_its_timing(folder: Path) -> None:
    words = "-vf select=lt(n\\,60)+not(mod(n\\,6)) -fps_mode passthrough"
    for suffix in ("mp4", "mkv", "ts"):
        make(folder / f"{suffix}.{suffix}", f"{words} {H264}", rate=60, duration_s=2)
    assert differing(folder) == []


@row("2", "sample aspect 2:1, 8:9, 1:2; in the container or the stream")
def test_pixels_become_square(folder: Path) -> None:
    for name, aspect, codec in (
        ("a.mp4", "2/1", H264),
        ("b.mkv", "8/9", H264),
        ("c.avi", "1/2", "-c:v mjpeg"),
        ("d.mpg", "64/45", "-c:v mpeg2video -r 25"),
    ):
        make(folder / name, f"-vf setsar={aspect} {codec}", size=(96, 96), duration_s=1.5)
    assert differing(folder) == []


@row("3", "display matrices that mirror, turn, and do both")
def test_mirrored_and_turned_clips_are_shown_right(folder: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", H264, duration_s=1.5)
    matrices = {"mirror": (-1, 0, 0, 1), "flip": (1, 0, 0, -1), "turn": (0, 1, -1, 0), "both": (0, 1, 1, 0), "other": (0, -1, -1, 0)}
    for name, matrix in matrices.items():
        with_matrix(source, folder / f"{name}.mp4", *(ONE * number for number in matrix))
    assert differing(folder) == []


@row("4", "a display matrix of zeros")
def test_a_matrix_of_zeros_is_upright(folder: Path, tmp_path: Path) -> None:
    with_matrix(make(tmp_path / "a.mp4", H264, duration_s=1.5), folder / "zero.mp4", 0, 0, 0, 0)
    assert differing(folder) == []


@row("5", "cut with stream copy; edit lists of several parts, of pauses")
def test_what_an_edit_list_hides_is_not_there(folder: Path, tmp_path: Path) -> None:
    long = make(tmp_path / "long.mp4", f"{H264} -g 40", duration_s=5)
    ffmpeg("-ss", 1.3, "-t", 1.5, "-i", long, "-c", "copy", folder / "cut.mp4")
    with_edits(long, folder / "parts.mp4", (0.5, 3.0), (1.0, 0.5))
    with_edits(long, folder / "pause.mp4", (0.5, -1.0), (1.5, 2.03))
    assert differing(folder) == []


@row("6", "a cover first, as a picture or a track; two videos, the second the default")
def test_the_default_stream_is_read_and_no_cover(folder: Path, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=300x300", "-frames:v", 1, tmp_path / "cover.jpg")
    video = make(tmp_path / "a.mp4", H264, duration_s=1.5)
    other = make(tmp_path / "b.mp4", H264, size=(32, 32), duration_s=1.5)
    copied, second = ("-map", 0, "-map", 1, "-c", "copy"), ("-disposition:v:0", 0, "-disposition:v:1", "default")
    ffmpeg("-i", tmp_path / "cover.jpg", "-i", video, *copied, "-disposition:v:0", "attached_pic", folder / "cover.mp4")
    ffmpeg("-i", tmp_path / "cover.jpg", "-i", video, *copied, *second, folder / "track.mkv")
    ffmpeg("-i", video, "-i", other, *copied, *second, folder / "second.mkv")
    ffmpeg("-i", tmp_path / "cover.jpg", "-i", video, "-map", 1, "-c", "copy", tmp_path / "alone.mkv")
    assert set(differing(folder)) <= {"track", "second"}  # the program prefers a larger picture; what is default is read
    for stored in rows(folder.parent / "out"):
        assert _arrived(stored, {"second": other}.get(str(stored["id"]), video)), stored["id"]


@row("7", "an AVI whose header says 3 of 24 frames")
def test_a_header_that_lies_is_not_believed(folder: Path) -> None:
    path = write_clip(folder / "a.avi", 24, 16, (48, 64), "mpeg4")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"avih") + 8 + 16, 3)
    struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, 3)
    path.write_bytes(content)
    assert differing(folder) == []


@row("8", "10 bits, HDR10, HLG, BT.709, full range")
def test_colours_are_converted_as_ffmpeg_does(folder: Path) -> None:
    deep = "-pix_fmt yuv420p10le -c:v libx264 -preset ultrafast -color_primaries bt2020 -colorspace bt2020nc -color_trc"
    make(folder / "hdr10.mp4", f"-vf scale=out_color_matrix=bt2020 {deep} smpte2084", duration_s=1.5)
    make(folder / "hlg.mkv", f"-vf scale=out_color_matrix=bt2020 {deep} arib-std-b67", duration_s=1.5)
    make(folder / "bt709.mp4", f"-vf scale=out_color_matrix=bt709 {H264} -pix_fmt yuv420p -colorspace bt709", duration_s=1.5)
    make(folder / "full.mp4", f"-vf scale=out_range=pc,format=yuv420p {H264} -color_range pc", duration_s=1.5)
    assert differing(folder) == []


@row("11", "mts, 3gp, wmv, flv, ogv, gif, animated webp")
def test_every_container_arrives(folder: Path) -> None:
    coded = {"a.mts": f"{H264} -f mpegts", "b.3gp": "-vf scale=176:144,setsar=1 -c:v h263", "c.wmv": "-c:v wmv2", "d.flv": "-c:v flv"}
    for name, words in {**coded, "e.ogv": "-c:v libtheora", "f.gif": "", "g.webp": "-lossless 1"}.items():
        make(folder / name, words, rate=10, duration_s=1.5)
    assert differing(folder) == []
