"""Owns what a user's own data source must offer, and how its samples become rows. Must not know parquet, nor judge shapes.

A source is for clips that are encoded already and lie in a layout of one's own: `data.source: ./file.py:ClassName` reads `data.path`.
Only how a sample is read is the source's; order, batches, bad samples and text dropout stay what they are for parquet files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..config.data import Needs
from ..errors import UserError
from ..own_code import load_class
from .parquet_rows import Row
from .parquet_schema import Floats

_NAMES = {"latents": {"vae_latent": "latents", "text_embedding": "text"}, "text": {"text_embedding": "text"}}
"""The arrays of a row, by what a method needs, and what `DataSource.read` calls them."""


class DataSource(ABC):
    """Samples of one folder or file, by number. Made once in a rank and once in each of its loader processes."""

    def __init__(self, path: Path, needs: Needs) -> None:
        """Keep where to read, `path`, one of data.path, and what: "latents", or "text" where the method reads prompts alone."""
        self.path, self.needs = path, needs

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples, the same in every process and at every resume."""

    @abstractmethod
    def read(self, index: int) -> Mapping[str, Any]:
        """Return sample `index`, always the same one: numpy arrays latents [C, T, H, W], un-normalised, and text [L, D], not padded; and
        caption, if there is one. Latents may be left out where the method needs text. Whatever this raises makes it a bad sample."""


class OwnRows:
    """The samples of a user's source in each folder, as often as it says. Has what Samples asks of Rows; opens a source on use."""

    block_sizes: ClassVar[None] = None
    largest_block_bytes: ClassVar[int] = 0
    remarks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reference: str, folders: Mapping[str, int], needs: Needs) -> None:
        if needs not in _NAMES:
            raise UserError(f"data.source: a source has no {needs} samples", "the method reads them from parquet: leave data.source out")
        self._reference, self._folders, self._needs = reference, list(folders), needs
        self.forget()
        lengths = [_length(self._source(number), reference) for number in range(len(folders))]
        self._order = [number for number, repeats in enumerate(folders.values()) for _ in range(repeats)]
        self._end = np.cumsum([lengths[number] for number in self._order])
        if not len(self):
            raise UserError(f"data.source: {reference} finds no samples in {', '.join(folders)}")

    def __len__(self) -> int:
        return int(self._end[-1])

    def spread(self, count: int) -> list[int]:
        """Return the numbers of about `count` rows from all over the data."""
        return sorted({index * len(self) // count for index in range(count)})

    def __getitem__(self, index: int) -> Row:
        """Return row `index`; UserError where it cannot be read, lacks an array, or holds values that are not finite."""
        place = int(self._end.searchsorted(index, "right"))
        number, row = self._order[place], index - int(self._end[place - 1] if place else 0)
        where = f"{self._folders[number]}: sample {row}"
        try:
            sample = self._source(number).read(row)
            arrays = {name: _array(sample, own) for name, own in _NAMES[self._needs].items()}
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where} cannot be read: {type(error).__name__}: {error}", f"by {self._reference}") from error
        return Row(arrays, str(sample.get("caption") or ""), where)

    def forget(self) -> None:
        """Give back what is open."""
        self._sources: dict[int, DataSource] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": {}}

    def _source(self, number: int) -> DataSource:
        if number not in self._sources:
            source_class = load_class(self._reference, DataSource, "data.source")  # type: ignore[type-abstract]
            self._sources[number] = _opened(source_class, Path(self._folders[number]), self._needs, self._reference)
        return self._sources[number]


def _opened(source_class: type[DataSource], path: Path, needs: Needs, reference: str) -> DataSource:
    try:
        return source_class(path, needs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.source: {reference} cannot open {path}: {type(error).__name__}: {error}") from error


def _length(source: DataSource, reference: str) -> int:
    try:
        return len(source)
    except Exception as error:
        raise UserError(f"data.source: {reference} cannot count the samples of {source.path}: {type(error).__name__}: {error}") from error


def _array(sample: Mapping[str, Any], name: str) -> Floats:
    if sample.get(name) is None:
        raise ValueError(f"it has no {name!r}")
    values: Floats = np.ascontiguousarray(sample[name], np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"its {name} hold values that are not finite")
    return values
