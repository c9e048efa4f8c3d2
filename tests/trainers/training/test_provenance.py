"""Promises of what a checkpoint records of how it was made: whatever changes numbers, and nothing that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fvlaunch.config.compose import compose
from trainers.models.attention import kernel_packages
from trainers.training.provenance import numerics


class Rank:
    def __init__(self, device: str) -> None:
        self.device = torch.device(device)


def recorded(device: str, recipe: str, folder: Path) -> dict[str, Any]:
    rank: Any = Rank(device)
    versions: dict[str, Any] = numerics(rank, compose(recipe, "local", cwd=folder).recipe.train)["versions"]
    return versions


def test_a_package_with_kernels_is_recorded_where_it_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume with another one, or without it, is then told as not bitwise."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA Test")
    monkeypatch.setattr(kernel_packages, "_installed", lambda name: "0.3.5" if name == "fastvideo-kernel" else "")
    assert recorded("cuda", "dmd2-vsa", tmp_path)["fastvideo-kernel"] == "0.3.5"
    assert recorded("cuda", "dmd2-vsa", tmp_path).keys() == {"torch", "diffusers", "fastvideo-kernel"}
    assert recorded("cuda", "dmd2", tmp_path).keys() == recorded("cpu", "dmd2-vsa", tmp_path).keys() == {"torch", "diffusers"}
