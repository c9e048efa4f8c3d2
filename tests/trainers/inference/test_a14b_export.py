"""Promises of exports of two experts: stock diffusers loads both bit by bit, and samples across the boundary as the run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.alignment import realigned
from tests.support.trainers.exports import (
    LORA,
    VALIDATION,
    finished,
    network_inputs,
    run_export,
    same_bits,
    sampled_by_the_run,
    trained_weights,
    wan_config,
)
from tests.support.trainers.trainer_ranks import ARCHITECTURE, tiny
from trainers.checkpointing.reader import open_checkpoint
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.inference import trained_network, video_makers
from trainers.models.loading.tiny_wan import build

NETWORKS = ("transformer", "transformer_2")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("base") / "wan", experts=2)


@pytest.fixture(scope="module")
def both(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finetuned from a whole pipeline, with another boundary than its own, by steps of either expert; with samples."""
    config = wan_config(wan_data, base, family="wan-a14b", boundary_ratio=0.8)
    config |= {"max_steps": 4, "flow_shift": 5.0}
    config["callbacks"]["validation"] = {**VALIDATION, "weights": "live", "every_steps": 4}
    return finished(runs, tmp_path_factory.mktemp("both"), config)


@pytest.fixture(scope="module")
def adapted(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {"transformer_2": {"lora": {"rank": 2, "alpha": 5}}}
    config = wan_config(wan_data, base, family="wan-a14b", lora=LORA, experts=own)
    return finished(runs, tmp_path_factory.mktemp("adapted"), {**config, "max_steps": 4, "flow_shift": 5.0})


@pytest.mark.parametrize("weights", ["live", "ema"])
def test_a_pipeline_reloads_both_experts_bit_by_bit_with_their_boundary(
    capsys: pytest.CaptureFixture[str], both: Path, base: Path, tmp_path: Path, weights: str
) -> None:
    from diffusers import WanPipeline, WanTransformer3DModel

    made = tmp_path / "made"
    assert run_export(capsys, both, "--to", made, "--weights", weights)[0] == 0
    pipe = WanPipeline.from_pretrained(made)
    prefix = "roles.student." if weights == "live" else "callbacks.ema.student."
    for network in NETWORKS:
        wanted = trained_weights(both, 4, f"{prefix}{network}.")
        same_bits(getattr(pipe, network), wanted)
        started = WanTransformer3DModel.from_pretrained(base, subfolder=network).state_dict()
        assert any(not torch.equal(value, started[name]) for name, value in wanted.items())
    assert pipe.config.boundary_ratio == 0.8
    index = json.loads((made / "model_index.json").read_text())
    assert index["transformer_2"] == ["diffusers", "WanTransformer3DModel"]
    assert (made / "vae/config.json").read_bytes() == (base / "vae/config.json").read_bytes()


def test_the_stock_pipeline_samples_across_the_boundary_as_the_run_does(
    capsys: pytest.CaptureFixture[str], both: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    assert run_export(capsys, both, "--to", tmp_path / "made")[0] == 0
    pipe = WanPipeline.from_pretrained(tmp_path / "made")
    pipe.set_progress_bar_config(disable=True)
    ours = sampled_by_the_run(both, parallel, "a cat", seed=7)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "num_frames": 5, "height": 32, "width": 32, "max_sequence_length": 16}
    used: list[float] = []
    for network in NETWORKS:
        getattr(pipe, network).register_forward_hook(lambda *_, name=network: used.append(name))
    generator = torch.Generator().manual_seed(7)
    theirs = pipe("a cat", negative_prompt=VALIDATION["negative_prompt"], generator=generator, output_type="latent", **options).frames
    torch.testing.assert_close(ours[None], theirs, rtol=0, atol=1e-6)
    assert set(used) == set(NETWORKS)


def test_the_cards_snippets_run(
    capsys: pytest.CaptureFixture[str], both: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, to in ((both, "whole"), (adapted, "adapters")):
        assert run_export(capsys, run, "--to", to)[0] == 0
        card = Path(to, "README.md").read_text()
        exec(compile(card.partition("```python\n")[2].partition("```")[0], "README.md", "exec"), {})
        assert Path("sample.webp").stat().st_size > 100
        Path("sample.webp").unlink()


def test_two_adapters_in_the_stock_pipeline_compute_what_was_trained_and_so_do_merged_ones(
    capsys: pytest.CaptureFixture[str], adapted: Path, base: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    assert run_export(capsys, adapted, "--to", tmp_path / "made")[0] == 0
    assert run_export(capsys, adapted, "--to", tmp_path / "merged", "--merge")[0] == 0
    pipe, merged = WanPipeline.from_pretrained(base), WanPipeline.from_pretrained(tmp_path / "merged")
    before = {network: getattr(pipe, network)(**network_inputs(), return_dict=False)[0] for network in NETWORKS}
    video_makers._load_adapters(pipe, tmp_path / "made")
    model = trained_network.restored(open_checkpoint(adapted), "student", "live", parallel)
    with torch.no_grad():
        for network, trained in model.networks.items():
            ours = realigned(trained)(**network_inputs(), return_dict=False)[0]
            assert torch.equal(realigned(getattr(pipe, network))(**network_inputs(), return_dict=False)[0], ours)
            assert not torch.equal(before[network], ours)
            plain = getattr(merged, network)(**network_inputs(), return_dict=False)[0]
            torch.testing.assert_close(plain, ours, rtol=0, atol=1e-5)


def test_experts_of_random_weights_are_exported_and_restored_from_there(
    capsys: pytest.CaptureFixture[str], runs: Any, data: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    config = tiny(data, max_steps=2, models={"student": {"family": "wan-a14b", "architecture": ARCHITECTURE}})
    (tmp_path / "run").mkdir()
    run = finished(runs, tmp_path / "run", config)
    assert run_export(capsys, run, "--to", tmp_path / "made")[0] == 0
    found = trained_network.network_of(tmp_path / "made", parallel)
    assert found.model.boundary == 875.0
    for network, module in found.model.networks.items():
        wanted = trained_weights(run, 2, f"roles.student.{network}.")
        assert all(torch.equal(dtensor.whole(parameter), wanted[name]) for name, parameter in module.named_parameters())
    exec(compile((tmp_path / "made/README.md").read_text().partition("```python\n")[2].partition("```")[0], "README.md", "exec"), {})
