"""Owns what becomes of the decoder of clips when a file has been damaged: every container and codec that people bring, every damage.

As a program (python -m tests.support.trainers.damaged_media COUNT SEED FOLDER) it reads COUNT damaged files through the decoder
processes of preprocessing and prints as JSON how many were decoded, how many were rejected for which reason, and what else happened.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support import mutations
from tests.support.trainers.clip_files import write_clip
from tests.support.trainers.ffmpeg_program import make
from trainers.preprocessing.clips import Settings
from trainers.preprocessing.decode_workers import Decoders
from trainers.sources.entries import Rejected

SETTINGS = Settings(num_frames=5, height=4, width=8, train_fps=8, duration_tolerance=5)
LIMIT_S = 60.0
"""A file that takes longer is given up; none of these may."""
ENCODED = {
    "h264.mp4": "-c:v libx264 -preset ultrafast -bf 2", "late-index.mov": "-c:v mpeg4",
    "fragments.mp4": "-c:v libx264 -movflags frag_keyframe",
    "h264.mkv": "-c:v libx264 -preset ultrafast", "vp9.webm": "-c:v libvpx-vp9 -deadline realtime", "vp8.webm": "-c:v libvpx",
    "hevc.mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=none", "h264.ts": "-c:v libx264 -preset ultrafast",
    "mpeg4.avi": "-c:v mpeg4", "moving.gif": "", "flv1.flv": "-c:v flv1",
}  # fmt: skip


def samples(folder: Path) -> list[Path]:
    """Write a good clip of each kind; one that this ffmpeg cannot write is left out."""
    found = [write_clip(folder / "small.mp4")]
    for name, words in ENCODED.items():
        try:
            found.append(make(folder / name, words, size=(32, 16), rate=8))
        except OSError:
            raise
        except Exception:
            continue
    pictures = [Image.new("RGB", (32, 16), (20 * index, 0, 0)) for index in range(8)]
    pictures[0].save(folder / "moving.webp", save_all=True, append_images=pictures[1:], duration=125)
    return [*found, folder / "moving.webp"]


def damaged(good: list[Path], count: int, seed: int, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield so many damaged files, each with how to make it again."""
    for number in range(count):
        draw = random.Random(seed * 1_000_003 + number)
        kind, source = draw.choice(mutations.BINARY), draw.choice(good)
        path = folder / f"{number:06d}{source.suffix}"
        shutil.copy(source, path)
        mutations.mutate(path, kind, draw)
        yield path, f"{source.name} {kind} {seed * 1_000_003 + number}"


def try_all(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Decode so many damaged files; {"outcomes": how many by what came of them, "wrong": those that took too long or ended a decoder}."""
    (folder / "good").mkdir()
    (folder / "bad").mkdir()
    good = samples(folder / "good")
    decoders = Decoders(1, SETTINGS, LIMIT_S)
    outcomes, wrong, named = Counter[str](), list[str](), list[tuple[Path, str]]()

    def jobs() -> Iterator[tuple[Path, float]]:
        for path, words in damaged(good, count, seed, folder / "bad"):
            named.append((path, words))
            yield path, 0.0

    try:
        began = time.monotonic()
        for clip in decoders.clips(jobs()):
            path, words = named[0]
            del named[0]
            outcome = clip.reason if isinstance(clip, Rejected) else "decoded"
            outcomes[outcome] += 1
            took, began = time.monotonic() - began, time.monotonic()
            if outcome in ("crashes", "too_slow") or took > LIMIT_S:
                wrong.append(f"{words}: {outcome} after {took:.0f} s")
            path.unlink(missing_ok=True) if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    finally:
        decoders.close()
    return {"outcomes": dict(outcomes), "wrong": wrong}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_all(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
