"""Owns `python -m trainers.data REQUEST`: how many samples folders hold, by their footers, as one JSON object on stdout.

REQUEST is a file with {"folders": {PATH: times that it is read}, "needs": what a method reads of a sample} as JSON. For the launcher, which
looks before it submits and must not import this room. No row is read but the shape of one, and torch is not loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..answers import answer
from ..config import data_folder
from ..config.data import Needs
from .parquet_files import DAMAGED, find, read_footers

COUNTING_S = 8.0
"""So long footers are read; what is not counted then is left to the ranks."""
_AT_ONCE = 64


def main(arguments: Sequence[str]) -> int:
    """Print the answer and return the exit code, as `answer` does."""
    return answer(lambda asked: look({Path(path): repeats for path, repeats in asked["folders"].items()}, asked["needs"]), arguments)


def look(folders: dict[Path, int], needs: Needs, counting_s: float = COUNTING_S) -> dict[str, Any]:
    """Return what the folders hold. UserError names a file that is damaged, or lacks what the method reads.

    samples: their number in the files that were counted, each as often as it is read; files, counted: the number of files, and of those
    that were counted; latents: [C, T, H, W] of one sample of each folder by path, where the method reads them; remarks: lines for a person.
    """
    until = time.monotonic() + counting_s
    files = {path: find(path) for path in folders}
    samples = counted = 0
    for path, repeats in folders.items():
        for first in range(0, len(files[path]), _AT_ONCE):
            if time.monotonic() > until:
                break
            some = files[path][first : first + _AT_ONCE]
            samples += repeats * sum(sum(footer.rows) for footer in read_footers(some, needs))
            counted += len(some)
    return {
        "samples": samples,
        "files": sum(map(len, files.values())),
        "counted": counted,
        "latents": {str(path): _latents(found[0]) for path, found in files.items()} if needs == "latents" else {},
        "remarks": [remark for path, found in files.items() for remark in data_folder.remarks(path, found)],
    }


def _latents(file: Path) -> list[int] | None:
    """Return [C, T, H, W] of a file's first sample; None where it holds none that can be read."""
    try:
        with pq.ParquetFile(file) as opened:
            rows = opened.read_row_group(0, columns=["vae_latent_shape"], use_threads=False).column(0).slice(0, 1).to_pylist()
    except DAMAGED:
        return None
    sizes = rows[0] if rows else None
    return list(sizes) if sizes is not None and len(sizes) == 4 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
