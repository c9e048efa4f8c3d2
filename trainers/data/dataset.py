"""Owns what a run trains on: stored rows checked against the config, text dropout, batches in the order of the sampler.

Every draw is a function of (seed, epoch, index), so a batch depends neither on the loader processes nor on what came before,
and prefetched batches can be thrown away. Must not keep state that a checkpoint would have to hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config.data import DataConfig
from ..errors import UserError
from .files import Row, Rows
from .loader import load
from .sampler import Sampler
from .schema import PROMPTS, Floats

# What the Wan2.1 VAE's latents are over its training videos, channel by channel.
# fmt: off
WAN_LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
WAN_LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on


def statistics(config: DataConfig) -> tuple[Tensor, Tensor]:
    """(mean, std), each [C]: a model sees (latents - mean) / std."""
    mean, std = config.latents_mean or WAN_LATENTS_MEAN, config.latents_std or WAN_LATENTS_STD
    return torch.tensor(mean), torch.tensor(std)


@dataclass(frozen=True)
class Prompts:
    """The embeddings beside the samples, [L, D] each; `pad` makes them as long as the samples' prompts."""

    empty: Tensor
    negative: Tensor


def prompts(config: DataConfig) -> Prompts | None:
    """The empty and the negative prompt; None where the data has no such file (others' data sets)."""
    folder = Path(config.path)
    path = next((p for p in (folder / PROMPTS, folder.parent / PROMPTS) if p.is_file()), None)
    if path is None:
        return None
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}", "preprocess again to write it") from error
    for name in ("empty", "negative"):
        if name not in found or found[name].dim() != 2 or not found[name].isfinite().all():
            raise UserError(f"{path} has no usable embedding {name!r}", "preprocess again to write it")
    return Prompts(found["empty"].float(), found["negative"].float())


def pad(text: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """[L, D] -> [length, D] cut or filled up with zeros, and its mask [length] of ones where there is a token."""
    padded, mask = _pad([text.numpy()], length)
    return torch.from_numpy(padded[0]), torch.from_numpy(mask[0])


def _pad(texts: list[Floats], length: int) -> tuple[Floats, Floats]:
    padded = np.zeros((len(texts), length, texts[0].shape[1]), np.float32)
    mask = np.zeros((len(texts), length), np.float32)
    for number, text in enumerate(texts):
        kept = min(len(text), length)
        padded[number, :kept], mask[number, :kept] = text[:kept], 1
    return padded, mask


class ParquetDataset(Dataset[dict[str, Any]]):
    """Samples by (epoch, index). Opening checks all files and the first row, so that what is wrong shows before a step is paid for."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._shape = [len(statistics(config)[0]), *config.latent_shape]
        self._rows = Rows(Path(config.path))
        first = self._rows[0]
        self._text_dim = first.text.shape[-1]
        self._check(first)
        self._empty = self._empty_prompt() if config.text_dropout else None

    def _empty_prompt(self) -> Floats:
        found = prompts(self.config)
        if found is None:
            raise UserError(
                f"data.text_dropout needs the empty prompt's embedding, but {self.config.path} has no {PROMPTS}",
                "text_dropout: 0, or preprocess the clips again",
            )
        if found.empty.shape[1] != self._text_dim:
            raise UserError(f"{PROMPTS} in {self.config.path} has {found.empty.shape[1]} channels, the samples' text has {self._text_dim}")
        return found.empty.numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """latents [C, T, H, W] un-normalised, prompt [text_len, D], prompt_mask [text_len], caption, index."""
        row = self.row(key)
        prompt, mask = pad(torch.from_numpy(row.text), self.config.text_len)
        return {"latents": torch.tensor(row.latents), "prompt": prompt, "prompt_mask": mask, "caption": row.caption, "index": key[1]}

    def row(self, key: tuple[int, int]) -> Row:
        """The stored row, checked, with its text dropped or not; its arrays may be shared, do not change them."""
        row = self._rows[key[1]]
        self._check(row)
        if self._empty is not None and _draw(self.seed, *key) < self.config.text_dropout:
            return replace(row, text=self._empty)
        return row

    def _check(self, row: Row) -> None:
        if list(row.latents.shape) != self._shape:
            raise UserError(
                f"{row.place}: latents are {list(row.latents.shape)}, but the config asks for {self._shape} [C, T, H, W]",
                "data.num_frames, height and width must be those that the data was preprocessed with",
            )
        if row.text.ndim != 2 or row.text.shape[1] != self._text_dim:
            raise UserError(f"{row.place}: text_embedding is {list(row.text.shape)}, other rows have [tokens, {self._text_dim}]")


def _draw(seed: int, epoch: int, index: int) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"text dropout {seed} {epoch} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


def batches(
    config: DataConfig, seed: int, *, rank: int, data_parallel: int, accumulation: int, micro: int, start_step: int, max_steps: int
) -> Generator[list[dict[str, Tensor]], None, None]:
    """For each step from `start_step` (the number of steps done) below `max_steps`: its accumulation rounds' batches for this rank.

    latents [B, T, C, H, W] normalised, prompt [B, text_len, D], prompt_mask [B, text_len], index [B]. Checks the data and starts
    the loader processes at once, before the first item is asked for: call it (in the main thread) before slow work, such as
    loading models. `close()` ends the processes.
    """
    dataset = ParquetDataset(config, seed)
    sampler = Sampler(len(dataset), accumulation * micro * data_parallel, micro, rank, data_parallel, seed)
    keys = (sampler.indices(step, r) for step in range(start_step, max_steps) for r in range(accumulation))
    return _steps(load(_MicroBatches(dataset), keys, workers=config.workers), accumulation)


def _steps(loaded: Iterator[dict[str, Floats]], accumulation: int) -> Generator[list[dict[str, Tensor]], None, None]:
    rounds: list[dict[str, Tensor]] = []
    for batch in loaded:
        rounds.append({name: torch.from_numpy(values) for name, values in batch.items()})
        if len(rounds) == accumulation:
            yield rounds
            rounds = []


class _MicroBatches(Dataset[dict[str, Any]]):
    """A micro-batch by its samples' keys. numpy arrays: tensors would come back through /dev/shm, which containers keep small."""

    def __init__(self, dataset: ParquetDataset) -> None:
        self._dataset = dataset
        self._mean, self._std = (values.numpy().reshape(1, -1, 1, 1, 1) for values in statistics(dataset.config))

    def __getitem__(self, keys: list[tuple[int, int]]) -> dict[str, Any]:
        rows = [self._dataset.row(key) for key in keys]
        prompt, mask = _pad([row.text for row in rows], self._dataset.config.text_len)
        latents = (np.stack([row.latents for row in rows]) - self._mean) / self._std
        return {
            "latents": np.ascontiguousarray(latents.transpose(0, 2, 1, 3, 4)),
            "prompt": prompt,
            "prompt_mask": mask,
            "index": np.array([index for _, index in keys]),
        }
