"""What a simulation is given: every preset at the size that its models really have, and figures that can be traced to a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu import job
from trainers.config.network_size import architecture_of


@pytest.mark.parametrize("preset", job.PRESETS)
def test_every_preset_can_be_simulated_from_a_fresh_clone(preset: str, tmp_path: Path) -> None:
    made = job.make(preset, tmp_path)
    for model in made.train["models"].values():
        config = json.loads((Path(model["init_from"]) / "transformer/config.json").read_text())
        assert (config["num_layers"], config["ffn_dim"]) in [(30, 8960), (40, 13824)]
    assert not [path for path in tmp_path.rglob("*.safetensors") if path.name != "prompts.safetensors"], "no weights are needed"


@pytest.mark.parametrize(
    ("name", "layers"),
    [("models/wan2.1-t2v-1.3b-kd-causal", 30), ("models/kd-causal-wan2.2-a14b", 40), ("Wan-AI/Wan2.1-T2V-14B-Diffusers", 40)],
)
def test_a_name_tells_the_size_in_any_case(name: str, layers: int) -> None:
    architecture = architecture_of(name)
    assert architecture is not None and architecture.num_layers == layers


def test_the_digest_depends_on_the_recipe_and_not_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job.make("dmd2", tmp_path / "one").digests
    monkeypatch.chdir(tmp_path)
    assert job.make("dmd2", tmp_path / "two").digests == here
    assert job.make("dmd2", tmp_path / "three", sets=["train.data.num_frames=61"]).digests["config"] != here["config"]
    assert job.make("dmd2", tmp_path / "four", ranks=2).digests["config"] != here["config"]


def test_an_export_keeps_what_it_says_of_its_attention(tmp_path: Path) -> None:
    """As a network with gates is built only where its folder says so."""
    exported = tmp_path / "wan-1.3b-exported/transformer"
    exported.mkdir(parents=True)
    note = {"kind": "vsa", "sparsity": 0.5}
    (exported / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel", "num_layers": 30, "_attention": note}))
    made = job.make("finetune", tmp_path / "job", sets=[f"train.models.student.init_from={exported.parent}"])
    config = json.loads((Path(made.train["models"]["student"]["init_from"]) / "transformer/config.json").read_text())
    assert config["_attention"] == note


def test_a_network_with_fewer_blocks_is_of_that_many_in_every_role(tmp_path: Path) -> None:
    made = job.make("self-forcing-a14b", tmp_path, layers=2)
    configs = [json.loads(path.read_text()) for path in tmp_path.rglob("config.json")]
    assert len(configs) == 4 and {config["num_layers"] for config in configs} == {2}
    assert made.digests != job.make("self-forcing-a14b", tmp_path / "whole").digests


@pytest.mark.parametrize(
    ("preset", "sets", "words"),
    [
        ("preprocess", [], "does not train"),
        ("finetune", ["train.models.student.init_from=models/mine"], "size of"),
        ("finetune", ["train.data.global_batch_size=7"], "global_batch_size"),
    ],
)
def test_what_cannot_be_simulated_is_told_in_words(preset: str, sets: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(job.NoJob, match=words):
        job.make(preset, tmp_path, sets=sets)
