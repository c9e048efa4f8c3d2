"""Owns reading the embeddings of prompts that no sample holds: `empty`, `negative`, `validation.000`, … Must not encode any."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from ..config.data import DataConfig
from ..config.data_folder import places_beside
from ..errors import UserError
from .parquet_schema import PROMPTS

_AGAIN = "preprocess again to write it"


@dataclass(frozen=True)
class Prompts:
    """The content of a prompts file: `embeddings` by name, [L, D] float32, not padded; `texts` by name; `encoder`, the text encoder's
    digest."""

    path: Path
    embeddings: dict[str, Tensor]
    texts: dict[str, str] = field(default_factory=dict)
    encoder: str | None = None

    def __getitem__(self, name: str) -> Tensor:
        """Return the embedding [L, D] of a name; UserError where the file has no such prompt."""
        if name not in self.embeddings:
            raise UserError(f"{self.path} has no prompt {name!r}; it has {', '.join(sorted(self.embeddings)) or 'none'}", _AGAIN)
        return self.embeddings[name]

    @property
    def empty(self) -> Tensor:
        """Return the empty prompt's embedding [L, D], for classifier-free guidance and text dropout."""
        return self["empty"]

    @property
    def negative(self) -> Tensor:
        """Return the negative prompt's embedding [L, D], for the unconditional prediction."""
        return self["negative"]

    @property
    def validation(self) -> list[str]:
        """Return the names of the validation prompts, in order."""
        return sorted(name for name in self.embeddings if name.startswith("validation."))


def prompts(config: DataConfig) -> Prompts | None:
    """Return the prompts of the data's folders, which must agree on the text encoder; None where none has such a file (others' data
    sets)."""
    files = [read(path) for path in (_beside(Path(folder)) for folder in config.folders) if path is not None]
    for other in files[1:]:
        if other.encoder != files[0].encoder:
            raise UserError(
                f"{files[0].path} and {other.path} are of different text encoders", "preprocess them with one model to train on both"
            )
    return files[0] if files else None


def required(config: DataConfig, needed_by: str) -> Prompts:
    """Return the prompts of the data's folders; UserError where there are none. `needed_by` names the key that needs them."""
    stored = prompts(config)
    if stored is None:
        raise UserError(f"{needed_by} needs embeddings of prompts, but there is no {PROMPTS} in {', '.join(config.folders)}", _AGAIN)
    return stored


def _beside(folder: Path) -> Path | None:
    return next((p for place in places_beside(folder) if (p := place / PROMPTS).is_file()), None)


def read(path: Path) -> Prompts:
    """Read a prompts file; UserError where it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            embeddings = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  not a mapping
            metadata = file.metadata() or {}
        texts = json.loads(metadata.get("texts", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}", _AGAIN) from error
    for name, values in embeddings.items():
        if values.dim() != 2 or not torch.isfinite(values).all():
            raise UserError(f"{path} has no usable embedding {name!r}", _AGAIN)
    return Prompts(path, embeddings, texts, metadata.get("encoder"))
