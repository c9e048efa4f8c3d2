"""What the trainers read of files that were written long ago: a value, or one error in words, whatever has become of the file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import mutations
from tests.support.rows import Figures, fault
from trainers.checkpointing import manifest as manifests
from trainers.config import preprocess_output, trajectory_metadata
from trainers.config.preprocess_output import HIDDEN, RECORDS, SETTINGS
from trainers.control import Control
from trainers.errors import UserError
from trainers.preprocessing import output_shards

KNOWN = (UserError, trajectory_metadata.NoCache, manifests.BadManifest, manifests.NewerFormat)
"""Errors in words."""


def _settings(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / HIDDEN / SETTINGS
    path.parent.mkdir()
    path.write_text(json.dumps({"model": "shapes", "fps": 8, "listing": "0123456789abcdef0123"}))

    def read() -> None:
        preprocess_output.settings(folder)
        output_shards.claim(folder, {"model": "shapes", "fps": 8, "listing": "f123456789abcdef0123"})

    return path, read


def _record(folder: Path) -> tuple[Path, Callable[[], Any]]:
    part = folder / "combined_parquet_dataset/worker_0000/part-00000.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    record = output_shards.Record(0, 9, {str(part.relative_to(folder)): 100}, 8, 1, [{"name": "a", "reason": "r", "text": "t"}] * 2)
    path = record.path(folder / HIDDEN / RECORDS)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record.__dict__))

    def read() -> None:
        found = output_shards.whole_records(folder)
        preprocess_output.num_written(folder)
        assert len(output_shards.remaining(10, found)) in (0, 10), "an entry is left out, or written twice"
        json.dumps(output_shards.summary(10, found))

    return path, read


def _trajectories(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / trajectory_metadata.METADATA
    settings = {"timesteps": [1000, 500], "total": 4, "prompts": 4, "source": ["a"], "solver": "x"}
    path.write_text(json.dumps({"format": trajectory_metadata.FORMAT, **settings}))

    def read() -> None:
        stored = trajectory_metadata.read(folder)
        assert stored is None or trajectory_metadata.differences(stored, settings) is not None

    return path, read


def _manifest(folder: Path) -> tuple[Path, Callable[[], Any]]:
    folder = folder / "step-00000005"
    folder.mkdir()
    entry = {".metadata": manifests.FileEntry(3, "0" * 64)}
    manifests.write(folder, manifests.Manifest(5, 2, "0" * 16, {"threads": 1}, entry))
    return folder / manifests.MANIFEST, lambda: manifests.read(folder)


def _current(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "attempt.json"
    path.write_text(json.dumps({"generation": 1, "attempt": 2, "host": "h", "outcome": None}))
    control = Control()
    control._current, control.generation, control.attempt = path, 1, 2
    return path, control.is_current


READERS = {"settings": _settings, "record": _record, "trajectories": _trajectories, "manifest": _manifest, "current attempt": _current}


@fault("H8", "settings, records, manifests and metadata of the trainers, damaged in every way")
@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_words(
    tmp_path: Path, name: str, count: int, figure: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "REREAD_AFTER_S", 0)
    monkeypatch.setattr(output_shards, "_finish_replacing", lambda *_: None)
    path, read = READERS[name](tmp_path)
    read()
    assert name != "record" or len(output_shards.whole_records(tmp_path)) == 1
    for number in range(count):
        draw = random.Random(number)
        kind = draw.choice(mutations.KINDS)
        with mutations.damaged(path, kind, draw):
            try:
                read()
            except KNOWN as error:
                assert str(error).count("\n") <= 1, error
            except OSError as error:
                assert error.filename or error.strerror, error
            except Exception as error:
                raise AssertionError(f"{name} {kind} {number}: {error!r}") from error
    figure.count("damaged files told", count, count)
