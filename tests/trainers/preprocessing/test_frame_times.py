"""Which frames a clip is made of: those that ffmpeg's program shows at the training rate's times, whatever headers say."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from tests.support.trainers.clip_files import write_clip
from tests.support.trainers.ffmpeg_program import differs, ffmpeg, make
from tests.support.trainers.mp4_boxes import with_edits
from trainers.preprocessing.clips import Clip, Rejected, Settings, read_clip

H264 = "-c:v libx264 -preset veryfast -g 8 -bf 2"
UNEVEN = "-vf select=not(between(n\\,5\\,9))*(lt(n\\,5)+gt(mod(n\\,7)\\,2)) -fps_mode passthrough"
"""Leaves frames out, so that the others stand at uneven distances."""
LATE = 0.001
"""A tick of Matroska, Flash and ASF [s]."""


def _problems(paths: list[Path], num_frames: int, **how: float) -> list[str]:
    return [problem for path in paths if (problem := differs(path, num_frames, **how))]  # type: ignore[arg-type]


def _read(path: Path, num_frames: int, fps: float = 16, start: float = 0.0, tolerance: float = 1000) -> Clip:
    return read_clip(path, Settings(num_frames, 48, 64, fps, tolerance), start)


def test_a_variable_rate_is_followed(tmp_path: Path) -> None:
    exact = ["a.mp4", "a.mov", "a.ts", "a.gif", "a.nut"]
    codecs = {"a.webm": "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime", "a.wmv": "-c:v wmv2", "a.gif": ""}
    made = [make(tmp_path / name, f"{UNEVEN} {codecs.get(name, H264)}", duration_s=2) for name in [*exact, "a.mkv", "a.flv", *codecs]]
    for fps in (16, 10):
        assert _problems([path for path in made if path.name in exact], 12, fps=fps) == []
        assert _problems([path for path in made if path.name not in exact], 12, fps=fps, tick_s=LATE) == []


def test_a_rate_that_grows_is_followed_to_the_end(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.mp4", f"-vf settb=1/48000,setpts=N*N/480/TB -fps_mode passthrough -enc_time_base 1/48000 {H264}", duration_s=2
    )
    assert differs(path, 30) == ""  # the last of 32 frames is shown from 2.0 s on
    clip = _read(path, 30)
    assert 2.0 < clip.duration_s < 2.2 and clip.fps == pytest.approx(32 / clip.duration_s)


def test_what_an_edit_list_hides_is_not_there(tmp_path: Path) -> None:
    long = make(tmp_path / "long.mp4", H264.replace("-g 8", "-g 24"), duration_s=4)
    paths = [tmp_path / name for name in ("from.mp4", "from-to.mp4", "from-to.mov")]
    for path, words in zip(paths, ("-ss 1.3", "-ss 1.3 -t 1.1", "-ss 0.7 -t 1.1"), strict=True):
        ffmpeg(*words.split(), "-i", long, "-c", "copy", path)
    edits = {
        "later.mp4": [(1.5, 1.03)],
        "pause-first.mp4": [(0.4, -1.0), (1.5, 1.03)],
        "two-parts.mp4": [(0.5, 0.5), (1.0, 2.0)],
        "back-to-front.mp4": [(1.0, 2.5), (1.0, 0.5)],
        "twice.mp4": [(0.5, 0.5), (0.5, 0.5), (0.5, 1.0)],
        "pause-between.mp4": [(0.5, 0.0), (0.4, -1.0), (1.0, 1.5)],
    }
    paths += [with_edits(long, tmp_path / name, *parts) for name, parts in edits.items()]
    assert _problems(paths, 15) == []
    assert _read(paths[0], 5).duration_s == pytest.approx(2.7, abs=0.07)
    assert _read(paths[3], 5).duration_s == pytest.approx(1.5, abs=0.07)
    with pytest.raises(Rejected, match=r"2\.\d+ s, at most 2\.50 s") as rejected:
        _read(paths[0], 8, tolerance=5)
    assert rejected.value.reason == "too_long"


def test_random_starts_lie_in_what_is_shown(tmp_path: Path) -> None:
    long = make(tmp_path / "long.mp4", H264, duration_s=4)
    cut = with_edits(long, tmp_path / "cut.mp4", (2.5, 1.5))
    assert _problems([cut], 9, start=0.999, first=40 - 9) == []
    assert _problems([cut], 9, start=0.5, first=16) == []
    uneven = make(tmp_path / "uneven.mp4", f"{UNEVEN} {H264}", duration_s=2)
    assert _problems([uneven], 9, start=0.999, first=32 - 9) == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mpg", "webm"])
@pytest.mark.parametrize("fps", [25, 30000 / 1001])
def test_frames_of_a_constant_rate_are_counted(suffix: str, fps: float, tmp_path: Path) -> None:
    codec = {"avi": "-c:v mpeg4", "mpg": "-c:v mpeg2video", "webm": "-c:v libvpx -cpu-used 8 -deadline realtime"}
    path = make(tmp_path / f"a.{suffix}", codec.get(suffix, H264), rate=Fraction(fps).limit_denominator(1001), duration_s=2)
    assert differs(path, 14, fps=fps / 2, tick_s=LATE) == ""
    frames = _read(path, 1).duration_s * fps
    assert differs(path, 9, fps=fps / 2, tick_s=LATE, start=0.999, first=math.ceil(frames / 2 - 1e-6) - 9) == ""


def _with_counts(path: Path, change: Callable[[bytearray], None]) -> Path:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def test_headers_that_lie_about_the_number_of_frames_or_the_length_are_not_believed(tmp_path: Path) -> None:
    def few_frames(content: bytearray) -> None:
        struct.pack_into("<I", content, content.index(b"avih") + 8 + 16, 3)
        struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, 3)

    def another_length(content: bytearray) -> None:
        struct.pack_into(">I", content, content.index(b"mdhd") + 20, 100)
        struct.pack_into(">I", content, content.index(b"mvhd") + 20, 10)

    paths = [
        _with_counts(make(tmp_path / "few.avi", "-c:v mjpeg"), few_frames),
        _with_counts(make(tmp_path / "few-b.avi", "-c:v mpeg4 -bf 2"), few_frames),
        make(tmp_path / "elementary.m4v", "-c:v mpeg4 -f m4v"),  # says nothing; FFmpeg guesses 25 a second
        make(tmp_path / "elementary.h264", f"{H264} -f h264"),
        make(tmp_path / "fragments.mp4", f"{H264} -movflags frag_keyframe+empty_moov"),
        make(tmp_path / "live.mkv", f"{H264} -live 1"),
        make(tmp_path / "no-dates.flv", f"{H264} -flvflags no_duration_filesize"),
        make(tmp_path / "repeats.ogv", "-c:v libtheora"),
    ]
    assert _problems(paths, 14, tick_s=LATE) == []
    assert [path.name for path in paths if abs(_read(path, 5).duration_s - 1) > 0.07] == []
    lying = _with_counts(make(tmp_path / "lying.mp4", f"{H264} -use_editlist 0"), another_length)
    assert _problems([lying], 14) == []


def test_references_that_are_never_shown_are_no_frames(tmp_path: Path) -> None:
    words = "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 16 -b:v 100k -cpu-used 4"
    for number in (1, 2):
        path = make(tmp_path / "a.webm", f"{words} -pass {number} -passlogfile {tmp_path / 'log'}", size=(160, 120), rate=30, duration_s=2)
    assert (_read(path, 9).fps, _read(path, 9).duration_s) == (30, 2)
    assert _problems([path], 25, tick_s=LATE) == []


def test_time_begins_with_the_first_frame(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", H264)
    paths = [tmp_path / name for name in ("late.ts", "late.mkv", "after-sound.mp4")]
    ffmpeg("-i", source, "-c", "copy", "-output_ts_offset", 70, paths[0])
    ffmpeg("-i", source, "-c", "copy", "-output_ts_offset", 4, paths[1])
    sound = ("-f", "lavfi", "-i", "sine=d=2")
    ffmpeg("-itsoffset", 0.8, "-i", source, *sound, "-c:v", "copy", "-map", "0:v", "-map", "1:a", paths[2])
    assert _problems(paths, 14, tick_s=LATE) == []
    assert [_read(path, 14).duration_s for path in paths] == [1, 1, 1]


def test_a_recording_cut_out_of_a_broadcast_begins_where_it_can_be_decoded(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.ts", H264, duration_s=4).read_bytes()
    other = make(tmp_path / "whole.mpg", "-c:v mpeg2video -g 8 -bf 2", duration_s=4).read_bytes()
    paths = [tmp_path / "tail.ts", tmp_path / "tail.mpg", tmp_path / "joined.ts"]
    for path, content in zip(paths, (whole[len(whole) // 188 // 3 * 188 + 57 :], other[len(other) // 3 :], whole + whole), strict=True):
        path.write_bytes(content)
    assert _problems(paths, 20) == []
    assert _read(paths[2], 20).duration_s == 8  # the clock starts anew in the middle


def test_a_file_that_breaks_off_is_as_long_as_what_is_left(tmp_path: Path) -> None:
    made = [make(tmp_path / name, f"{H264} {words}", duration_s=4) for name, words in (("a.mp4", "-movflags faststart"), ("a.mkv", ""))]
    made += [make(tmp_path / "a.mpg", "-c:v mpeg2video", duration_s=4), write_clip(tmp_path / "a.avi", 64, 16, (48, 64), "mpeg4")]
    for path in made:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert _problems(made, 9, tick_s=LATE) == []
    for path in made:
        length = _read(path, 9).duration_s
        assert 1 < length < 3.9, path
        assert differs(path, 9, start=0.999, first=round(length * 16) - 9, tick_s=LATE) == ""
        with pytest.raises(Rejected, match="are needed"):
            _read(path, 63)
