"""What distilling needs, at a test's size: a teacher's folder, prompts with a negative one, and a train block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.support.trainers.trainer_ranks import ARCHITECTURE, tiny, write_data


def write_teacher(folder: Path, seed: int = 0) -> Path:
    """Random weights, but a network from a folder."""
    from diffusers import WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        WanTransformer3DModel(**ARCHITECTURE).save_pretrained(folder / "transformer")
    return folder


def write_prompted_data(folder: Path, samples: int = 24) -> Path:
    """Clips [4, 2, 4, 4] with prompts, and the negative prompt beside them."""
    write_data(folder, samples)
    negative = torch.randn(2, 16, generator=torch.Generator().manual_seed(9))
    safetensors.torch.save_file({"negative": negative, "empty": torch.zeros(1, 16)}, folder / "prompts.safetensors")
    return folder


def kd(data: Path, teacher: Path | None, cache: Path, **changes: Any) -> dict[str, Any]:
    """A train block of 8 samples a step in micro-batches of 2, on trajectories of 6 steps with flow_shift 5, kept at two."""
    method = {"kind": "kd", "cache": str(cache), "t_list": [1000, 833, 0], "trajectory_steps": 6, "teacher_guidance_scale": 2.0}
    models = {"student": {"architecture": ARCHITECTURE}}
    if teacher is not None:
        models["teacher"] = {"init_from": str(teacher)}
    block = {"method": {**method, "teacher_batch_size": 4}, "models": models, "flow_shift": 5.0, "callbacks": {"ema": {"decay": 0.5}}}
    return tiny(data, **{**block, **changes})


def dmd2(data: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    """A train block of 8 samples a step in micro-batches of 4; the student steps at every third iteration."""
    role = {"init_from": str(teacher)}
    method = {"kind": "dmd2", "denoising_steps": [1000, 750, 400], "generator_update_interval": 3, "teacher_guidance_scale": 3.0}
    schedule = {"kind": "cosine", "decay_steps": 10}
    optimizers = {
        "student": {"kind": "adamw", "lr": 1e-3, "betas": [0.0, 0.99], "schedule": schedule},
        "critic": {"kind": "adamw", "lr": 2e-3, "betas": [0.0, 0.99]},
    }
    models = {"student": role, "teacher": role, "critic": role}
    block = {"method": method, "models": models, "optimizers": optimizers, "callbacks": {"ema": {"decay": 0.5}}, "max_steps": 7}
    block["data__micro_batch_size"] = 4
    return tiny(data, **{**block, **changes})


def nearest_sigma(t: float, shift: float) -> float:
    """Return the noise level, of the 1000 that a shift gives, that is nearest to a timestep t in [0, 1000]."""
    grid = [shift * k / (1000 + (shift - 1) * k) for k in range(1, 1001)]
    return min(grid, key=lambda sigma: abs(1000 * sigma - t))
