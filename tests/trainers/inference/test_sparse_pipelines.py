"""Promises of sparse attention in exported pipelines and adapters: stock diffusers loads them, and sampling puts the gates back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.trainers.alignment import realigned
from tests.support.trainers.exports import finished, network_inputs, wan_config
from trainers import export
from trainers.checkpointing.reader import open_checkpoint
from trainers.config.validation import ValidationConfig
from trainers.distributed.mesh import ParallelContext
from trainers.inference import trained_network, video_makers

SPARSE = {"kind": "vsa", "sparsity": 0.5, "tile": [1, 1, 2], "ramp": {"rate": 0.25}}
LORA = {"rank": 4, "alpha": 8, "target_modules": ["to_q", "to_v", "to_gate_compress"]}


@pytest.fixture(scope="module")
def run(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters, also of the gates, on a whole pipeline's dense network."""
    return finished(runs, tmp_path_factory.mktemp("run"), wan_config(wan_data, base, lora=LORA, attention=SPARSE))


def predicted(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return realigned(network)(**network_inputs(), return_dict=False)[0]  # type: ignore[no-any-return]


def as_sampled(folder: Path, model: Path | None = None) -> torch.Tensor:
    """Of the network that `python -m trainers.sample FOLDER --model MODEL` loads."""
    settings = ValidationConfig(model=None if model is None else str(model))
    return predicted(video_makers._pipeline(folder, trained_network.training_of(folder), settings).transformer)


def test_an_adapter_of_the_gates_is_sampled_as_it_was_trained(run: Path, base: Path, parallel: ParallelContext, tmp_path: Path) -> None:
    from diffusers import WanPipeline

    wanted = predicted(trained_network.restored(open_checkpoint(run), "student", "live", parallel).transformer)
    assert export.main([str(run), "--to", str(tmp_path / "made")]) == 0
    names = load_file(tmp_path / "made/pytorch_lora_weights.safetensors")
    gate = "transformer.blocks.0.attn1.to_gate_compress.lora_B.weight"
    assert names[gate].abs().max() > 0 and all("lora_" in name for name in names)
    assert as_sampled(tmp_path / "made", base).equal(wanted)
    assert not predicted(WanPipeline.from_pretrained(base).transformer).equal(wanted)


def test_a_merged_pipeline_is_loaded_by_stock_diffusers_and_sampled_as_it_was_trained(
    run: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    wanted = predicted(trained_network.restored(open_checkpoint(run), "student", "live", parallel).transformer)
    assert export.main([str(run), "--to", str(tmp_path / "made"), "--merge"]) == 0
    torch.testing.assert_close(as_sampled(tmp_path / "made"), wanted, rtol=0, atol=1e-5)
    dense = predicted(WanPipeline.from_pretrained(tmp_path / "made").transformer)
    assert (dense - wanted).abs().max() > 1e-4
    train = open_checkpoint(run).config
    on_it = train.models["student"].model_copy(update={"init_from": str(tmp_path / "made"), "lora": None, "attention": None})
    model = trained_network.built(on_it, "student", train, parallel, load_weights=True)
    torch.testing.assert_close(predicted(model.transformer), wanted, rtol=0, atol=1e-5)
