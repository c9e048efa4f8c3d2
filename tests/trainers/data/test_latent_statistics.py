"""What is checked before the first step: the latents' statistics, the method's and the models' own checks, sizes that fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from tests.support.trainers import trainer_ranks
from tests.support.trainers.stored import config, run
from trainers.config import Problem, Section, TrainConfig, check
from trainers.config.methods.base import MethodConfig
from trainers.data.latent_statistics import check_statistics
from trainers.data.parquet_schema import PartWriter, Sample
from trainers.data.samples import WAN_LATENTS_MEAN, WAN_LATENTS_STD
from trainers.errors import UserError

MEAN, STD = np.array(WAN_LATENTS_MEAN), np.array(WAN_LATENTS_STD)


def clips(mean: Any, std: Any, count: int = 8) -> list[Any]:
    """[16, 3, 8, 8] each, with the given statistics by channel, a colour and a contrast of its own."""
    random = np.random.RandomState(0)
    made = []
    for _ in range(count):
        own = 0.5 * random.standard_normal((16, 1, 1, 1)) + random.uniform(0.5, 1.1) * random.standard_normal((16, 3, 8, 8))
        made.append((own * np.reshape(std, (-1, 1, 1, 1)) + np.reshape(mean, (-1, 1, 1, 1))).astype("f4"))
    return made


def verdict(latents: list[Any], mean: Any = MEAN, std: Any = STD) -> str:
    warned: list[str] = []
    try:
        check_statistics(latents, mean, std, "data", warned.append)
    except UserError as error:
        return str(error)
    return warned[0] if warned else ""


def test_latents_of_the_right_vae_pass() -> None:
    assert verdict(clips(MEAN, STD)) == ""
    assert verdict(clips(MEAN, STD, count=1)) == ""
    assert verdict(clips(np.zeros(16), np.ones(16)), np.zeros(16), np.ones(16)) == ""


def test_latents_that_would_reach_the_model_un_normalised_are_refused() -> None:
    found = verdict(clips(MEAN, STD), np.zeros(16), np.ones(16))
    assert "reach the model un-normalised" in found and "data.latents_mean" in found and "check_statistics: false" in found
    assert "un-normalised" in verdict(clips(MEAN, 100 * STD))
    assert "un-normalised" in verdict(clips(MEAN + 3 * STD, STD))
    assert "un-normalised" in verdict([np.zeros((16, 1, 2, 2), "f4")])


def test_latents_that_were_stored_normalised_are_refused() -> None:
    assert "they were stored normalised" in verdict(clips(np.zeros(16), np.ones(16)))


def test_what_is_only_unusual_is_a_warning() -> None:
    found = verdict(clips(MEAN, 0.4 * STD))
    assert found.startswith("data: the normalised latents of 8 samples have deviation") and "hint" not in found
    assert "hint" not in verdict(clips(0.1 * MEAN, 0.45 * STD, count=1))  # one calm clip, as far from 0 and 1 as normalised ones would be


def test_a_run_on_un_normalised_latents_does_not_start_unless_told_to(tmp_path: Path) -> None:
    with PartWriter(tmp_path, rows_per_file=8) as writer:
        for number, latents in enumerate(clips(MEAN, STD)):
            writer.write(Sample(str(number), latents, np.ones((1, 4), "f4"), "", "", 8, 8, 1.0, 8.0))
    sizes: dict[str, Any] = {"height": 16, "width": 16, "latents_mean": None, "latents_std": None, "check_statistics": True}
    run(config(tmp_path, **sizes))
    raw = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    with pytest.raises(UserError, match=f"^{tmp_path}: the normalised latents of 8 samples .* un-normalised"):
        run(config(tmp_path, **{**sizes, **raw}))
    run(config(tmp_path, **{**sizes, **raw, "check_statistics": False}))


# --- the config's checks


class Chunked(MethodConfig):
    kind: Literal["chunked"] = "chunked"
    chunk: int = 3
    trainable_roles: ClassVar[tuple[str, ...]] = ("student",)

    def problems(self, train: TrainConfig) -> list[Problem]:
        wrong = train.data.latent_shape[0] % self.chunk
        return [Problem(("method", "chunk"), f"leaves {wrong} frames over", "use 2")] if wrong else []


class Picky(Section):
    architecture: dict[str, int] = {}

    def problems(self, role: str, train: TrainConfig) -> list[Problem]:
        return [Problem(("models", role), f"no model for seed {train.seed}")]


def train(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(trainer_ranks.tiny(Path("x"), **changes))


def test_a_method_and_a_model_add_their_own_problems() -> None:
    plain = train()
    assert check(plain, 1) == [] and plain.method.needs == "latents"
    found = plain.model_copy(update={"method": Chunked(), "models": {"student": Picky()}})
    assert check(found, 1) == [
        Problem(("method", "chunk"), "leaves 2 frames over", "use 2"),
        Problem(("models", "student"), "no model for seed 1000"),
    ]


def test_sizes_that_do_not_go_together_are_told_at_their_key() -> None:
    three = {"models__student__architecture__in_channels": 3, "models__student__architecture__out_channels": 3}
    assert check(train(**three, data__latents_mean=[0.0] * 3, data__latents_std=[1.0] * 3), 1) == []
    keys = {problem.path for problem in check(train(data__latents_std=[1.0] * 3), 1)}
    assert keys == {("data", "latents_std")}
    (problem,) = check(train(data__path={"a": 1}, data__prepare={"kind": "shapes"}), 1)
    assert problem.path == ("data", "path") and "one folder" in problem.message


def test_sequence_parallel_ranks_must_divide_the_heads() -> None:
    messages = [problem.message for problem in check(train(parallel__sequence=3), 3)]
    assert "3 does not divide the 2 attention heads of models.student" in messages
    assert not any("heads" in problem.message for problem in check(train(parallel__sequence=2), 2))
