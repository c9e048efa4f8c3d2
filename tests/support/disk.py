"""Owns what the tests do to files and file systems: damage the one, fill the other up."""

from __future__ import annotations

from pathlib import Path


def damage(path: Path, kind: str, place: float) -> None:
    """`place` in [0, 1): where in the file."""
    content = bytearray(path.read_bytes())
    position = int(place * len(content))
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[:position])
    elif kind == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif kind == "flipped":
        content[position] ^= 1 << (position % 8)
        path.write_bytes(content)
    elif kind == "garbage":
        path.write_bytes(b"[1, 2")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                pass
