"""Owns which parquet files a `data.path` means: a file, what preprocessing wrote, or any folder. Must not open them, nor import torch.

The launcher looks with it before a job is submitted, the ranks when they read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from . import folders

SAMPLES = "combined_parquet_dataset"
"""The folder of the samples in what preprocessing wrote."""
HOLDOUT = "holdout"
"""The folder beside SAMPLES with the clips that are for validation alone; in it is a folder SAMPLES of its own."""
PREPROCESS_MARKER = ".preprocess"
"""The hidden folder by which an output of preprocessing is known."""
_SUFFIX = ".parquet"
_EVALUATION = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"})
"""Names of splits that nobody trains on, in lower case."""
_SHOWN = 6


def parquet_files(path: Path) -> list[Path]:
    """Return the parquet files that a data.path means, by their paths below it, hidden ones left out. OSError where it cannot be read.

    Of what preprocessing wrote these are the samples alone: its holdout lies beside them. Links to folders are followed, and a file is
    itself.
    """
    if not path.is_dir():
        return [path] if path.is_file() and path.suffix.lower() == _SUFFIX else []
    root = samples_root(path)
    found = [file for file in folders.files(root) if file.suffix.lower() == _SUFFIX]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def samples_root(path: Path) -> Path:
    """Return the folder whose files are read."""
    return path / SAMPLES if (path / SAMPLES).is_dir() else path


def held_out(path: Path, files: list[Path]) -> tuple[str, str] | None:
    """Return (what is wrong, hint) where `files`, those of a data.path, hold clips that were held out from training; else None."""
    held = sorted({place for file in files if (place := _held_out_below(file.relative_to(_root(path)).parent)) is not None})
    if not held:
        return None
    training = [output for output in outputs(path, files) if _held_out_below(PurePath(output)) is None]
    if len(training) == 1:
        hint = f"name the data in it: {path / training[0]}"
    else:
        named = ", ".join(f"{path / output}: 1" for output in training[:_SHOWN]) or "FOLDER: 1"
        hint = f"name the folders to train on, each with how often it is read: {{{named}}}"
    return f"{path} holds clips that were held out from training, in {_few(held)}", hint


def remarks(path: Path, files: list[Path]) -> list[str]:
    """Return a line for each thing about `files`, those of a data.path, that may not be meant: several data sets, test splits."""
    found = outputs(path, files)
    if len(found) > 1:
        return [f"{path} holds {len(found)} data sets, and all are trained on: {_few(found)}"]
    splits = evaluation_splits([file.relative_to(_root(path)) for file in files])
    return [f"{path}: files of {_few(splits)} are trained on, too"] if splits else []


def outputs(path: Path, files: list[Path]) -> list[str]:
    """Return where below `path` preprocessing wrote, by `files`, which lie below it."""
    below = [file.relative_to(_root(path)).parts for file in files]
    return sorted({str(PurePath(*parts[: parts.index(SAMPLES)])) for parts in below if SAMPLES in parts[1:-1]})


def places_beside(path: Path) -> list[Path]:
    """Return where what belongs to a data.path may lie (its prompts, its holdout): in it, beside it; of a file up to four folders up. Where
    it is a link, also beside what it leads to."""
    levels = 4 if path.is_file() else 1
    return list(dict.fromkeys(place for there in (path, path.resolve()) for place in (there, *list(there.parents)[:levels])))


def _root(path: Path) -> Path:
    return path.parent if path.is_file() else samples_root(path)


def _held_out_below(below: PurePath) -> str | None:
    """Return the folder in `below` that holds what was held out, or None."""
    parts = below.parts
    return str(PurePath(*parts[: parts.index(HOLDOUT) + 1])) if HOLDOUT in parts else None


def evaluation_splits(files: Iterable[PurePath]) -> list[str]:
    """Return the names of the splits that nobody trains on where files are of them and others are not; `files` are relative paths."""
    splits = [_evaluation_split(below) for below in files]
    return sorted({split for split in splits if split is not None}) if None in splits else []


def _evaluation_split(below: PurePath) -> str | None:
    """Return the split that a file is of by its folders, a table also by its name ("test-00000-of-00001.parquet"), if nobody trains on
    such a one."""
    named = [below.name.replace(".", "-").split("-")[0]] if below.suffix.lower() in (_SUFFIX, ".arrow") else []
    words = [*below.parts[:-1], *named]
    return next((word for word in words if word.lower() in _EVALUATION), None)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
