"""Owns the folder tensorboard/: a run's numbers and contact sheets as TensorBoard reads them.

TensorBoard's own writer is not used: its thread ends at the first error of a disk, and takes with it what was not written. Its formats are.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .appended_file import AppendedFile, write_all

log = logging.getLogger(__name__)
_numbers = count()
_NOT_SHOWN = ("step", "attempt")
"""Keys of a record that are no measurement."""


class TensorBoardEvents:
    """One attempt's file of events, and a further one where that cannot be written any more. What earlier attempts wrote of steps after
    `last_step` is not shown."""

    name = "tensorboard/"

    def __init__(self, folder: Path, last_step: int) -> None:
        # its import takes a second, and not every run needs it
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer import record_writer
        from torch.utils.tensorboard import summary

        self._proto, self._framing, self._summary = event_pb2, record_writer, summary
        self._folder, self._file = folder, AppendedFile(self._make, last_step=last_step)

    def record(self, values: dict[str, Any]) -> None:
        """Take a step's values."""
        for name, value in values.items():
            if name not in _NOT_SHOWN and value is not None:
                self._put(values["step"], summary=self._summary.scalar(f"train/{name}", value))

    def show(self, step: int, sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Take the contact sheet; TensorBoard plays no videos."""
        if sheet is None:
            return
        from PIL import Image

        try:
            image = np.asarray(Image.open(sheet))
        except (OSError, SyntaxError, ValueError) as error:
            log.warning("TensorBoard does not show the samples of step %d: %s", step, error)
            return
        self._put(step, summary=self._summary.image("samples", image, dataformats="HWC"))

    def write(self) -> None:
        self._file.write()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def given_up(self) -> list[int]:
        """Return the first and the last step whose events are lost, if any."""
        return self._file.given_up

    def lacking(self) -> list[int]:
        """Return the steps whose events are not on the disk for certain."""
        return [step for step, _ in self._file.kept()]

    def _put(self, step: int, **event: Any) -> None:
        self._file.put(step, self._framed(step=step, **event))

    def _framed(self, **event: Any) -> bytes:
        """Return an event as it stands in a file, with its length and checksums."""
        buffer = io.BytesIO()
        self._framing.RecordWriter(buffer).write(self._proto.Event(wall_time=time.time(), **event).SerializeToString())
        return buffer.getvalue()

    def _make(self, records: Sequence[bytes], _former: int | None) -> tuple[Path, int]:
        """Begin a file. TensorBoard drops what it read before of the steps that it is to hold."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        session = self._proto.SessionLog(status=self._proto.SessionLog.START)
        first = self._file.durable_step + 1
        head = self._framed(step=first, file_version="brain.Event:2") + self._framed(step=first, session_log=session)
        path = self._folder / name
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            write_all(handle, head + b"".join(records))
            os.fsync(handle)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        return path, handle
