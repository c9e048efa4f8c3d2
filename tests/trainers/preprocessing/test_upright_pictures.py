"""How a frame is shown: colours, turns and mirrors, square pixels, as ffmpeg's program shows it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.support.trainers.ffmpeg_program import differs, make
from tests.support.trainers.mp4_boxes import ONE, with_matrix
from trainers.preprocessing.clips import Settings, read_clip
from trainers.sources.entries import Rejected

LATE = 0.002
"""A tick of Matroska and Flash [s]."""

H264, H265 = "-c:v libx264 -preset ultrafast", "-c:v libx265 -preset ultrafast -x265-params log-level=error"
HDR = "-color_primaries bt2020 -colorspace bt2020nc"
COLOURS = {
    "hdr10.mp4": f"-vf scale=out_color_matrix=bt2020,format=yuv420p10le {H265} -color_trc smpte2084 {HDR}",
    "hlg.mkv": f"-vf scale=out_color_matrix=bt2020,format=yuv420p10le {H265} -color_trc arib-std-b67 {HDR}",
    "hdr10-full-range.mp4": f"-vf scale=out_color_matrix=bt2020:out_range=pc,format=yuv420p10le {H265}:range=full -color_range pc {HDR}",
    "ten-bit.mp4": f"-pix_fmt yuv420p10le {H264}",
    "twelve-bit.mp4": f"-pix_fmt yuv420p12le {H265}",
    "prores-422.mov": "-pix_fmt yuv422p10le -c:v prores_ks",
    "bt709.mp4": f"-vf scale=out_color_matrix=bt709,format=yuv420p {H264} -colorspace bt709",
    "bt709-full-range.mp4": f"-vf scale=out_color_matrix=bt709:out_range=pc,format=yuv420p {H264} -colorspace bt709 -color_range pc",
    "unspecified.mp4": f"-pix_fmt yuv420p {H264}",
    "motion-jpeg.avi": "-c:v mjpeg",
    "smpte240m-444.mp4": f"-pix_fmt yuv444p {H264} -colorspace smpte240m",
    "411.mkv": "-pix_fmt yuv411p -c:v ffv1",
    "gray.mkv": "-pix_fmt gray -c:v ffv1",
    "gray10.mkv": "-pix_fmt gray10le -c:v ffv1",
    "rgb.mov": "-pix_fmt rgb24 -c:v qtrle",
    "rgb48.mkv": "-pix_fmt rgb48le -c:v ffv1",
    "palette.mov": "-pix_fmt pal8 -c:v png",
    "palette.avi": "-pix_fmt pal8 -c:v rawvideo",
    "alpha.mov": "-vf format=rgba,colorchannelmixer=aa=0.5 -c:v png",
    "alpha-prores.mov": "-pix_fmt yuva444p10le -c:v prores_ks",
    "interlaced.mpg": "-vf interlace -c:v mpeg2video -flags +ilme+ildct",
    "odd-size.webm": "-vf scale=71:37,setsar=1 -c:v libvpx-vp9 -cpu-used 8 -deadline realtime",
}
ASPECTS = {
    "wide.mp4": f"-vf setsar=3/2 {H264}",
    "ntsc.mkv": f"-vf setsar=8/9 {H264}",
    "pal-wide.mpg": "-vf setsar=64/45 -c:v mpeg2video",
    "narrow.avi": "-vf setsar=1/2 -c:v mjpeg",
    "hdv.ts": f"-vf setsar=4/3 {H264}",
    "ten-bit.mov": f"-vf setsar=10/11,format=yuv420p10le {H264}",
    "cif.3gp": "-vf scale=176:144,setsar=12/11 -c:v h263",
    "vp9.webm": "-vf setsar=4/3 -c:v libvpx-vp9 -cpu-used 8 -deadline realtime",
    "tape.dv": "-vf scale=720:576 -r 25 -pix_fmt yuv420p",
}


def _made(folder: Path, name: str, words: str) -> str:
    return differs(make(folder / name, words, duration_s=0.25), 3, tick_s=LATE)


def test_colours_are_those_that_ffmpeg_shows(tmp_path: Path) -> None:
    assert [problem for name, words in COLOURS.items() if (problem := _made(tmp_path, name, words))] == []


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    assert [problem for name, words in ASPECTS.items() if (problem := _made(tmp_path, name, words))] == []


def test_a_display_matrix_turns_and_mirrors_as_in_ffmpeg(tmp_path: Path) -> None:
    turns = {
        "right": (0, ONE, -ONE, 0),
        "half": (-ONE, 0, 0, -ONE),
        "left": (0, -ONE, ONE, 0),
        "upright": (ONE, 0, 0, ONE),
        "mirror": (-ONE, 0, 0, ONE),
        "upside-down": (ONE, 0, 0, -ONE),
        "transposed": (0, ONE, ONE, 0),
        "other": (0, -ONE, -ONE, 0),
        "zero": (0, 0, 0, 0),
        "half-zero": (0, 0, 0, ONE),
        "larger": (2 * ONE, 0, 0, 2 * ONE),
        "nearly-right": (500, ONE, -ONE, 500),
    }
    sources = [make(tmp_path / "square.mp4", H264, duration_s=0.25)]
    sources += [make(tmp_path / "wide.mp4", f"-vf setsar=2/1,format=yuv420p10le {H264}", duration_s=0.25)]
    problems = []
    for source in sources:
        for name, matrix in turns.items():
            if source is sources[0] or name in ("right", "other", "mirror"):
                problems.append(differs(with_matrix(source, tmp_path / f"{source.stem}-{name}.mp4", *matrix), 3))
    assert [problem for problem in problems if problem] == []


def test_a_clip_shown_at_another_angle_is_rejected(tmp_path: Path) -> None:
    cos, sin = (round(ONE * f(math.radians(30))) for f in (math.cos, math.sin))
    path = with_matrix(make(tmp_path / "a.mp4", H264), tmp_path / "askew.mp4", cos, sin, -sin, cos)
    with pytest.raises(Rejected, match="turned by 30 degrees") as rejected:
        read_clip(path, Settings(5, 48, 64, 16))
    assert rejected.value.reason == "turned"
