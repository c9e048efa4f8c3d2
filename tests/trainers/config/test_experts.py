"""Promises of submitting roles of two experts: what is missing is told by key before anything starts; tiny ones stand in for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError
from fvlaunch.planning.preflight import check_inputs

PRESETS = ("finetune-a14b", "lora-a14b", "kd-causal-a14b", "self-forcing-a14b")


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def problems(tmp_path: Path, recipe: str, *sets: str) -> dict[str | None, str]:
    try:
        check_inputs(compose(recipe, "local", cwd=tmp_path, sets=sets))
    except ConfigError as error:
        return {problem.key: problem.message for problem in error.problems}
    return {}


def test_one_expert_missing_is_refused_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "one/transformer").mkdir(parents=True)
    start = f"train.models.student.init_from={tmp_path / 'one'}"
    found = problems(tmp_path, "finetune-a14b", start)
    assert "one expert is missing" in found["train.models.student.init_from"]
    other = "train.models.student.experts.transformer_2.init_from"
    assert "train.models.student.init_from" not in problems(tmp_path, "finetune-a14b", start, f"{other}={tmp_path / 'one'}")
    assert "does not exist" in problems(tmp_path, "finetune-a14b", start, f"{other}=/no/such/folder")[other]


def test_a_boundary_that_the_pipeline_was_not_trained_with_is_refused_unless_it_was_named(tmp_path: Path) -> None:
    for part in ("transformer", "transformer_2"):
        (tmp_path / "two" / part).mkdir(parents=True)
    (tmp_path / "two/model_index.json").write_text(json.dumps({"boundary_ratio": 0.9}))
    (tmp_path / "own.yaml").write_text(
        "extends: finetune-a14b\ntrain: {models: {student: {boundary_ratio: null, init_from: " + str(tmp_path / "two") + "}}}\n"
    )
    key = "train.models.student.boundary_ratio"
    assert "0.9" in problems(tmp_path, "./own.yaml")[key]
    assert key not in problems(tmp_path, "./own.yaml", f"{key}=0.9")


@pytest.mark.parametrize("ratio", ["0", "1", "1.2"])
def test_a_boundary_outside_of_0_and_1_is_refused_at_its_key(tmp_path: Path, ratio: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("self-forcing-a14b", "local", cwd=tmp_path, sets=[f"train.models.student.boundary_ratio={ratio}"])
    assert "train.models.student.boundary_ratio" in {problem.key for problem in caught.value.problems}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_whole_but_for_its_data_and_models(tmp_path: Path, preset: str) -> None:
    found = problems(tmp_path, preset)
    assert found and all(key == "train.data.path" or str(key).endswith(".init_from") for key in found), found


@pytest.mark.parametrize("preset", PRESETS)
def test_tiny_experts_stand_in_for_all(tmp_path: Path, preset: str) -> None:
    train: Any = compose(preset, "local", cwd=tmp_path, sets=["tiny=true"]).recipe.train
    for model in train.models.values():
        assert {own.init_from for own in model.experts.values()} <= {"tiny-wan-a14b"} and model.init_from == "tiny-wan-a14b"
    assert not [key for key in problems(tmp_path, preset, "tiny=true") if str(key).startswith("train.models")]
