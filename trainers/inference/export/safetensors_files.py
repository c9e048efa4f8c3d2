"""Owns the files of exported weights: safetensors in diffusers' names, one or several with an index, read back and compared.

Must not know runs or pipelines. Tensors are read one file at a time, so a large model never stands in memory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import UserError
from ...files import system_errors

NAME = "diffusion_pytorch_model"
Read = Callable[[Sequence[str]], Mapping[str, Tensor]]


def write(folder: Path, sizes: Mapping[str, int], read: Read, *, max_bytes: int) -> None:
    """Write all tensors of `sizes` (name -> bytes) into files of at most `max_bytes`, unless one tensor is larger.

    Each file is read back and compared; UserError where it differs.
    """
    files = _distribute(sizes, max_bytes)
    where: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"{NAME}.safetensors" if len(files) == 1 else f"{NAME}-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in read(names).items()}
        save(folder / file, tensors, {"format": "pt"})
        where.update(dict.fromkeys(names, file))
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(where.items()))}
        (folder / f"{NAME}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one file, read it back and compare. OSError where the disk refuses, UserError where the file differs."""
    with system_errors(path):
        save_file(dict(tensors), path, metadata=metadata)
        check_same(path, tensors)


def check_same(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where the file does not hold these tensors, bit by bit."""
    with safe_open(path, framework="pt") as stored:
        same = set(stored.keys()) == tensors.keys() and all(_same_bits(stored.get_tensor(name), t) for name, t in tensors.items())
    if not same:
        raise UserError(f"{path.name} does not read back as it was written", "the disk or its memory is faulty: export to another one")


def _same_bits(left: Tensor, right: Tensor) -> bool:
    same = left.dtype == right.dtype and left.shape == right.shape
    return same and torch.equal(left.contiguous().flatten().view(torch.uint8), right.contiguous().flatten().view(torch.uint8))


def _distribute(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Distribute names, in order, over files: a new one begins where the next tensor would not fit."""
    files: list[list[str]] = [[]]
    filled = 0
    for name in sorted(sizes):
        if files[-1] and filled + sizes[name] > max_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += sizes[name]
    return files
