"""Owns what a run tells about its steps: metrics.jsonl and TensorBoard. Must not make a step wait for the device.

Numbers are copied to the host while the next step is computed, and written when that one is recorded: one step late.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One step's numbers, in the order in which they are written."""

    step: int
    values: dict[str, Any]


class Delayed:
    """Holds the newest step's numbers until they have reached the host."""

    def __init__(self) -> None:
        self._waiting: tuple[int, list[str], Tensor, Any, dict[str, Any]] | None = None

    def push(self, step: int, names: Iterable[str], numbers: Tensor, known: dict[str, Any]) -> Record | None:
        """Take a step's `numbers` [len(names)] (float64, on the device) and what is `known` already; the former step's record."""
        former = self.pop()
        copied = None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._waiting = step, list(names), numbers, copied, known
        return former

    def pop(self) -> Record | None:
        """The record that is still held; waits for its copy."""
        if self._waiting is None:
            return None
        (step, names, numbers, copied, known), self._waiting = self._waiting, None
        if copied is not None:
            copied.synchronize()
        return Record(step, {"step": step, **dict(zip(names, numbers.tolist(), strict=True)), **known})


class MetricsFile:
    """metrics.jsonl: one JSON object a step, numbers in full, null where not finite.

    Opening it drops all steps after `last_step`, and a cut last line.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        kept = _lines_up_to(path, last_step)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with temporary.open("w") as stream:
            stream.writelines(kept)
            _to_disk(stream)
        temporary.replace(path)  # whoever still writes to the old file writes to nothing
        self._stream = path.open("a")

    def write(self, values: dict[str, Any]) -> None:
        self._stream.write(json.dumps({k: v if _writable(v) else None for k, v in values.items()}, allow_nan=False) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Onto the disk; may be called from any thread."""
        _to_disk(self._stream)

    def close(self) -> None:
        self.sync()
        self._stream.close()


class TensorBoard:
    """The same numbers for TensorBoard."""

    def __init__(self, folder: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and not every run wants it

        self._writer: Any = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name not in ("step", "attempt"):
                self._writer.add_scalar(f"train/{name}", value, values["step"])

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """All that rank 0 writes; on other ranks nothing."""

    def __init__(self, run_dir: Path, last_step: int, *, enabled: bool, tensorboard: bool) -> None:
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", last_step) if enabled else None
        self._tensorboard = TensorBoard(run_dir / "tensorboard", last_step) if enabled and tensorboard else None

    def write(self, record: Record) -> None:
        for sink in (self._metrics, self._tensorboard):
            if sink is not None:
                sink.write(record.values)

    def sync(self) -> None:
        if self._metrics is not None:
            self._metrics.sync()

    def close(self) -> None:
        for sink in (self._metrics, self._tensorboard):
            if sink is not None:
                sink.close()


def _lines_up_to(path: Path, last_step: int) -> list[str]:
    """One line a step, in order; where a step stands twice, the later one."""
    found: dict[int, str] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int) and step <= last_step:
            found[step] = line + "\n"
    return [found[step] for step in sorted(found)]


def _writable(value: Any) -> bool:
    """JSON knows no NaN."""
    return not isinstance(value, float) or math.isfinite(value)


def _to_disk(stream: TextIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
