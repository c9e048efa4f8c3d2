"""One way to mean yes: whatever reads as a boolean for one switch reads so for every other, wherever it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config import sbatch_options
from fvlaunch.config.compose import compose
from fvlaunch.config.values import boolean
from fvlaunch.errors import ConfigError
from tests.support.configuration import Write

YES = ["true", "True", "TRUE", "yes", "Yes", "on", "On", "ON", "y", "t", "1", '"true"', '"yes"', "'1'", "1.0"]
NO = ["false", "False", "no", "No", "off", "OFF", "n", "f", "0", '"false"', '"no"', "'0'", "0.0"]
NEITHER = ["ja", "2", "-1", "0.5", "''", "[]", "[true]", "{a: true}", '" yes"', "truthy", "none"]
SWITCHES = ["train.deterministic", "train.models.student.compile", "train.tracking.tensorboard", "train.data.check_statistics"]


def _value(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data[part]
    return data


@pytest.mark.parametrize(("words", "meant"), [(YES, True), (NO, False)])
def test_every_word_for_yes_or_no_means_the_same_in_every_switch(write: Write, here: Path, words: list[str], meant: bool) -> None:
    for word in words:
        sets = [f"{key}={word}" for key in SWITCHES]
        found = compose("r.yaml", cwd=here, sets=[*sets, "train.models.student.family=wan"])
        assert [_value(found.recipe_data, key) for key in SWITCHES] == [meant] * len(SWITCHES), word


@pytest.mark.parametrize(("words", "frames"), [(YES, 9), (NO, 77)])
def test_every_word_for_yes_makes_a_recipe_tiny_however_it_is_given(write: Write, here: Path, words: list[str], frames: int) -> None:
    for word in words:
        asked = compose("finetune", "local", cwd=here, sets=[f"tiny={word}"])
        assert asked.recipe.train is not None and asked.recipe.train.data.num_frames == frames, word
    for word in words[:6]:
        write("mine.yaml", f"extends: finetune\ntiny: {word}\n")
        written = compose("mine.yaml", "local", cwd=here)
        assert written.recipe.train is not None and written.recipe.train.data.num_frames == frames, word


def test_the_last_word_about_tiny_counts(write: Write, here: Path) -> None:
    write("mine.yaml", "extends: finetune\ntiny: yes\n")
    for sets, frames in (
        (["tiny=off"], 77),
        (["tiny=null"], 77),
        (["tiny=no", "tiny=1"], 9),
        (["tiny=on", "train.data.num_frames=17"], 17),
    ):
        train = compose("mine.yaml", "local", cwd=here, sets=sets).recipe.train
        assert train is not None and train.data.num_frames == frames, sets


@pytest.mark.parametrize("word", NEITHER)
@pytest.mark.parametrize("key", ["tiny", "train.deterministic"])
def test_what_is_no_boolean_is_refused_with_the_key_and_the_words(write: Write, here: Path, key: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("r.yaml", cwd=here, sets=[f"{key}={word}"])
    [problem] = caught.value.problems
    assert problem.key == key and "true or false" in problem.message and "yes and no, on and off, 1 and 0" in problem.hint


def test_switches_of_sbatch_take_the_same_words() -> None:
    for word in ("yes", "On", "true", "1", "y", 1, True, ""):
        assert sbatch_options.option("exclusive", word) is True and sbatch_options.option("hold", word) is True, word
    for word in ("no", "OFF", "false", "0", "n", 0, False, None):
        assert sbatch_options.option("exclusive", word) is None and sbatch_options.option("hold", word) is None, word
    assert sbatch_options.option("nice", 1) == 1 and sbatch_options.option("nice", "yes") is True
    assert sbatch_options.option("exclusive", "user") == "user"
    assert [sbatch_options.option("kill-on-invalid-dep", word) for word in (True, "yes", "on", False, "no")] == [
        "yes",
        "yes",
        "yes",
        "no",
        "no",
    ]
    with pytest.raises(sbatch_options.OptionError, match="takes no value") as caught:
        sbatch_options.option("hold", "maybe")
    assert "yes and no" in caught.value.hint


def test_what_is_neither_yes_nor_no_is_no_boolean() -> None:
    assert [boolean(value) for value in (True, "off", 1, "true", "maybe", 2, None, [], {})] == [True, False, True, True, *[None] * 5]
