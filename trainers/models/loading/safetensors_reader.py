"""Owns reading tensors from safetensors files for DCP: this rank's rows of each, from beginning to end of a file, in large pieces. Must not
know what the tensors are for.

DCP's own reader maps the file into memory: each page that is touched is then read by itself, in the order of the network's parameters,
which is several times slower than a disk or a network share is. Here ranks of a node go through a file side by side, each tensor's rows
one after another, so that the file is read once and in order; a second role that starts from the same files finds them in the page cache,
as far as memory allows. No rank ever has more of a file in its memory than a piece.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.futures import Future

_PIECE_BYTES = 32 << 20


class SafetensorsReader(dcp.HuggingFaceStorageReader):
    """Reads these files, whatever else is in their folder (a half precision variant, or what an export left)."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(str(files[0].parent))
        self.fs = _Listed(files)

    def read_data(self, plan: Any, planner: Any) -> Future[None]:
        """Fill the tensors that the plan names. OSError where a file cannot be read to its end."""
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        for path in sorted(by_file):
            self._read_file(Path(path), by_file[path], planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_file(self, path: Path, items: Iterable[Any], planner: Any) -> None:
        with path.open("rb", buffering=0) as opened:
            starts = _starts(opened.fileno())
            for item in sorted(items, key=lambda item: (starts[item.storage_index.fqn], tuple(item.storage_offsets))):
                stored = self.storage_data[item.storage_index]
                target = planner.resolve_tensor(item).detach()
                assert target.shape == torch.Size(item.lengths), (item.storage_index.fqn, target.shape, item.lengths)
                place = _Stored(opened.fileno(), starts[item.storage_index.fqn], stored.shape, stored.dtype)
                place.read_into(target, tuple(item.storage_offsets))
                planner.commit_tensor(item, target)


class _Stored:
    """A tensor in an open file, whose values begin at byte `start`."""

    def __init__(self, file: int, start: int, shape: torch.Size, dtype: torch.dtype) -> None:
        self._file, self._start, self._shape, self._dtype = file, start, shape, dtype

    def read_into(self, target: Tensor, offsets: tuple[int, ...]) -> None:
        """Fill `target` with the part that begins at `offsets`; types are converted. Of a part that is not whole rows, rows are read."""
        if not target.numel():
            return None
        if not self._shape:
            return self._copy(target, 0, 1, ())
        row = math.prod(self._shape[1:])
        rows = max(1, _PIECE_BYTES // max(1, row * self._dtype.itemsize))
        within = tuple(slice(first, first + length) for first, length in zip(offsets[1:], target.shape[1:], strict=True))
        for done in range(0, len(target), rows):
            piece = target[done : done + rows]
            self._copy(piece, (offsets[0] + done) * row, len(piece) * row, within)
        return None

    def _copy(self, target: Tensor, first: int, count: int, within: tuple[slice, ...]) -> None:
        """Copy `count` values from the `first` on, or what of their rows is `within`."""
        size, chosen = self._dtype.itemsize, (slice(None), *within)
        read = torch.empty(count * size, dtype=torch.uint8)
        _read_exactly(self._file, memoryview(read.numpy()), self._start + first * size)
        values = read.view(self._dtype)
        target.copy_(values.view(len(target), *self._shape[1:])[chosen] if target.ndim else values[0])


def _starts(file: int) -> dict[str, int]:
    """Return at which byte of the file each tensor's values begin. The header was checked when the metadata were read."""
    length = bytearray(8)
    _read_exactly(file, memoryview(length), 0)
    header = bytearray(int.from_bytes(length, "little"))
    _read_exactly(file, memoryview(header), 8)
    described = json.loads(header)
    return {name: 8 + len(header) + about["data_offsets"][0] for name, about in described.items() if name != "__metadata__"}


def _read_exactly(file: int, buffer: memoryview, start: int) -> None:
    while buffer:
        count = os.preadv(file, [buffer], start)
        if not count:
            raise OSError("the file has become shorter")
        buffer, start = buffer[count:], start + count


class _Listed(FileSystem):
    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self._files = files

    def ls(self, path: Any) -> list[str]:
        return [str(file) for file in self._files]
