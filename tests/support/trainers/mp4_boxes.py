"""Owns changing what the header of an MP4 file says: display matrix, edit list and clean aperture (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from pathlib import Path

ONE = 1 << 16
"""One, as a fixed-point number."""


def with_matrix(source: Path, path: Path, *matrix: int) -> Path:
    """Write a copy whose track is shown through the display matrix (a, b, c, d), fixed-point numbers."""
    content = source.read_bytes()
    upright = struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    a, b, c, d = matrix
    path.write_bytes(content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + len(upright) :])
    return path


def with_edits(source: Path, path: Path, *edits: tuple[float, float]) -> Path:
    """Write a copy that shows, one after the other, (length, start) [s] of the stored video; a start below 0 is a pause.

    The source's own edit list says where its first frame stands, and its header has to come last.
    """
    content = bytearray(source.read_bytes())
    at = content.index(b"elst")
    [number] = struct.unpack_from(">I", content, at + 8)
    [begin] = struct.unpack_from(">i", content, at + 16)
    movie, media = (struct.unpack_from(">I", content, content.index(box) + 16)[0] for box in (b"mvhd", b"mdhd"))
    starts = [round(start * media) + begin if start >= 0 else -1 for _, start in edits]
    entries = [struct.pack(">Iii", round(length * movie), start, ONE) for (length, _), start in zip(edits, starts, strict=True)]
    content[at + 8 : at + 12 + 12 * number] = struct.pack(">I", len(edits)) + b"".join(entries)
    for box in (b"elst", b"edts", b"trak", b"moov"):
        size = content.index(box) - 4
        struct.pack_into(">I", content, size, struct.unpack_from(">I", content, size)[0] + 12 * (len(edits) - number))
    path.write_bytes(content)
    return path


def with_clean_aperture(source: Path, path: Path, *numbers: int) -> Path:
    """Write a copy of which only a part is to be shown: width, height and the middle's offsets across and down, each as two numbers of a
    fraction. The source's header has to come last."""
    content = bytearray(source.read_bytes())
    box = struct.pack(">I4s8i", 40, b"clap", *numbers)
    entry = content.index(b"stsd") + 12  # behind version, flags and the number of entries
    at = entry + struct.unpack_from(">I", content, entry)[0]
    content[at:at] = box
    for size in [content.rindex(kind, 0, entry) - 4 for kind in (b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov")] + [entry]:
        struct.pack_into(">I", content, size, struct.unpack_from(">I", content, size)[0] + len(box))
    path.write_bytes(content)
    return path
