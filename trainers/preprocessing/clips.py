"""Owns turning one video file into the frames that are trained on: which frames, which pixels.

Must not know captions, codecs or parquet. What cannot be used is a Rejected with a reason that is counted; a bad file causes no other
error.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import first_line
from ..sources.entries import Rejected
from .video_decoding import pictures

_LARGEST_PICTURE = 8192 * 8192
"""Most pixels of a frame: a file that claims more is damaged or hostile."""


@dataclass(frozen=True)
class Settings:
    """The clip to make: `num_frames` of `height` x `width` at `train_fps`."""

    num_frames: int
    height: int
    width: int
    train_fps: float
    duration_tolerance: float = 5.0
    """Length, in training clips, above which a clip is left out: its caption tells of more than what is cut from it."""


@dataclass(frozen=True)
class Clip:
    """The frames [3, T, H, W] in [-1, 1] of a clip, with its file's size (upright), length and rate; `kept` is the share of its picture
    left."""

    frames: Tensor
    width: int
    height: int
    duration_s: float
    fps: float
    kept: float = 1.0


def read_clip(video: Path | bytes, settings: Settings, start: float = 0.0) -> Clip:
    """Read the training frames: resampled to the training rate, cut and scaled to the training size.

    `start` in [0, 1) says which: 0 the clip's first, else that far into the possible ones. Rejected where they cannot be read.
    """
    try:
        with av.open(str(video) if isinstance(video, Path) else io.BytesIO(video)) as container:
            return _read(video, container, settings, start)
    except (OSError, av.FFmpegError, ValueError, MemoryError) as error:  # ValueError: FFmpeg's "invalid data" is one, too
        raise Rejected("unreadable", first_line(error)) from error


def _read(video: Path | bytes, container: Any, settings: Settings, start: float) -> Clip:
    if not container.streams.video:
        raise Rejected("unreadable", "it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise Rejected("unreadable", "its codec is unknown")
    stream.thread_type = "AUTO"
    size, fps, listed = stream.codec_context, float(stream.average_rate or 0), int(stream.frames)
    if fps <= 0:
        raise Rejected("no_rate", "its frame rate is unknown")
    if not 0 < size.width * size.height <= _LARGEST_PICTURE:
        raise Rejected("unreadable", f"its frames are {size.width}x{size.height}")
    duration = listed / fps if listed else float((stream.duration or 0) * (stream.time_base or 0))
    _check_duration(duration, settings)
    indices = _frames_to_read(container, stream, settings, start, fps, listed)
    if listed and listed <= indices[-1]:
        raise Rejected("too_short", f"{listed} frames at {fps:g} fps, {indices[-1] + 1} are needed")
    frames, height, width = {}, size.height, size.width
    for index, picture in pictures(video, container, stream, indices):
        height, width = picture.shape[:2]  # upright
        frames[index] = fit(picture, settings.height, settings.width)
    if indices[-1] not in frames:
        if listed:
            raise Rejected("unreadable", f"says {listed} frames, but frame {indices[-1]} cannot be decoded")
        raise Rejected("too_short", f"it ends before frame {indices[-1]}")
    kept = kept_share(height, width, settings.height, settings.width)
    return Clip(torch.stack([frames[i] for i in indices], 1), width, height, duration or (indices[-1] + 1) / fps, fps, kept)


def _check_duration(duration: float, settings: Settings) -> None:
    longest = settings.duration_tolerance * settings.num_frames / settings.train_fps
    if duration > longest:
        raise Rejected("too_long", f"{duration:.2f} s, at most {longest:.2f} s are used")


def frame_indices(num_frames: int, fps: float, train_fps: float, first: int = 0) -> list[int]:
    """Return `num_frames` indices of arange(0, n, fps / train_fps) from the `first` on, rounded down: a slower file's frames repeat."""
    return [int(k * (fps / train_fps)) for k in range(first, first + num_frames)]


def _frames_to_read(container: Any, stream: Any, settings: Settings, start: float, fps: float, listed: int) -> list[int]:
    if not start:
        return frame_indices(settings.num_frames, fps, settings.train_fps)
    available = listed or _count(container, stream)
    taken = math.ceil(available * settings.train_fps / fps - 1e-9)  # of the file, at the training rate
    spare = max(0, taken - settings.num_frames)
    return frame_indices(settings.num_frames, fps, settings.train_fps, int(start * (spare + 1)))


def _count(container: Any, stream: Any) -> int:
    """Count the frames of a container that does not say how many it has, and leave it at its beginning."""
    number = sum(1 for packet in container.demux(stream) if packet.size)
    container.seek(0)
    return number


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """Cut the centre of a picture, uint8 [h, w, 3], to the aspect ratio and scale it to [3, height, width] in [-1, 1].

    Whole-number reductions average exactly (so a clip drawn in blocks gives its pixels back); others are antialiased bilinear.
    """
    h, w = image.shape[:2]
    cut_h, cut_w = _cut(h, w, height, width)
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = image[top : top + cut_h, left : left + cut_w].permute(2, 0, 1)[None].float() / 127.5 - 1
    if (cut_h, cut_w) == (height, width):
        return cut[0]
    if cut_h % height == 0 and cut_w % width == 0:
        return interpolate(cut, (height, width), mode="area")[0]
    return interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def kept_share(h: int, w: int, height: int, width: int) -> float:
    """Return the share of an h x w picture's area that `fit` keeps."""
    cut_h, cut_w = _cut(h, w, height, width)
    return cut_h * cut_w / (h * w)


def _cut(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    return min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
