"""Owns turning videos into files a person looks at: mp4 and a contact sheet. Must not know where videos come from.

A video is [3, T, H, W] in [-1, 1]. Files get their name only once they are whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..files import publish

Pixels = npt.NDArray[np.uint8]

_SMALLEST = 64
"""Height or width below which videos are shown enlarged: players and eyes make nothing of 8x8."""
_SHEET_FRAMES = 8
_SHEET_HEIGHT = 128
_LABEL_HEIGHT = 14
_GAP = 2


def pixels(video: Tensor) -> Pixels:
    """Return a video's pixels [T, H, W, 3], rounded; what is not finite is black."""
    clean = torch.nan_to_num(video.float(), nan=-1.0, posinf=-1.0, neginf=-1.0).clamp(-1, 1)
    frames: Pixels = ((clean + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def write_mp4(path: Path, video: Tensor, fps: float) -> Path:
    """Write H.264 that any player shows: small videos enlarged by a whole factor, odd sizes filled up by repeating the last row or
    column."""
    return write_mp4_parts(path, [video], fps)


def write_mp4_parts(path: Path, parts: Iterable[Tensor], fps: float) -> Path:
    """Write, as `write_mp4`, a video whose frames come part by part, [3, n, H, W] each: each is encoded at once and not kept."""

    def encode(temporary: Path) -> None:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "17", "preset": "veryfast"})
            stream.pix_fmt = "yuv420p"
            for number, frame in enumerate(frame for part in parts for frame in _even(_enlarged(pixels(part)))):
                if number == 0:
                    stream.height, stream.width = frame.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())

    return publish(path, encode)


def contact_sheet(videos: Sequence[tuple[str, Tensor]]) -> Pixels:
    """Return an image [H, W, 3]: for each (label, video) up to eight frames in a row under its label, first and last among them."""
    return stacked([_row(label, pixels(video)) for label, video in videos])


def stacked(sheets: Sequence[Pixels]) -> Pixels:
    """Put sheets [H, W, 3] below each other, as wide as the widest."""
    width = max(sheet.shape[1] for sheet in sheets)
    return np.concatenate([np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0))) for sheet in sheets])


def write_png(path: Path, image: Pixels) -> Path:
    """Write `image` [H, W, 3]."""
    return publish(path, lambda temporary: Image.fromarray(image).save(temporary, format="png"))


def _row(label: str, frames: Pixels) -> Pixels:
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_SHEET_FRAMES, len(frames))).round().astype(int))
    height = _SHEET_HEIGHT
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    nearest = frames.shape[1] < height  # enlarged pixels stay pixels
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    images = [np.asarray(Image.fromarray(frames[number]).resize((width, height), method)) for number in chosen]
    strip = np.concatenate([np.pad(image, ((0, 0), (0, _GAP), (0, 0))) for image in images], axis=1)
    title = Image.new("RGB", (strip.shape[1], _LABEL_HEIGHT))
    ImageDraw.Draw(title).text((2, 1), " ".join(label.split())[:200], fill=(255, 255, 255))
    return np.pad(np.concatenate([np.asarray(title), strip]), ((0, _GAP), (0, 0), (0, 0)))


def _enlarged(frames: Pixels) -> Pixels:
    factor = -(-_SMALLEST // min(frames.shape[1:3]))
    return frames.repeat(factor, 1).repeat(factor, 2) if factor > 1 else frames


def _even(frames: Pixels) -> Pixels:
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
