"""Recipes of all programs: what a recipe can be, what `tiny` makes of it, and what the ranks get."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config import lookup
from fvlaunch.config.compose import Composed, compose
from fvlaunch.errors import ConfigError
from fvlaunch.planning.plan import make_plan
from fvlaunch.runs.run_config import RunConfig

RECIPES = sorted(entry.name for entry in lookup.listing("recipe", Path("/")) if entry.layer == "packaged")


@pytest.fixture(autouse=True)
def _no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def resolved(tmp_path: Path, recipe: str, *sets: str) -> Composed:
    return compose(recipe, "local", cwd=tmp_path, sets=sets)


def planned(composed: Composed, tmp_path: Path, **named: Any) -> Any:
    return make_plan(composed, now=datetime(2026, 1, 1), cwd=tmp_path, cores_per_node=8, **named)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_resolves_plans_and_says_what_it_is(tmp_path: Path, recipe: str) -> None:
    composed = resolved(tmp_path, recipe)
    assert composed.recipe.description
    plan = planned(composed, tmp_path)
    assert plan.program == composed.recipe.program and plan.ranks == composed.recipe.resources.ranks


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_has_a_laptops_size_that_repeats_itself(tmp_path: Path, recipe: str) -> None:
    composed = resolved(tmp_path, recipe, "tiny=true")
    plan = planned(composed, tmp_path)
    assert plan.ranks == 1
    text = repr(composed.recipe_data)
    assert "Wan-AI" not in text or composed.recipe.program == "download"
    (tmp_path / "run").mkdir()
    from fvlaunch.config.strict_yaml import dump

    (tmp_path / "run/run.yaml").write_text(dump({"recipe": plan.recipe, "cluster": plan.cluster, "lock": {}}))
    assert compose(str(tmp_path / "run/run.yaml"), cwd=tmp_path).recipe_data == plan.recipe


def test_tiny_leaves_the_moving_shapes_as_they_are(tmp_path: Path) -> None:
    """Their clips come in one size; another one was refused only in the job."""
    train = resolved(tmp_path, "shapes-dmd2", "tiny=true").recipe.train
    assert train is not None and train == resolved(tmp_path, "shapes-dmd2").recipe.train


def test_tiny_gives_way_to_what_a_person_says(tmp_path: Path) -> None:
    train = resolved(tmp_path, "finetune", "tiny=true", "train.data.num_frames=17").recipe.train
    assert train is not None
    assert (train.data.num_frames, train.data.height, train.models["student"].init_from) == (17, 32, "tiny-wan")  # type: ignore[attr-defined]
    assert str(train.data.path).endswith("crush-smol_77x448x832-tiny")


def test_tiny_trajectories_have_a_folder_of_their_own(tmp_path: Path) -> None:
    train = resolved(tmp_path, "kd", "tiny=true").recipe.train
    assert train is not None
    assert str(train.method.cache).endswith("trajectories-wan2.1-14b-tiny")  # type: ignore[attr-defined]


def test_the_ranks_get_their_program_and_its_block(tmp_path: Path) -> None:
    composed = resolved(tmp_path, "preprocess", "tiny=true")
    [(program, block)] = RunConfig(composed.recipe, composed.cluster, 1).program.items()
    assert (program, block["model"], block["output"]) == ("preprocess", "tiny-wan", str(tmp_path / "data/crush-smol_77x448x832-tiny"))
    assert RunConfig(resolved(tmp_path, "shapes-finetune").recipe, composed.cluster, 1).program["train"]["failed_saves"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: x\n", "'train' is missing"),
        ("extends: preprocess\ndownload: {models: [{id: a/b}]}\n", "preprocess and download exclude"),
    ],
)
def test_a_recipe_does_exactly_one_thing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolved(tmp_path, "r.yaml")
