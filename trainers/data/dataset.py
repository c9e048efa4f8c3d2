"""Owns the data as tensors, one sample at a time, for readers of single samples such as validation. Must not order or batch them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config.data import DataConfig, Needs
from . import samples
from .prompt_embeddings import required
from .samples import Samples

log = logging.getLogger(__name__)


def statistics(config: DataConfig) -> tuple[Tensor, Tensor]:
    """Return (mean, std) of stored latents by channel, each [C]: a model sees `normalised` latents."""
    mean, std = samples.moments(config)
    return torch.from_numpy(mean), torch.from_numpy(std)


def normalised(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (latents - mean) / std by channel, for stored latents [..., C, T, H, W] and statistics [C]."""
    return (latents - mean.reshape(-1, 1, 1, 1)) / std.reshape(-1, 1, 1, 1)


def unnormalised(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Undo `normalised`: what codecs decode."""
    return latents * std.reshape(-1, 1, 1, 1) + mean.reshape(-1, 1, 1, 1)


def pad(text: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut or fill up a prompt's embedding [L, D] with zeros to [length, D]; return it and its mask [length], one where there is a token."""
    padded, mask = samples.pad([text.numpy()], length)
    return torch.from_numpy(padded[0]), torch.from_numpy(mask[0])


def open_samples(config: DataConfig, seed: int, needs: Needs, *, warn: Callable[[str], None] = log.warning) -> Samples:
    """Open the run's samples, with the empty prompt's embedding where text dropout needs it."""
    empty = required(config, "data.text_dropout").empty.numpy() if config.text_dropout else None
    return Samples(config, seed, needs, empty, warn=warn)


class ParquetDataset(Dataset[dict[str, Any]]):
    """Samples by (epoch, index)."""

    def __init__(self, config: DataConfig, seed: int, needs: Needs = "latents", *, warn: Callable[[str], None] = log.warning) -> None:
        self.samples = open_samples(config, seed, needs, warn=warn)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return a sample: arrays as stored (latents [C, T, H, W]), prompt [text_len, D], prompt_mask [text_len], caption, index."""
        row, index, _ = self.samples.usable(key)
        prompt, mask = pad(torch.tensor(row.text), self.samples.config.text_len)
        arrays = {name.replace("vae_latent", "latents"): torch.tensor(row.arrays[name]) for name in row.arrays if name != "text_embedding"}
        return {**arrays, "prompt": prompt, "prompt_mask": mask, "caption": row.caption, "index": index}
