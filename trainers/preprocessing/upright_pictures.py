"""Owns how a decoded frame is shown: its colours, cropped, the right way up, with square pixels. Must not know which frames are required.

All of it is done by FFmpeg's own filters, as its program does it by default: so a picture here is the one that `ffmpeg -i x` shows, to the
rounding of one conversion. No tone mapping: HDR is converted by its matrix and range alone.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import torch
from av.filter import Graph
from av.sidedata.sidedata import Type
from torch import Tensor

from ..sources.entries import Rejected
from .container_crop import Crop
from .video_streams import LARGEST_PICTURE

Matrix = tuple[int, ...]


class UprightPictures:
    """Converts frames of one video, whose pixels are `aspect` times as wide as high; `crop`: edges that its container does not show."""

    def __init__(self, aspect: Fraction | None, crop: Crop | None = None) -> None:
        self._aspect, self._crop = aspect if aspect else Fraction(1), crop
        self._key: Any = None
        self._graph: Any = None

    def picture(self, frame: Any) -> Tensor:
        """Return a frame as uint8 [h, w, 3], RGB."""
        matrix = _display_matrix(frame)
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), matrix)
        if key != self._key:
            self._key, self._graph = key, _graph(frame, self._crop, turns(matrix), self._aspect)
        self._graph.vpush(frame)
        return torch.from_numpy(self._graph.vpull().to_ndarray())


def _display_matrix(frame: Any) -> Matrix | None:
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return struct.unpack("=9i", bytes(data)) if data is not None else None


def turns(matrix: Matrix | None) -> list[tuple[str, str | None]]:
    """Return the filters that show a picture as its display matrix says: those of ffmpeg's -autorotate, which ignores scales and shifts.

    Rejected for angles other than quarter turns, which would leave black corners.
    """
    angle = _angle(matrix) if matrix else 0.0
    if matrix is None or math.isnan(angle):
        return []
    if abs(angle - 90) < 1:
        return [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    if abs(angle - 180) < 1:
        return [(name, None) for name, scale in (("hflip", matrix[0]), ("vflip", matrix[4])) if scale < 0]
    if abs(angle - 270) < 1:
        return [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    if abs(angle) > 1:
        raise Rejected("turned", f"it is to be shown turned by {angle:.0f} degrees, and only quarter turns leave no black corners")
    return [("vflip", None)] if matrix[4] < 0 else []


def _angle(matrix: Matrix) -> float:
    """Return the angle [degrees, clockwise, 0 to 360] of a display matrix (av_display_rotation_get); NaN where it has none."""
    scale_x, scale_y = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not scale_x or not scale_y:
        return math.nan
    angle = round(math.degrees(math.atan2(matrix[1] / scale_y, matrix[0] / scale_x)))
    return angle - 360 * math.floor(angle / 360 + 0.9 / 360)


def _square(width: int, height: int, aspect: Fraction) -> str:
    """Return how FFmpeg's scale filter makes pixels square: the width changes. Rejected where that makes too large a picture."""
    if width * aspect * height > LARGEST_PICTURE:
        raise Rejected("unreadable", f"its frames are {int(width * aspect)}x{height} in square pixels")
    return f"max(1,iw*({aspect.numerator}/{aspect.denominator})):ih"


def _graph(frame: Any, crop: Crop | None, turning: list[tuple[str, str | None]], aspect: Fraction) -> Graph:
    graph = Graph()
    size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
    nodes = [graph.add("buffer", f"{size}:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}")]
    nodes += [graph.add("crop", crop.of(frame.width, frame.height))] if crop else []
    nodes += [graph.add(name, how) for name, how in turning]
    width, height = frame.width, frame.height
    if turning and turning[0][0] == "transpose":
        width, height, aspect = height, width, 1 / aspect
    if aspect != 1:
        nodes.append(graph.add("scale", _square(width, height, aspect)))
    graph.link_nodes(*nodes, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    return graph
