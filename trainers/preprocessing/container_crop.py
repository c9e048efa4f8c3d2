"""Owns the crop that a container asks for beside the picture: `clap` of MP4 and QuickTime, PixelCrop* of Matroska. Must not apply it.

FFmpeg knows of it and its program cuts these edges away, but PyAV does not tell: so the few bytes are read here. Elements: ISO/IEC
14496-12, 12.1.4; RFC 9559, 5.1.4.1.28.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..sources.entries import Rejected


class Crop(NamedTuple):
    """Edges that are not shown, in stored pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, width: int, height: int) -> str:
        """Return what FFmpeg's crop filter is told for a picture of this size; Rejected where nothing would be left."""
        if self.left + self.right >= width or self.top + self.bottom >= height:
            raise Rejected("unreadable", f"its container crops away all of its {width}x{height} picture")
        return f"w=iw-{self.left}-{self.right}:h=ih-{self.top}-{self.bottom}:x={self.left}:y={self.top}"


class _Part(NamedTuple):
    """A box or element: what it is, and where its content begins and ends in the file."""

    kind: bytes | int
    begin: int
    end: int


def crop_of(video: Path | bytes, container: Any, stream: Any) -> Crop | None:
    """Return the crop that a container asks for a stream of PyAV; None where it asks for none, or its kind cannot."""
    formats = container.format.name.split(",")
    crop = None
    with suppress(struct.error, IndexError), _file(video) as file:  # it is cut off: FFmpeg makes of it what it can
        if "mp4" in formats:
            crop = _of_mp4(file, stream.id)
        elif "matroska" in formats:  # FFmpeg does not tell the tracks' numbers, and pictures that are attached come last
            crop = _of_matroska(file, container.streams.video.index(stream))
    return crop if crop is not None and any(crop) else None


@contextmanager
def _file(video: Path | bytes) -> Iterator[BinaryIO]:
    with video.open("rb") if isinstance(video, Path) else io.BytesIO(video) as file:
        yield file


# --- MP4 and QuickTime

_SAMPLE_ENTRY = 78
"""Bytes of a description of pictures before the boxes in it; width and height are the two numbers at 24."""


def _of_mp4(file: BinaryIO, track: int) -> Crop | None:
    end = file.seek(0, io.SEEK_END)
    for movie in _boxes(file, 0, end, b"moov"):
        for box in _boxes(file, movie.begin, movie.end, b"trak"):
            if _track_id(file, box) == track:
                return _of_track(file, box)
    return None


def _track_id(file: BinaryIO, track: _Part) -> int | None:
    for header in _boxes(file, track.begin, track.end, b"tkhd"):
        content = _content(file, header)
        return int(struct.unpack_from(">I", content, 20 if content[0] else 12)[0])
    return None


def _of_track(file: BinaryIO, track: _Part) -> Crop | None:
    parts = [track]
    for kind in (b"mdia", b"minf", b"stbl", b"stsd"):
        parts = [box for part in parts for box in _boxes(file, part.begin, part.end, kind)]
    for part in parts:
        for entry in _boxes(file, part.begin + 8, part.end):
            width, height = struct.unpack_from(">HH", _content(file, entry), 24)
            for box in _boxes(file, entry.begin + _SAMPLE_ENTRY, entry.end, b"clap"):
                return _clean_aperture(_content(file, box), width, height)
    return None


def _clean_aperture(content: bytes, width: int, height: int) -> Crop | None:
    """Return the edges round a clean aperture, rounded as FFmpeg does; None for one that is none or reaches out of the picture."""
    wide, wide_of, high, high_of, across, across_of, down, down_of = struct.unpack_from(">8i", content)
    if min(wide, wide_of, high, high_of, across_of, down_of) <= 0:
        return None
    middle = (Fraction(width - 1, 2) + Fraction(across, across_of), Fraction(height - 1, 2) + Fraction(down, down_of))
    half = ((Fraction(wide, wide_of) - 1) / 2, (Fraction(high, high_of) - 1) / 2)
    left, right, top, bottom = (int(n) for n in (middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1]))
    crop = Crop(top, height - 1 - bottom, left, width - 1 - right)
    return crop if min(crop) >= 0 else None


def _boxes(file: BinaryIO, begin: int, end: int, kind: bytes | None = None) -> Iterator[_Part]:
    """Yield the boxes between two places, of one kind where it is named."""
    while begin + 8 <= end:
        file.seek(begin)
        size, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        stop = end if size == 0 else begin + size
        if (size and size < header) or stop > end:
            return
        if kind in (None, name):
            yield _Part(name, begin + header, stop)
        begin = stop


def _content(file: BinaryIO, part: _Part) -> bytes:
    file.seek(part.begin)
    return file.read(min(part.end - part.begin, 1 << 16))


# --- Matroska and WebM

_SEGMENT, _TRACKS, _TRACK, _TYPE, _CODEC, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0x86, 0xE0
_IS_VIDEO = 1
_EDGES = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
"""PixelCropTop, -Bottom, -Left, -Right."""


def _of_matroska(file: BinaryIO, number: int) -> Crop | None:
    """Return the crop of the video track with a number, counted from 0 and without tracks that FFmpeg leaves out."""
    parts = [_Part(0, 0, file.seek(0, io.SEEK_END))]
    for kind in (_SEGMENT, _TRACKS, _TRACK):
        parts = [element for part in parts for element in _elements(file, part) if element.kind == kind]
    tracks = [{element.kind: element for element in _elements(file, part)} for part in parts]
    videos = [track for track in tracks if {_TYPE, _CODEC} <= track.keys() and _number(file, track[_TYPE]) == _IS_VIDEO]
    if number >= len(videos) or _VIDEO not in videos[number]:
        return None
    edges = {edge.kind: _number(file, edge) for edge in _elements(file, videos[number][_VIDEO])}
    return Crop(*(edges.get(kind, 0) for kind in _EDGES))


def _elements(file: BinaryIO, parent: _Part) -> Iterator[_Part]:
    """Yield the elements in another one. One whose size is not known, as in a live recording, goes to the end."""
    begin = parent.begin
    while begin < parent.end:
        file.seek(begin)
        kind, length = _variable(file, keep_marker=True)
        size, more = _variable(file)
        begin += length + more
        unknown = size == (1 << 7 * more) - 1
        end = parent.end if unknown else min(begin + size, parent.end)
        yield _Part(kind, begin, end)
        begin = end


def _variable(file: BinaryIO, *, keep_marker: bool = False) -> tuple[int, int]:
    """Read a number of variable length; return it and its length in bytes."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    value = first if keep_marker else first & ((1 << (8 - length)) - 1)
    return int.from_bytes(bytes([value]) + file.read(length - 1), "big"), length


def _number(file: BinaryIO, element: _Part) -> int:
    return int.from_bytes(_content(file, element)[:8], "big")
