"""Owns reading the required pictures of an opened video, upright. Must not scale or judge them.

torchcodec decodes where it is installed and can be loaded, else PyAV does: both by FFmpeg, to the same pixels. What torchcodec cannot read
goes to PyAV, so that what is used of a data set does not depend on what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def pictures(video: Path | bytes, container: Any, stream: Any, required: list[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, picture uint8 [h, w, 3]) of the frames `required`, rising, one at a time: a whole clip at full size is gigabytes.

    `container` and `stream` are PyAV's of the same video. Ends early where the video does.
    """
    left = sorted(set(required))
    decoder = _torchcodec(video)
    while decoder is not None and left:
        try:
            picture = decoder.get_frame_at(left[0]).data
        except (RuntimeError, IndexError, ValueError):
            break
        yield left.pop(0), picture
    if left:
        yield from _by_pyav(container, stream, left)


def _by_pyav(container: Any, stream: Any, required: list[int]) -> Iterator[tuple[int, Tensor]]:
    keep, last = set(required), required[-1]
    for index, frame in enumerate(container.decode(stream)):
        if index in keep:
            yield index, torch.from_numpy(frame.to_ndarray(format="rgb24")).rot90(frame.rotation // 90)
        if index >= last:
            return


def _torchcodec(video: Path | bytes) -> Any:
    """Return torchcodec's decoder of this video; None where there is none, or one too old to turn phones' videos upright."""
    made = _decoder_class()
    if made is None:
        return None
    try:
        decoder = made(str(video) if isinstance(video, Path) else video, dimension_order="NHWC", seek_mode="exact")
    except (RuntimeError, ValueError):
        return None
    return decoder if hasattr(decoder.metadata, "rotation") else None


@cache
def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):  # installed, perhaps, but without the FFmpeg or torch that it wants
        return None
    return VideoDecoder
