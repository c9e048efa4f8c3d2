"""Owns ffmpeg's own program, of the wheel imageio-ffmpeg: it makes videos for tests, and is the referee of what they show."""

from __future__ import annotations

import re
import subprocess
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trainers.preprocessing.clips import Settings, read_clip

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg, of the extra `test`, is not installed")
_FRAME = re.compile(r"showinfo.*? n: *\d+ pts: *(\S+) .*? s:(\d+)x(\d+) ")
_TIME_BASE = re.compile(r"config in time_base: (\d+/\d+)")
ROUNDING = 3
"""Most that two conversions of one frame differ by, of 255."""


def ffmpeg(*words: object) -> None:
    """Run the program, quietly; it must succeed."""
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", "-loglevel", "error", *map(str, words)], check=True)


def make(path: Path, words: str = "", *, size: tuple[int, int] = (64, 48), rate: float | Fraction = 16, duration_s: float = 1) -> Path:
    """Write a moving test picture of `size` (width, height), encoded as the program's `words` say."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size[0]}x{size[1]}:r={rate}:d={duration_s}", "-threads", 1, *words.split(), path)
    return path


def shown(path: Path) -> tuple[list[float], np.ndarray]:
    """Return when the program shows each frame [s], counted from the first, and the frames [T, H, W, 3] in square pixels."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-threads", "1", "-i", str(path)]
    command += ["-an", "-sn", "-dn", "-vf", "scale=iw*sar:ih,showinfo", "-fps_mode", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    told = done.stderr.decode(errors="replace")
    found = _FRAME.findall(told)
    tick = Fraction(_TIME_BASE.findall(told)[0])
    width, height = int(found[0][1]), int(found[0][2])
    times = [float((int(pts) - int(found[0][0])) * tick) for pts, _, _ in found]
    return times, np.frombuffer(done.stdout, np.uint8).reshape(len(times), height, width, 3)


def differs(path: Path, num_frames: int, *, fps: float = 16, first: int = 0, start: float = 0.0, tick_s: float = 1e-6) -> str:
    """Return how a clip differs from what the program shows at (first, first + 1, ...) / fps seconds; "" where it does not.

    `start` is the clip's; a frame that the container puts up to `tick_s` late may be the one, too.
    """
    times, pictures = shown(path)
    clip = read_clip(path, Settings(num_frames, *pictures.shape[1:3], fps, duration_tolerance=1000), start)
    if (clip.height, clip.width) != pictures.shape[1:3]:
        return f"{path.name}: {clip.width}x{clip.height}, not {pictures.shape[2]}x{pictures.shape[1]}"
    ours = ((clip.frames.permute(1, 2, 3, 0) + 1) * 127.5).round().numpy().astype(int)
    for k, picture in enumerate(ours):
        near = {bisect_right(times, (first + k) / fps + late) - 1 for late in (1e-6, tick_s)}
        if min(np.abs(picture - pictures[index]).max() for index in near) > ROUNDING:
            return f"{path.name}: another picture at {(first + k) / fps:.3f} s"
    return ""
