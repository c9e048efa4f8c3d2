"""Owns what a run records about its steps: metrics.jsonl, TensorBoard and dashboards. Must not make a step wait for the device.

Numbers are copied to the host while the next step is computed, and written when that one is recorded: one step late.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from ..config.tracking import TrackingConfig
from .dashboards import dashboards


@dataclass(frozen=True)
class Record:
    """One step's numbers, in the order in which they are written."""

    step: int
    values: dict[str, Any]


class DelayedMetrics:
    """Holds the newest step's numbers until they have reached the host."""

    def __init__(self) -> None:
        self._waiting: tuple[int, list[str], Tensor, Any, dict[str, Any]] | None = None

    def push(self, step: int, names: Iterable[str], numbers: Tensor, known: dict[str, Any]) -> Record | None:
        """Take a step's `numbers` [len(names)] (float64, on the device) and what is `known` on the host already; return the previous step's
        record."""
        previous = self.pop()
        copy_done = None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            copy_done = torch.cuda.Event()
            copy_done.record()
        self._waiting = step, list(names), numbers, copy_done, known
        return previous

    def pop(self) -> Record | None:
        """Return the record that is still held, if any; waits for its copy."""
        if self._waiting is None:
            return None
        (step, names, numbers, copy_done, known), self._waiting = self._waiting, None
        if copy_done is not None:
            copy_done.synchronize()
        return Record(step, {"step": step, **dict(zip(names, numbers.tolist(), strict=True)), **known})


class MetricsFile:
    """The file metrics.jsonl: one JSON object a step, numbers in full precision, null where not finite.

    Opening it drops all steps after `last_step`, and a last line that was cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stream = self._replaced(_lines_up_to(path, last_step).values())

    def write(self, values: dict[str, Any]) -> None:
        self._stream.write(_line(values))
        self._stream.flush()

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Add values to the line of a step that is written already. Does nothing where there is no such line, as for step 0."""
        lines = _lines_up_to(self._path, step)
        if step not in lines:
            return
        lines[step] = _line({**json.loads(lines[step]), **values})
        with self._lock:
            self._stream.close()
            self._stream = self._replaced(lines.values())

    def sync(self) -> None:
        """Make all lines survive a power cut. May be called from any thread."""
        with self._lock:
            _to_disk(self._stream)

    def close(self) -> None:
        self.sync()
        self._stream.close()

    def _replaced(self, lines: Iterable[str]) -> TextIO:
        """Write a file of these lines in place of the present one, and return it, open for more."""
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with temporary.open("w") as stream:
            stream.writelines(lines)
            _to_disk(stream)
        temporary.replace(self._path)  # a stream that is still open on the old file writes to nothing
        return self._path.open("a")


class TensorBoard:
    """Writes the numbers of the records to a TensorBoard folder."""

    def __init__(self, folder: Path, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # its import takes a second, and not every run needs it

        self._writer: Any = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name not in ("step", "attempt"):
                self._writer.add_scalar(f"train/{name}", value, values["step"])

    def show(self, step: int, sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Write the contact sheet; TensorBoard plays no videos."""
        if sheet is not None:
            from PIL import Image

            self._writer.add_image("samples", np.asarray(Image.open(sheet)), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """Everything that rank 0 records; on other ranks it does nothing. `recipe` is the configuration that dashboards show."""

    def __init__(self, run_dir: Path, last_step: int, config: TrackingConfig, recipe: dict[str, Any], *, enabled: bool) -> None:
        self._shown: list[Any] = [*dashboards(run_dir, config, recipe)] if enabled else []  # first, because a package may be missing
        if enabled and config.tensorboard:
            self._shown.append(TensorBoard(run_dir / "tensorboard", last_step))
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", last_step) if enabled else None

    def write(self, record: Record) -> None:
        """Pass a step's record to all files and dashboards."""
        for sink in [*self._files(), *self._shown]:
            sink.write(record.values)

    def amend(self, step: int, values: dict[str, Any], sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Add what was measured at a step after it was recorded, and show what it looks like: (prompt, file) of each video."""
        for metrics in self._files():
            metrics.amend(step, values)
        for sink in self._shown:
            sink.write({"step": step, **values})
            sink.show(step, sheet, videos)

    def sync(self) -> None:
        for metrics in self._files():
            metrics.sync()

    def close(self) -> None:
        for sink in [*self._files(), *self._shown]:
            sink.close()

    def _files(self) -> list[MetricsFile]:
        return [] if self._metrics is None else [self._metrics]


def _line(values: dict[str, Any]) -> str:
    return json.dumps({k: v if _writable(v) else None for k, v in values.items()}, allow_nan=False) + "\n"


def _lines_up_to(path: Path, last_step: int) -> dict[int, str]:
    """Return one line a step, by step and in order; where a step stands twice, the later one."""
    lines: dict[int, str] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int) and step <= last_step:
            lines[step] = line + "\n"
    return {step: lines[step] for step in sorted(lines)}


def _writable(value: Any) -> bool:
    """Return whether JSON can hold the value: it knows no NaN and no infinity."""
    return not isinstance(value, float) or math.isfinite(value)


def _to_disk(stream: TextIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
