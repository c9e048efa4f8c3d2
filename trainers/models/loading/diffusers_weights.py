"""Owns reading a diffusers folder: its config.json, and its safetensors straight into sharded parameters. Must not know the network.

A rank reads only its own rows of each tensor; no rank holds the whole network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ...config.stored_json import read_object
from ...distributed.collectives import taking_part
from ...errors import UserError
from .safetensors_reader import SafetensorsReader

_SINGLE = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""The file's name in diffusers' folders, and in FastVideo's."""
_INDEX = "diffusion_pytorch_model.safetensors.index.json"
_SHOWN = 10
_AGAIN = "download the model again, or give another folder"


def subfolder(folder: Path, name: str) -> Path:
    """Return a part of a pipeline's folder; the folder itself where it is that part already."""
    if (folder / name).is_dir():
        return folder / name
    if (folder / "model_index.json").exists():
        raise UserError(f"init_from: the pipeline in {folder} has no folder {name!r}", _AGAIN)
    return folder


def read_config(folder: Path, class_name: str) -> dict[str, Any]:
    """Return the arguments of the network in config.json. UserError where it is of another class."""
    content = _read_json(folder / "config.json", f"init_from: {folder} is no diffusers folder of a {class_name}")
    if content.get("_class_name") != class_name:
        raise UserError(f"init_from: {folder} holds a {content.get('_class_name')}, not a {class_name}")
    return {key: value for key, value in content.items() if not key.startswith("_")}


def read_note(folder: Path, key: str) -> Any:
    """Return what one of our exports says in config.json under a key that diffusers ignores; None where there is nothing."""
    return _read_json(folder / "config.json", f"init_from: {folder} is no diffusers folder").get(key)


def load(state: dict[str, Tensor], folder: Path, added: Collection[str] = ()) -> None:
    """Fill the tensors, sharded or not, from the folder's files by name; types are converted. Collective.

    `added` are not touched where the files hold none of them. UserError where files are missing or broken, or hold other names or
    shapes.
    """
    reader = SafetensorsReader(files(folder))
    try:
        held = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        raise UserError(f"init_from: a file of weights in {folder} cannot be read: {error}", _AGAIN) from None
    if not any(name in held for name in added):
        state = {name: tensor for name, tensor in state.items() if name not in added}
    _check_same_tensors(state, held, folder)
    try:
        dcp.load(state, storage_reader=reader, **taking_part())
    except CheckpointException as error:  # of any rank, on all
        rank, (cause, _trace) = next(iter(error.failures.items()))
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"init_from: a file of weights in {folder} cannot be read (rank {rank}): {cause}", _AGAIN) from None


def files(folder: Path) -> list[Path]:
    """Return the safetensors files of the weights: those that the index names, where there is one."""
    if (folder / _INDEX).exists():
        names = _read_json(folder / _INDEX, f"init_from: {folder / _INDEX} is no index of weights").get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise UserError(f"init_from: {folder / _INDEX} is no index of weights (weight_map)", _AGAIN)
        files = [folder / name for name in sorted(set(names.values()))]
        if absent := [file.name for file in files if not file.is_file()]:
            raise UserError(f"init_from: {folder} lacks {', '.join(absent)}, which its index names", _AGAIN)
        return files
    for name in _SINGLE:
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"init_from: {folder} has no {_SINGLE[0]} and no {_INDEX}", "weights are read from safetensors only; " + _AGAIN)


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{otherwise} ({type(error).__name__}: {path.name})", _AGAIN) from None


def _check_same_tensors(network: Mapping[str, Tensor], stored: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError where the files lack a tensor of the network, or hold another or one of another shape."""
    lines = [f"missing: {name}" for name in sorted(network.keys() - stored.keys())]
    lines += [f"unexpected: {name}" for name in sorted(stored.keys() - network.keys())]
    for name in sorted(network.keys() & stored.keys()):
        if torch.Size(stored[name].size) != network[name].shape:
            lines.append(f"{name} is {list(stored[name].size)}, not {list(network[name].shape)}")
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(f"init_from: the weights in {folder} do not fit their config.json: {'; '.join(lines[:_SHOWN])}{more}")
