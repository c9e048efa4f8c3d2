"""The estimate of every preset's memory beside what was simulated (tests/gpu), and what GPUs a preset needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fvlaunch.config.compose import Composed, compose
from tests.gpu import results
from tests.gpu.figures import Figures
from tests.gpu.job import PRESETS
from trainers.config.memory_estimate import Memory, estimate

GB = 1e9
ALLOWED = 0.1
USABLE = 0.95
"""Of a GPU of 80 GB, 76 GB: the rest is CUDA's, NCCL's and the kernels'."""
STORED = results.stored()


def composed(preset: str) -> Composed:
    return compose(preset, "local")


def of(preset: str) -> Memory:
    recipe = composed(preset).recipe
    assert recipe.train is not None
    return estimate(recipe.train, recipe.resources.ranks)


def reserved(figures: Figures) -> int:
    return max(phase.reserved or 0 for phase in figures.phases.values())


def test_the_estimate_is_within_a_tenth_of_what_was_simulated() -> None:
    assert set(STORED) == set(PRESETS)
    off = {preset: of(preset).peak / reserved(figures) - 1 for preset, figures in STORED.items()}
    table = "\n".join(
        f"{preset:20} estimated {of(preset).peak / GB:5.1f} GB, simulated {reserved(STORED[preset]) / GB:5.1f} GB: {100 * by:+.1f}%"
        for preset, by in off.items()
    )
    assert not [preset for preset, by in off.items() if abs(by) > ALLOWED], f"\n{table}"


def test_what_roles_keep_is_counted_as_it_was_simulated() -> None:
    for preset, figures in STORED.items():
        for role in (role for role in of(preset).roles if not role.before_training):
            assert role.kept - role.gradients == pytest.approx(figures.roles[role.role].total, rel=0.02), (preset, role.role)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_its_gpus(preset: str) -> None:
    """GPUs of 80 GB, or of what the recipe's first lines say."""
    taken = max(of(preset).peak, reserved(STORED[preset]) if preset in STORED else 0)
    head = "\n".join(Path(composed(preset).recipe_path).read_text().splitlines()[:6])
    said = re.search(r"GPUs of (\d+) GB", head)
    size = int(said[1]) if said else 80
    assert taken <= USABLE * size * GB, f"{preset} takes {taken / GB:.0f} GB; its first lines may say 'GPUs of N GB'"
    assert said is None or taken > USABLE * 80 * GB, f"{preset} fits GPUs of 80 GB, and its first lines say {size}"
