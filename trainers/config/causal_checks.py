"""Owns the checks of block-causal students: that there are blocks, that they fit the video, what the weights were trained as.

Must not import torch. How a video is cut into blocks: trainers/diffusion/frame_blocks.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hub_cache
from .counting import counted
from .export_folder import TRAINING
from .models.wan_a14b import HIGH, LOW, TwoExperts
from .section import Problem
from .stored_json import read_object

if TYPE_CHECKING:
    from .train_block import TrainBlock

_MADE_HERE = ("tiny-wan", "tiny-wan-a14b")
"""Random weights for trying things out: trained as nothing."""


def problems(train: TrainBlock) -> list[Problem]:
    """Return the problems of a method whose student must be block-causal."""
    student, kind = train.models.get("student"), train.method.kind
    if student is None:
        return []
    per_block = getattr(student, "num_frames_per_block", None)
    if per_block is None:
        message = f"method {kind} needs a block-causal student, not the family {getattr(student, 'family', None)!r}"
        return [Problem(("models", "student", "family"), message, "use family: causal-wan; it loads the same weights")]
    frames = train.data.latent_shape[0]
    if per_block > frames:
        message = f"a block of {counted(per_block, 'frame')} is longer than the video's {counted(frames, 'latent frame')}"
        hint = f"at most {frames}; where it does not divide them, the last block is smaller"
        return [Problem(("models", "student", "num_frames_per_block"), message, hint)]
    return []


def wrong_start(student: Any) -> tuple[str, str] | None:
    """Return (what is wrong, hint) with a student that must start as a causal network of its own blocks; else None. Looks at the disk.

    Of two experts each must start so. None also for a folder that is not here: other checks report its absence.
    """
    if isinstance(student, TwoExperts):
        return next((wrong for name in (HIGH, LOW) if (wrong := _wrong(student.expert(name)))), None)
    return _wrong(student)


def _wrong(student: Any) -> tuple[str, str] | None:
    reference, hint = getattr(student, "init_from", None), "distil a start for it first: the recipe kd-causal, and export that"
    if reference in _MADE_HERE:
        return None
    if reference is None:
        return "the student would start from random weights, not from a causal network", hint
    folder = hub_cache.local_model(reference, getattr(student, "revision", None))
    if folder is None:
        return None
    trained_as = _trained_as(folder)
    if trained_as is None:
        return f"nothing tells that {reference} was trained as a causal network: it has no {TRAINING}", hint
    per_block = trained_as.get("num_frames_per_block")
    if per_block is None:
        return f"{reference} was trained as a bidirectional network (family {trained_as.get('family')!r}), not as a causal one", hint
    if per_block != student.num_frames_per_block:
        message = (
            f"{reference} was trained on blocks of {counted(per_block, 'frame')}, not "
            f"of num_frames_per_block {student.num_frames_per_block}"
        )
        return message, f"num_frames_per_block: {per_block}"
    return None


def _trained_as(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the role whose weights the folder holds; None where nothing tells."""
    try:
        facts = read_object(folder / TRAINING)
        section: dict[str, Any] = facts["train"]["models"][facts["role"]]
        return section if isinstance(section, dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
