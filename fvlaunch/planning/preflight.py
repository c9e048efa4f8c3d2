"""Owns looking, before a job is submitted, whether what it reads is there: training data, clips, models. Must not use the network.

Everything is looked for where this machine has it: login and compute nodes share it. Inside a container paths may differ, so nothing is
looked for there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.config import data_folder, hub_cache, preprocess_output
from trainers.config.export_folder import TRAINING
from trainers.config.programs import preprocess

from ..config import own_files
from ..config.compose import Composed
from ..config.strict_yaml import KeyPath
from ..config.values import dotted
from ..errors import ConfigError, FvlaunchError, Problem
from . import notify_check
from .plan import in_container

BUILT_IN = ("tiny-wan", "tiny-wan-a14b", "shapes")
"""Models that need no download: they are made on first use."""
_MAX_FILES = 5000
_PROMPTS = "prompts.safetensors"


def check_inputs(composed: Composed, made_before: Collection[str] = ()) -> None:
    """Raise ConfigError with all that is missing or damaged; reads 8 bytes of each parquet file.

    `made_before`: folders that an earlier stage of a pipeline will make.
    """
    if in_container(composed.cluster.srun_args):
        return
    problems = [
        *notify_check.problems_of(composed),
        *_own_code(composed),
        *_train(composed, made_before),
        *_preprocess(composed, made_before),
        *_evaluate(composed, made_before),
        *_export(composed, made_before),
    ]
    if problems:
        raise ConfigError(problems[:20])


def check_own_code(composed: Composed) -> None:
    """Raise ConfigError where a user's own file, or the run's copy of it, cannot be used: what `check_inputs` says of it."""
    if (problems := list(_own_code(composed))) and not in_container(composed.cluster.srun_args):
        raise ConfigError(problems)


def _own_code(composed: Composed) -> Iterator[Problem]:
    """Report a user's own file that is not there, or has no such class; what it imports from beside it belongs to it."""
    train, first = composed.recipe_data.get("train") or {}, None
    for path, file, name in own_files.references(train):
        first = first or path
        if wrong := own_files.problem(composed.own_copies.get(file, file), name):
            yield _problem(composed, ("train", *path), *wrong)
    try:
        own_files.all_copies(train, composed.own_copies)
    except FvlaunchError as error:
        yield _problem(composed, ("train", *(first or ())), error.message, error.hint)


def _train(composed: Composed, made_before: Collection[str]) -> Iterator[Problem]:
    train = composed.recipe.train
    if train is None:
        return
    for folder in train.method.read_folders(train):
        yield from (
            _own_data(composed, folder, made_before)
            if train.data.source is not None
            else _data(composed, folder, made_on_first_use=train.data.prepare is not None or folder in made_before)
        )
    for role, model in train.models.items():
        if getattr(model, "init_from", None) in made_before:
            continue
        yield from _model(composed, ("train", "models", role, "init_from"), model)
        for name, expert in getattr(model, "experts", {}).items():
            if expert.init_from not in made_before:
                yield from _model(composed, ("train", "models", role, "experts", name, "init_from"), expert)
        own: Any = model
        for missing in () if made_before or not hasattr(own, "missing_inputs") else own.missing_inputs(role):
            yield _problem(composed, ("train", *missing.path), missing.message, missing.hint)
    for missing in () if made_before else train.method.missing_inputs(train):  # a stage tells when its turn comes
        yield _problem(composed, ("train", *missing.path), missing.message, missing.hint)
    validation = train.callbacks.validation
    if validation is not None and validation.videos and validation.model not in made_before:
        yield from _model(composed, ("train", "callbacks", "validation", "model"), validation, "model")
    if not made_before and train.data.text_dropout and train.data.prepare is None and (bare := _without_prompts(train.data.folders)):
        hint = "preprocess writes it; text_dropout: 0 does without"
        message = f"text_dropout needs the empty prompt's embedding, but {bare} has no {_PROMPTS}"
        yield _problem(composed, ("train", "data", "text_dropout"), message, hint)


def check_samples(composed: Composed) -> None:
    """Raise ConfigError where clips are not of the recipe's size. Looks into one sample a folder, which costs a quarter of a second."""
    train = composed.recipe.train
    if train is None or train.method.needs != "latents" or train.data.source is not None or in_container(composed.cluster.srun_args):
        return
    expected = list(train.data.latent_shape)
    problems = []
    for folder in train.data.folders:
        sizes = _latents_of(Path(folder))
        if sizes is not None and sizes[1:] != expected:
            message = f"{folder} holds latents of {_times(sizes[1:])} (frames x height x width), and the recipe wants {_times(expected)}"
            hint = "train.data.num_frames, height and width say what; or preprocess the clips at that size"
            problems.append(_problem(composed, ("train", "data", "num_frames"), message, hint))
    if problems:
        raise ConfigError(problems)


def _latents_of(folder: Path) -> list[int] | None:
    """Return [C, T, H, W] of the first sample of a folder; None where it cannot be read here (the ranks will)."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sizes = _sizes(json.loads((folder / "report.json").read_text(encoding="utf-8")).get("latents"))
        if sizes is not None:
            return sizes
    file = next(iter(data_folder.parquet_files(folder)), None)
    if file is None:
        return None
    import pyarrow as pa  # a fifth of a second
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(file).read_row_group(0, columns=["vae_latent_shape"]).column(0).to_pylist()
    except (OSError, pa.ArrowException, ValueError, LookupError, OverflowError, MemoryError):  # whatever bytes are wrong
        return None
    return _sizes(rows[0]) if rows else None


def _sizes(value: object) -> list[int] | None:
    return value if isinstance(value, list) and len(value) == 4 and all(isinstance(size, int) for size in value) else None


def _times(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


def _without_prompts(folders: Mapping[str, int]) -> str | None:
    """Return the data's folders where they are there and none has the embeddings that no sample holds."""
    there = [Path(folder) for folder in folders if Path(folder).exists()]
    has_prompts = any((place / _PROMPTS).is_file() for folder in there for place in data_folder.places_beside(folder))
    return None if has_prompts or not there else " and ".join(map(str, there))


def _preprocess(composed: Composed, made_before: Collection[str]) -> Iterator[Problem]:
    block: Any = composed.recipe.preprocess
    if block is None:
        return
    source = Path(block.source)
    if (
        block.source not in made_before
        and not source.exists()
        and not _downloaded("dataset", composed, block.source, block.source_revision)
    ):
        hint = "give a folder or file, or the id of a Hugging Face dataset that was downloaded (fvlaunch submit download)"
        yield _problem(composed, ("preprocess", "source"), f"{block.source} does not exist", hint)
    if block.model is not None:
        yield from _model(composed, ("preprocess", "model"), block, "model")
    yield from _output(composed, block)


def _output(composed: Composed, block: Any) -> Iterator[Problem]:
    """Report an output that holds samples of another preprocessing. Whether the entries are still the same, the job sees."""
    output = Path(block.output)
    stored = preprocess_output.settings(output)
    if stored is None:
        if not (output / preprocess_output.HIDDEN).exists() and _holds_parquet(output):
            message = f"{output} holds parquet files that no preprocessing wrote"
            yield _problem(composed, ("preprocess", "output"), message, "use another output, or remove it")
        return
    given = block.resolved()
    changed = [key for key in sorted(given) if stored.get(key, given[key]) != given[key] and key not in preprocess.MAY_CHANGE]
    if changed and preprocess_output.num_written(output):
        changes = ", ".join(f"{key} was {stored[key]!r}, is now {given[key]!r}" for key in changed)
        message = f"{output} holds samples of other settings: {changes}"
        yield _problem(composed, ("preprocess", changed[0]), message, "use another preprocess.output, or remove it")


def _holds_parquet(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.is_dir() and bool(data_folder.parquet_files(folder))
    return False


def _evaluate(composed: Composed, made_before: Collection[str]) -> Iterator[Problem]:
    block = composed.recipe.evaluate
    for name, row in block.rows.items() if block is not None else ():
        source = Path(row.source)
        if row.source in made_before or (source / "checkpoints").is_dir() or (source / TRAINING).is_file():
            continue
        wrong = "does not exist" if not source.exists() else "is neither a run with checkpoints nor an exported folder"
        hint = "a run's directory, or a folder that `fvlaunch export` made"
        yield _problem(composed, ("evaluate", "rows", name, "source"), f"{row.source} {wrong}", hint)


def _export(composed: Composed, made_before: Collection[str]) -> Iterator[Problem]:
    block = composed.recipe.export
    if block is None or block.run in made_before:
        return
    if not (Path(block.run) / "checkpoints").is_dir():
        yield _problem(composed, ("export", "run"), f"{block.run} is no run with checkpoints", "--set export.run=runs/NAME")
    elif block.folder.exists():
        hint = "nothing is ever overwritten: --set export.to=DIR, or remove it"
        yield _problem(composed, ("export", "to"), f"{block.folder} exists already", hint)


def _own_data(composed: Composed, folder: str, made_before: Collection[str]) -> Iterator[Problem]:
    """What a user's own source makes of it, the rank will see."""
    if folder not in made_before and not Path(folder).exists():
        yield _problem(composed, ("train", "data", "path"), f"{folder} does not exist", "data.source reads it")


def _data(composed: Composed, folder: str, *, made_on_first_use: bool) -> Iterator[Problem]:
    path: KeyPath = ("train", "data", "path")
    place = Path(folder)
    try:
        files = data_folder.parquet_files(place)
    except OSError as error:
        yield _problem(composed, path, f"{folder} cannot be read: {error}", "every folder in it must be readable")
        return
    if files and (wrong := data_folder.held_out(place, files)):
        yield _problem(composed, path, *wrong)
    for file in files[:_MAX_FILES]:
        if damage := _not_parquet(file):
            yield _problem(composed, path, f"{file} {damage}", "remove it or make it again")
    if not files and not made_on_first_use:
        what = "holds no parquet files" if place.is_dir() else "is no parquet file" if place.exists() else "does not exist"
        yield _problem(composed, path, f"{folder} {what}", "preprocess the data, or point --set train.data.path=... at it")


def _model(composed: Composed, path: KeyPath, section: Any, key: str = "init_from") -> Iterator[Problem]:
    reference, revision = getattr(section, key, None), getattr(section, "revision", None)
    if reference is None or reference in BUILT_IN:
        return
    if Path(reference).is_dir():
        if (Path(reference) / "run.json").is_file():
            hint = f"fvlaunch export {Path(reference).name} --to DIR makes one"
            yield _problem(composed, path, f"{reference} is a run's directory, not a model's", hint)
        return
    if not hub_cache.is_id(reference):
        yield _problem(composed, path, f"{reference} does not exist", "a diffusers folder, or a Hugging Face id")
    elif not _downloaded("model", composed, reference, revision):
        entry = f"{{id: {reference}}}" if revision is None else f"{{id: {reference}, revision: {revision}}}"
        hint = f"where there is internet: fvlaunch submit download --set 'download.models=[{entry}]'; or give a folder"
        yield _problem(composed, path, f"the model {reference} is not in the Hugging Face cache, or only in part", hint)


def _downloaded(kind: hub_cache.Kind, composed: Composed, reference: str, revision: str | None) -> bool:
    if not hub_cache.is_id(reference):
        return False
    _look_where_the_job_looks(composed.cluster.env)
    try:
        hub_cache.snapshot(kind, reference, revision)
    except hub_cache.NotHere:
        return False
    return True


def _look_where_the_job_looks(environment: Mapping[str, str]) -> None:
    """Use the profile's Hugging Face folders; huggingface_hub reads these variables once, when it is imported."""
    os.environ.update({key: environment[key] for key in ("HF_HOME", "HF_HUB_CACHE") if key in environment})


def _problem(composed: Composed, path: KeyPath, message: str, hint: str) -> Problem:
    return Problem(message, composed.place(path), dotted(path), hint)


def _not_parquet(file: Path) -> str:
    """Return what is wrong with a file by its size and its first and last four bytes; empty when nothing is."""
    try:
        size = file.stat().st_size
        if size < 12:
            return "is empty" if size == 0 else f"has only {size} bytes"
        with file.open("rb") as opened:
            head = opened.read(4)
            opened.seek(-4, 2)
            tail = opened.read(4)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head != b"PAR1":
        return "is not a parquet file"
    return "" if tail == b"PAR1" else "is cut off: its end is missing"
