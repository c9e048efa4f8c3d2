"""Owns what is said of classifier-free guidance: the one convention here, u + s (c - u), and what others' keys mean. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data_folder import places_beside
from .section import Problem

if TYPE_CHECKING:
    from .train_block import TrainBlock

OTHERS_KEY = "real_score_guidance_scale"
_PROMPTS = "prompts.safetensors"


def conversions(value: Any) -> str:
    """Return hints for both conventions that go by OTHERS_KEY, since neither can be assumed."""
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    scripts, yaml_files = ("w + 1", "s") if number is None else (f"{number + 1:g}", f"{number:g}")
    return (
        "use method.teacher_guidance_scale, the s of u + s(c-u). FastVideo's launch scripts mean the w of c + w(c-u), "
        f"so s = w + 1: {scripts}; its newer YAML files mean s itself: {yaml_files}"
    )


def no_negative_prompt(train: TrainBlock, scale: float) -> list[Problem]:
    """Return the problem where the unconditional prediction has no prompt to read; None where it has. Looks at the disk."""
    if scale == 1 or train.data.prepare is not None:
        return []
    folders = [Path(folder) for folder in train.data.folders]
    if not any(map(Path.exists, folders)) or any((place / _PROMPTS).is_file() for folder in folders for place in places_beside(folder)):
        return []
    message = f"guidance needs the negative prompt's embedding, but {' and '.join(map(str, folders))} has no {_PROMPTS}"
    return [Problem(("data", "path"), message, "preprocess writes it (kind: rewrite for others' files); a scale of 1 does without")]
