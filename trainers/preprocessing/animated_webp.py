"""Owns reading animated WebP by Pillow, whose decoder is libwebp, the format's own. Must not know other formats.

FFmpeg reads it since 9.0, with other colours where chroma is stored at half the size: libwebp interpolates it ("fancy upsampling"), and
FFmpeg's scaler takes the nearest. Grey and lossless pictures are the same in both.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..sources.entries import Rejected
from .frame_times import Timeline, too_long
from .video_streams import LARGEST_PICTURE

_HEADER_BYTES = 21
_ANIMATED = 0x02


def is_animated_webp(video: Path | bytes) -> bool:
    """Return whether a file is a WebP whose VP8X chunk says that it is animated."""
    if isinstance(video, Path):
        with video.open("rb") as file:
            video = file.read(_HEADER_BYTES)
    return bool(video[:4] == b"RIFF" and video[8:16] == b"WEBPVP8X" and len(video) >= _HEADER_BYTES and video[20] & _ANIMATED)


def read_times(video: Path | bytes, longest_s: float) -> Timeline:
    """Return when its frames are shown; Rejected where they last longer than `longest_s`."""
    marks, end = [], 0
    for picture in _pictures(video):
        marks.append(int(picture.info["timestamp"]))
        end = marks[-1] + int(picture.info["duration"])
        if marks[-1] > longest_s * 1000:
            break
    if end > longest_s * 1000:
        raise too_long(end / 1000, marks[-1] / 1000, longest_s)
    if not end:
        raise Rejected("no_rate", "its frames are shown for no time")
    rate = len(marks) * 1000 / end
    constant = marks == [round(index * end / len(marks)) for index in range(len(marks))]
    return Timeline(marks, end, 0.001, rate, constant, numbered=True, keys=[])


def required_pictures(video: Path | bytes, required: list[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, picture uint8 [h, w, 3]) of the frames `required`, rising; transparency is left out, as everywhere."""
    keep, last = set(required), max(required)
    for index, picture in enumerate(_pictures(video)):
        if index in keep:
            yield index, torch.from_numpy(np.array(picture.convert("RGB")))
        if index >= last:
            return


def _pictures(video: Path | bytes) -> Iterator[Image.Image]:
    with Image.open(video if isinstance(video, Path) else io.BytesIO(video), formats=["WEBP"]) as image:
        if image.width * image.height > LARGEST_PICTURE:
            raise Rejected("unreadable", f"its frames are {image.width}x{image.height}")
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            yield image
