"""Owns a run's samples as numpy arrays: rows checked against the config, bad ones replaced, text dropout, micro-batches.

Every draw is a function of (seed, epoch, index), so a sample depends neither on the loader processes nor on what came before,
and prefetched ones can be thrown away. Must not order samples, keep state that a checkpoint would have to hold, or import torch:
loader processes do without it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config.data import DataConfig, Needs
from ..errors import UserError
from .latent_statistics import check_statistics
from .parquet_rows import Row, Rows
from .parquet_schema import Floats
from .sampler import Indices
from .source import OwnRows

log = logging.getLogger(__name__)

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
_SAMPLED = 16
"""Number of rows that are checked when the data are opened."""
_REPLACEMENTS = 8
"""Number of other rows that are tried in place of a bad one."""


def moments(config: DataConfig) -> tuple[Floats, Floats]:
    """Return (mean, std) of the stored latents, [C] each."""
    mean, std = config.latents_mean or WAN_LATENTS_MEAN, config.latents_std or WAN_LATENTS_STD
    return np.array(mean, np.float32), np.array(std, np.float32)


def pad(texts: list[Floats], length: int) -> tuple[Floats, Floats]:
    """Cut or fill up embeddings [L, D] with zeros to [B, length, D]; return them and masks [B, length], one where there is a token."""
    padded = np.zeros((len(texts), length, texts[0].shape[1]), np.float32)
    mask = np.zeros((len(texts), length), np.float32)
    for number, text in enumerate(texts):
        kept = min(len(text), length)
        padded[number, :kept], mask[number, :kept] = text[:kept], 1
    return padded, mask


@dataclass(frozen=True)
class BadRow:
    """Row `index` could not be used, for what `text` says; `used` was read in its place."""

    index: int
    used: int
    text: str


class Samples:
    """Samples by (epoch, index). Opening checks all files and some rows, so that what is wrong shows before a step is paid for.

    Text dropout puts `empty`, the empty prompt's embedding [L, D], in place of a prompt.
    """

    def __init__(
        self, config: DataConfig, seed: int, needs: Needs, empty: Floats | None = None, *, warn: Callable[[str], None] = log.warning
    ) -> None:
        self.config, self.seed, self.needs = config, seed, needs
        self._mean, self._std = moments(config)
        self._rows = _open(config, needs)
        self._shapes: dict[str, list[int]] = {}
        self._check_some_rows(warn)
        self._empty = empty
        if empty is not None and empty.shape[1] != self._shapes["text_embedding"][1]:
            size = self._shapes["text_embedding"][1]
            raise UserError(
                f"the empty prompt's embedding has {empty.shape[1]} channels, the samples' text in {', '.join(config.folders)} has {size}",
                "both must come from one text encoder",
            )

    def _check_some_rows(self, warn: Callable[[str], None]) -> None:
        """Check rows from all over the data: the shapes that all must have, and the statistics of the latents."""
        rows, bad = self._readable(self._rows.spread(_SAMPLED))
        if rows:
            self._shapes = self._required_shapes(rows)
        usable = []
        for row in rows:
            try:
                self._check(row)
                usable.append(row)
            except UserError as error:
                bad.append(error)
        if len(bad) >= len(usable):  # not a row here or there: these are not the data that the config means
            raise bad[0]
        if self.needs == "latents" and self.config.check_statistics:
            check_statistics([row.latents for row in usable], self._mean, self._std, ", ".join(self.config.folders), warn)
        self._rows.forget()

    def _readable(self, indices: list[int]) -> tuple[list[Row], list[UserError]]:
        rows: list[Row] = []
        bad: list[UserError] = []
        for index in indices:
            try:
                rows.append(self._rows[index])
            except UserError as error:
                bad.append(error)
        return rows, bad

    def _required_shapes(self, rows: list[Row]) -> dict[str, list[int]]:
        """Return the required shape of each array, where -1 is any size. What the config does not say is what most rows have."""
        channels, (t, h, w) = len(self._mean), self.config.latent_shape
        shapes = {"text_embedding": [-1, _most([size for row in rows for size in row.text.shape[1:]])]}
        if self.needs == "latents":
            shapes["vae_latent"] = [channels, t, h, w]
        if self.needs == "trajectory":
            states = _most([size for row in rows for size in row.arrays["trajectory_latents"].shape[:1]])
            shapes |= {"trajectory_latents": [states, t, channels, h, w], "trajectory_timesteps": [states]}
        return shapes

    @property
    def block_sizes(self) -> Indices | None:
        """Return the number of rows of each row group, see `Rows.block_sizes`."""
        return self._rows.block_sizes

    @property
    def remarks(self) -> Sequence[str]:
        """Return what of the data's folders may not be meant, a line each."""
        return self._rows.remarks

    def cost(self, rounds: int) -> str | None:
        """Return what makes reading slow, for a person; None when nothing does. `rounds` row groups are read at a time."""
        if self.block_sizes is None or rounds * self._rows.largest_block_bytes <= self.config.cache_gb * 2**30:
            return None
        size = self._rows.largest_block_bytes / 2**30
        return (
            f"{rounds} row groups of up to {size:.2g} GB are read at a time, more than data.cache_gb {self.config.cache_gb:g} holds: each "
            "is read again for every sample. Raise data.cache_gb, or preprocess with kind: rewrite, which makes a row group of each sample"
        )

    def __len__(self) -> int:
        return len(self._rows)

    def usable(self, key: tuple[int, int]) -> tuple[Row, int, list[BadRow]]:
        """Return the row, its index, and the bad rows; in place of a bad row another one is read that follows from the seed and the key."""
        epoch, index = key
        errors: list[tuple[int, UserError]] = []
        for attempt in range(1 + _REPLACEMENTS):
            at = int(_draw("replacement", self.seed, epoch, index, attempt) * len(self)) if attempt else index
            try:
                return self.row((epoch, at)), at, [BadRow(bad, at, str(error)) for bad, error in errors]
            except UserError as error:
                errors.append((at, error))
        first = errors[0][1]
        raise UserError(f"{first.message}; {_REPLACEMENTS} other rows that were tried in its place are bad too", first.hint)

    def row(self, key: tuple[int, int]) -> Row:
        """Return the stored row, its text replaced where the draw says so; UserError where it is bad. Its arrays may be shared: do not
        change them."""
        row = self._rows[key[1]]
        self._check(row)
        if self._empty is not None and _draw("text dropout", self.seed, *key) < self.config.text_dropout:
            return replace(row, arrays={**row.arrays, "text_embedding": self._empty})
        return row

    def _check(self, row: Row) -> None:
        for name, required in self._shapes.items():
            shape = list(row.arrays[name].shape)
            if len(shape) != len(required) or any(size not in (-1, own) for size, own in zip(required, shape, strict=True)):
                raise _wrong_shape(row, name, shape, required)

    def __getitem__(self, keys: list[tuple[int, int]]) -> tuple[dict[str, Any], list[BadRow]]:
        """Return a micro-batch by its samples' keys, and the bad rows met."""
        usable = [self.usable(key) for key in keys]
        rows = [row for row, _, _ in usable]
        prompt, mask = pad([row.text for row in rows], self.config.text_len)
        batch: dict[str, Any] = {"prompt": prompt, "prompt_mask": mask, "index": np.array([index for _, index, _ in usable])}
        if self.needs == "latents":
            batch["latents"] = self._normalised(rows)
        if self.needs == "trajectory":
            batch |= {name: np.stack([row.arrays[name] for row in rows]) for name in ("trajectory_latents", "trajectory_timesteps")}
        return batch, [bad for _, _, several in usable for bad in several]

    def _normalised(self, rows: list[Row]) -> Floats:
        """Return the rows' latents, normalised, as [B, T, C, H, W]."""
        mean, std = (values.reshape(1, -1, 1, 1) for values in (self._mean, self._std))
        channels, *rest = rows[0].latents.shape
        made = np.empty((len(rows), rest[0], channels, *rest[1:]), np.float32)
        for place, row in zip(made, rows, strict=True):
            np.subtract(row.latents.transpose(1, 0, 2, 3), mean, out=place)
            place /= std
        return made


def _open(config: DataConfig, needs: Needs) -> Rows | OwnRows:
    if config.source is not None:
        return OwnRows(config.source, config.folders, needs)
    return Rows({Path(folder): repeats for folder, repeats in config.folders.items()}, needs, int(config.cache_gb * 2**30))


def _most(sizes: list[int]) -> int:
    return Counter(sizes).most_common(1)[0][0] if sizes else 0


def _wrong_shape(row: Row, name: str, shape: list[int], required: list[int]) -> UserError:
    if name == "text_embedding":
        return UserError(f"{row.place}: text_embedding is {shape}, other rows have [tokens, {required[1]}]")
    if name == "trajectory_timesteps":
        return UserError(f"{row.place}: trajectory_timesteps is {shape}, but there are {required[0]} trajectory_latents")
    order = "[C, T, H, W]" if name == "vae_latent" else "[steps, T, C, H, W]"
    return UserError(
        f"{row.place}: {'latents' if name == 'vae_latent' else name} are {shape}, but the config asks for {required} {order}",
        "data.num_frames, height and width must be those that the data was preprocessed with",
    )


def _draw(what: str, *key: int) -> float:
    """Return a number that follows from the key alone, uniform in [0, 1)."""
    digest = hashlib.sha256(f"{what} {' '.join(map(str, key))}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64
