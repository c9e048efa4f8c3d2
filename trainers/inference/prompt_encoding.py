"""Owns the prompts of validation and samples as embeddings, and the codec that makes and shows them. Must not sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..config.validation import ValidationConfig
from ..data import dataset
from ..data.prompt_embeddings import prompts as stored_prompts
from ..errors import UserError
from ..models.base import COMPUTE_TYPES
from ..models.codecs.base import Codec
from ..models.codecs.shapes import ShapesCodec
from ..models.codecs.wan import WanCodec
from ..models.loading import model_folder

SHAPES = "shapes"
"""The name of the moving-shapes task's codec, where otherwise a model folder or hub id stands."""


# --- prompts and codecs


@dataclass(frozen=True)
class Embedded:
    """A prompt's text and its embedding [text_len, D]."""

    text: str
    embedding: Tensor


def model_reference(train: TrainConfig, model: str | None, role: str = "student") -> tuple[str, str | None] | None:
    """Return (codec, revision): SHAPES, or the model whose VAE and text encoder belong to the data; None where nothing tells which."""
    if model is not None:
        return model, None
    if train.data.prepare is not None:
        return SHAPES, None
    student: Any = train.models[role]
    return None if student.init_from is None else (student.init_from, student.revision)


def make_codec(reference: tuple[str, str | None] | None, train: TrainConfig, device: torch.device, *, text: bool, video: bool) -> Codec:
    if reference is None:
        raise UserError(
            "nothing tells whose VAE and text encoder belong to this data: the network did not start from a model",
            "callbacks.validation.model names a diffusers folder, a hub id, or shapes",
        )
    if reference[0] == SHAPES:
        return ShapesCodec()
    folder = model_folder.resolve(*reference)
    return WanCodec(folder, device, COMPUTE_TYPES[train.precision] if device.type == "cuda" else torch.float32, text=text, video=video)


def embed(texts: Sequence[str], train: TrainConfig, codec: Callable[[], Codec]) -> list[Embedded]:
    """Embed prompts as the data's prompts are: stored embeddings beside the data are used, else `codec` is called, once."""
    stored = stored_prompts(train.data)
    known = {} if stored is None else {stored.texts[name]: value for name, value in stored.embeddings.items() if name in stored.texts}
    made: Codec | None = None
    embedded = []
    for text in texts:
        if text not in known:
            made = made or codec()
            known[text] = made.encode_text(text)
        embedded.append(Embedded(text, dataset.pad(known[text], train.data.text_len)[0]))
    return embedded


def validation_texts(train: TrainConfig, validation: ValidationConfig) -> list[str]:
    """Return the prompts that `validation` names, else those that the data was preprocessed with."""
    if validation.prompts is not None:
        return list(validation.prompts)
    stored = stored_prompts(train.data)
    return [] if stored is None else [stored.texts[name] for name in stored.validation if name in stored.texts]


def sample_prompts(train: TrainConfig, count: int = 2) -> list[Embedded]:
    """Return the prompts of the first samples, for data that was preprocessed without validation prompts, as others' data sets are."""
    samples = dataset.ParquetDataset(train.data.model_copy(update={"text_dropout": 0.0}), train.seed, "text")
    rows = [samples[(0, index)] for index in range(min(count, len(samples)))]
    return [Embedded(row["caption"] or f"sample {index}", row["prompt"]) for index, row in enumerate(rows)]


def negative_embedding(train: TrainConfig, text: str | None, codec: Callable[[], Codec]) -> Embedded:
    """Return the negative prompt for the unconditional prediction: `text`, else the data's own, else the codec's."""
    stored = stored_prompts(train.data)
    if text is None and stored is not None and "negative" in stored.embeddings:
        text = stored.texts.get("negative", "")
        return Embedded(text, dataset.pad(stored.negative, train.data.text_len)[0])
    made = codec()
    return embed([made.negative_prompt if text is None else text], train, lambda: made)[0]
