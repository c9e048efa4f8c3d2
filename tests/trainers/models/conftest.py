"""Fixtures of the tests of Wan: diffusers' own small network of random weights, and the folder it is saved in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.trainer_ranks import ARCHITECTURE


@pytest.fixture(scope="module")
def network() -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    return WanTransformer3DModel(**ARCHITECTURE)


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "transformer")
    return tmp_path
