"""That the frames are the same wherever decoding begins, in every container; and what becomes of what cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.trainers.ffmpeg_program import differs, ffmpeg, make
from trainers.preprocessing.clips import Settings, read_clip
from trainers.preprocessing.frame_times import Timeline, read_times
from trainers.preprocessing.video_decoding import required_frames
from trainers.preprocessing.video_streams import opened
from trainers.sources.entries import Rejected

SETTINGS = Settings(5, 48, 64, 16, duration_tolerance=1000)
H264 = "-c:v libx264 -preset veryfast -g 12 -bf 3"
CODED = {
    "a.mp4": H264,
    "open.mkv": "-c:v libx264 -x264-params keyint=12:open-gop=1:bframes=3",
    "refresh.mp4": "-c:v libx264 -x264-params keyint=16:intra-refresh=1",
    "open.mov": "-c:v libx265 -x265-params log-level=error:keyint=12:open-gop=1 -preset ultrafast",
    "fragments.mp4": f"{H264} -movflags frag_keyframe",
    "a.webm": "-c:v libvpx-vp9 -g 12 -cpu-used 8 -deadline realtime",
    "a.wmv": "-c:v wmv2 -g 12",
    "a.flv": "-c:v flv -g 12",
    "b.flv": H264,
    "a.ts": H264,
    "a.mts": f"{H264} -f mpegts -mpegts_m2ts_mode 1",
    "a.mpg": "-c:v mpeg2video -g 12 -bf 2",
    "packed.avi": "-c:v mpeg4 -g 12 -bf 2",
    "b-frames.avi": H264,
    "a.ogv": "-c:v libtheora -g 12",
    "a.3gp": "-vf scale=176:144,setsar=1 -c:v h263 -g 12",
    "a.gif": "",
    "a.apng": "-pix_fmt rgb24 -f apng",
    "a.y4m": "-pix_fmt yuv420p",
    "a.nut": "-c:v ffv1",
    "a.h264": H264,
}


def _timeline(path: Path) -> Timeline:
    with opened(path) as (container, stream):
        return read_times(container, stream, 1000)


def test_every_container_is_read_as_ffmpeg_reads_it_from_any_place(tmp_path: Path) -> None:
    problems = []
    for name, words in CODED.items():
        path = make(tmp_path / name, words, duration_s=2)
        problems += [differs(path, 5, tick_s=0.01), differs(path, 5, start=0.999, first=32 - 5, tick_s=0.01)]
    assert [problem for problem in problems if problem] == []


def test_decoding_begins_at_the_last_key_frame(tmp_path: Path) -> None:
    for name in ("a.mp4", "open.mkv", "a.webm"):
        path = make(tmp_path / name, CODED[name], duration_s=2)
        timeline, read = _timeline(path), 0
        for index, frame in required_frames(path, timeline, [30]):
            assert (index, frame.pts) == (30, timeline.marks[30])
            read += 1
        assert read == 1
        assert len(timeline.keys) >= 3


def test_a_clip_whose_pictures_change_their_size_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    parts = [make(tmp_path / f"{width}.ts", H264, size=(width, 48)) for width in (64, 96)]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert differs(tmp_path / "a.ts", 16) == ""  # what precedes the change can be used
    with pytest.raises(Rejected, match="change from 64x48 to 96x48") as rejected:
        read_clip(tmp_path / "a.ts", Settings(20, 48, 64, 16))
    assert rejected.value.reason == "size_changes"


def test_damage_behind_the_required_frames_does_no_harm(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", f"{H264} -movflags faststart", duration_s=2)
    whole = read_clip(path, SETTINGS).frames
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 :] = b"\xff" * (len(content) - len(content) * 3 // 4)
    path.write_bytes(content)
    assert torch.equal(read_clip(path, SETTINGS).frames, whole)
    with pytest.raises(Rejected) as rejected:
        read_clip(path, SETTINGS, start=0.999)
    assert rejected.value.reason == "unreadable"


def test_an_animated_webp_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "a.webp", "-lossless 1 -loop 0", rate=10, duration_s=2)
    assert differs(path, 19, fps=10) == ""
    assert differs(path, 24, fps=16) == ""
    assert torch.equal(read_clip(path.read_bytes(), SETTINGS).frames, read_clip(path, SETTINGS).frames)
    assert read_clip(path, SETTINGS).duration_s == 2
    with pytest.raises(Rejected) as rejected:
        read_clip(path, Settings(5, 48, 64, 16, duration_tolerance=2))
    assert rejected.value.reason == "too_long"
    ffmpeg("-i", path, "-frames:v", 1, "-c:v", "libwebp", tmp_path / "still.webp")
    with pytest.raises(Rejected):
        read_clip(tmp_path / "still.webp", SETTINGS)


def test_colours_of_a_lossy_webp_are_those_of_its_own_decoder(tmp_path: Path) -> None:
    for name, words in {"a": "", "half": "-vf format=rgba,colorchannelmixer=aa=0.5 -pix_fmt yuva420p"}.items():
        path = make(tmp_path / f"{name}.webp", f"{words} -c:v libwebp_anim -quality 90", rate=10, duration_s=1)
        ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "yuv420p", tmp_path / name)
        ours = ((read_clip(path, SETTINGS).frames[:, 0].permute(1, 2, 0) + 1) * 127.5).round()
        assert (ours - _by_libwebp((tmp_path / name).read_bytes(), 64, 48)).abs().max() <= 2
    assert differs(make(tmp_path / "grey.webp", "-vf hue=s=0 -c:v libwebp_anim -quality 90", rate=10, duration_s=1), 5, fps=10) == ""


def _by_libwebp(planes: bytes, width: int, height: int) -> torch.Tensor:
    """Return a picture [h, w, 3] of 4:2:0 planes: BT.601 of limited range, chroma interpolated 9:3:3:1 (src/dsp/upsampling.c)."""
    y, u, v = torch.tensor(list(planes), dtype=torch.float32).split([width * height, width * height // 4, width * height // 4])
    chroma = torch.stack([u, v]).view(1, 2, height // 2, width // 2) - 128
    u, v = torch.nn.functional.interpolate(chroma, (height, width), mode="bilinear", align_corners=False)[0]
    y = 255 / 219 * (y.view(height, width) - 16)
    return torch.stack([y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u], -1).clamp(0, 255)
