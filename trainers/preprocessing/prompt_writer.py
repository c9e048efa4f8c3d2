"""Owns prompts.safetensors: the embeddings that no sample holds, and whose they are. Must not load an encoder.

Keys: `empty`, `negative`, `validation.000`, …, each [L, D] float32. Metadata: `texts`, JSON of {key: prompt}, and `encoder`, the text
encoder's digest; so a run can tell which prompts it shows, and that data of two encoders are not mixed. data/prompt_embeddings.py reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ..config.programs.preprocess import DEFAULT_NEGATIVE
from ..data.parquet_schema import PROMPTS
from ..files import publish
from ..models.codecs.base import Codec


def texts(codec: Codec, negative: str = DEFAULT_NEGATIVE, validation: list[str] | None = None) -> dict[str, str]:
    """Return the prompt of each key."""
    shown = {f"validation.{number:03d}": text for number, text in enumerate(validation or [])}
    return {"empty": "", "negative": codec.negative_prompt if negative == DEFAULT_NEGATIVE else negative, **shown}


def write(output: Path, codec: Codec, prompts: dict[str, str], encoder: str) -> None:
    """Embed the prompts and write them into `output`, which is made if need be."""
    plain = {key: codec.encode_text(text).float().cpu().contiguous() for key, text in prompts.items()}
    output.mkdir(parents=True, exist_ok=True)
    metadata = {"texts": json.dumps(prompts, ensure_ascii=False), "encoder": encoder}
    publish(output / PROMPTS, lambda temporary: temporary.write_bytes(safetensors.torch.save(plain, metadata)))


def copy(source: Path, output: Path) -> None:
    """Copy the prompts file of data that is written again."""
    publish(output / PROMPTS, lambda temporary: temporary.write_bytes(source.read_bytes()))


def holds(path: Path, prompts: dict[str, str]) -> bool:
    """Return whether the file is there and holds embeddings of these texts."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return bool(json.loads((file.metadata() or {})["texts"]) == prompts)
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return False
