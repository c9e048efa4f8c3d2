"""Owns turning one video file into the frames that are trained on: which frames, which pixels.

Must not know captions, codecs or parquet. What cannot be used is a Rejected with a reason that is counted; a bad file causes no other
error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..config.counting import counted
from ..errors import first_line
from ..sources.entries import Rejected
from . import animated_webp
from .container_crop import crop_of
from .frame_times import Timeline, read_times
from .upright_pictures import UprightPictures
from .video_decoding import required_frames
from .video_streams import opened


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
    """The frames [3, T, H, W] in [-1, 1] of a clip, with its file's size (upright, in square pixels), length and rate.

    `kept` is the share of its picture that is left.
    """

    frames: Tensor
    width: int
    height: int
    duration_s: float
    fps: float
    kept: float = 1.0


def read_clip(video: Path | bytes, settings: Settings, start: float = 0.0) -> Clip:
    """Read the training frames: those shown at the training rate's times, cut and scaled to the training size.

    `start` in [0, 1) says which: 0 the clip's first, else that far into the possible ones. Rejected where they cannot be read.
    """
    if isinstance(video, Path) and video.exists() and not video.is_file():
        raise Rejected("unreadable", "it is a folder, a pipe or a device, not a file")
    try:
        return _read(video, settings, start)
    except (OSError, EOFError, av.FFmpegError, ValueError, MemoryError) as error:  # ValueError: FFmpeg's "invalid data" is one, too
        words = error.strerror if isinstance(error, av.FFmpegError) else None  # the rest is a number and the path, which stands beside it
        raise Rejected("unreadable", words or first_line(error)) from error


def _read(video: Path | bytes, settings: Settings, start: float) -> Clip:
    longest_s = settings.duration_tolerance * settings.num_frames / settings.train_fps
    if animated_webp.is_animated_webp(video):
        timeline = animated_webp.read_times(video, longest_s)
        indices = _indices(timeline, settings, start)
        return _clip(animated_webp.required_pictures(video, indices), timeline, indices, settings)
    with opened(video) as (container, stream):
        timeline = read_times(container, stream, longest_s)
        upright = UprightPictures(stream.sample_aspect_ratio, crop_of(video, container, stream))
    indices = _indices(timeline, settings, start)
    pictures = ((index, upright.picture(frame)) for index, frame in required_frames(video, timeline, indices))
    return _clip(pictures, timeline, indices, settings)


def _clip(pictures: Iterable[tuple[int, Tensor]], timeline: Timeline, indices: list[int], settings: Settings) -> Clip:
    """Return the clip of pictures uint8 [h, w, 3] that come one at a time: a whole clip at full size is gigabytes."""
    frames: dict[int, Tensor] = {}
    height = width = 0
    for index, picture in pictures:
        if frames and picture.shape[:2] != (height, width):
            raise Rejected("size_changes", f"its pictures change from {width}x{height} to {picture.shape[1]}x{picture.shape[0]}")
        height, width = picture.shape[:2]
        frames[index] = fit(picture, settings.height, settings.width)
    missing = sorted(set(indices) - set(frames))
    if missing:
        raise Rejected("unreadable", f"frame {missing[0]} of {len(timeline.marks)} cannot be decoded")
    kept = kept_share(height, width, settings.height, settings.width)
    return Clip(torch.stack([frames[i] for i in indices], 1), width, height, timeline.duration_s, timeline.rate, kept)


def _indices(timeline: Timeline, settings: Settings, start: float) -> list[int]:
    spare = max(0, timeline.num_at(settings.train_fps) - settings.num_frames)
    indices = timeline.frames_at(settings.num_frames, settings.train_fps, int(start * (spare + 1)))
    if indices[-1] >= len(timeline.marks):
        raise Rejected("too_short", _too_short(timeline, indices[-1] + 1, settings))
    return indices


def _too_short(timeline: Timeline, needed: int, settings: Settings) -> str:
    wanted = f"for num_frames {settings.num_frames} at fps {settings.train_fps:g}"
    if timeline.constant:
        frames = f"{counted(len(timeline.marks), 'frame')}"
        return f"{frames} at {timeline.rate:g} fps, {needed} are needed {wanted}"
    return f"{timeline.duration_s:.2f} s, more than {(settings.num_frames - 1) / settings.train_fps:.2f} s are needed {wanted}"


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
