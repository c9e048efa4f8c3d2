"""Promises of weights from files: a diffusers folder, a pipeline, a cached hub model, in one file or several; and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.trainers.one_rank import inputs, wan
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.models.loading import tiny_wan

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face home."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


def same_weights(actual: Any, expected: Any) -> None:
    tensors = dict(expected.named_parameters())
    names = {name for name, _ in actual.transformer.named_parameters()}
    assert names == tensors.keys()
    for name, parameter in actual.transformer.named_parameters():
        assert dtensor.whole(parameter).equal(tensors[name].to(parameter.dtype)), name


def test_several_files_with_an_index_load_as_one(parallel: ParallelContext, network: Any, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    same_weights(wan(parallel, init_from=str(tmp_path)), network)
    next((tmp_path / "transformer").glob("*-00001-of-*")).unlink()
    with pytest.raises(UserError, match=r"lacks diffusion_pytorch_model-00001-of-.*which its index names"):
        wan(parallel, init_from=str(tmp_path))


def test_files_beside_the_weights_are_not_read(parallel: ParallelContext, network: Any, folder: Path) -> None:
    save_file({"proj_out.bias": torch.zeros(3)}, folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    same_weights(wan(parallel, init_from=str(folder)), network)
    same_weights(wan(parallel, init_from=str(folder / "transformer")), network)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_stored_half_precision_becomes_float32_masters(
    parallel: ParallelContext, network: Any, tmp_path: Path, stored: torch.dtype
) -> None:
    half = copy.deepcopy(network)
    for parameter in half.parameters():
        parameter.data = parameter.data.to(stored)
    half.save_pretrained(tmp_path / "transformer")
    model = wan(parallel, precision="bf16", init_from=str(tmp_path))
    assert {parameter.dtype for parameter in model.transformer.parameters()} == {torch.float32}
    same_weights(model, half)


def test_the_tiny_wan_trains_by_its_name(parallel: ParallelContext, hub: Path) -> None:
    model = wan(parallel, init_from="tiny-wan")
    noisy, prompt = torch.randn(1, 3, 16, 4, 4), torch.randn(1, 6, tiny_wan.TEXT_DIM)
    model.predict_velocity(noisy, torch.tensor([500.0]), prompt).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.transformer.parameters())
    assert not list(hub.glob(".*"))


def test_a_checkpoint_that_holds_the_role_spares_reading_the_files(parallel: ParallelContext, folder: Path) -> None:
    (folder / "transformer" / NAME).unlink()
    wan(parallel, init_from=str(folder), load_weights=False)


def test_a_folder_that_is_no_model_is_told_with_a_hint(parallel: ParallelContext, folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model folder .*/none") as caught:
        wan(parallel, init_from=str(folder / "none"))
    assert "tiny-wan" in caught.value.hint
    (folder / "transformer" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(UserError, match="FluxTransformer2DModel"):
        wan(parallel, init_from=str(folder))
    (folder / "transformer" / "config.json").write_text('{"_class_')
    with pytest.raises(UserError, match=r"no diffusers folder .*config.json") as caught:
        wan(parallel, init_from=str(folder))
    assert "download" in caught.value.hint


def test_a_pipeline_without_a_transformer_is_told(parallel: ParallelContext, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="has no folder 'transformer'"):
        wan(parallel, init_from=str(tmp_path))


@pytest.mark.parametrize("kept", [None, 0, 7, 300, -1])
def test_missing_and_truncated_weights_are_told(parallel: ParallelContext, folder: Path, kept: int | None) -> None:
    path = folder / "transformer" / NAME
    whole = path.read_bytes()
    path.unlink() if kept is None else path.write_bytes(whole[:kept])
    with pytest.raises(UserError, match="has no diffusion_pytorch_model" if kept is None else "cannot be read") as caught:
        wan(parallel, init_from=str(folder))
    assert "download the model again" in caught.value.hint


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": {"proj_out.bias": "../elsewhere.safetensors"}}'])
def test_an_index_that_is_none_is_told(parallel: ParallelContext, folder: Path, index: str) -> None:
    (folder / "transformer" / f"{NAME}.index.json").write_text(index)
    with pytest.raises(UserError, match="index"):
        wan(parallel, init_from=str(folder))


def test_weights_that_do_not_fit_are_named(parallel: ParallelContext, folder: Path) -> None:
    path = folder / "transformer" / NAME
    tensors = load_file(path)
    tensors["renamed"] = tensors.pop("proj_out.bias")
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:1].contiguous()
    save_file(tensors, path)
    with pytest.raises(UserError) as caught:
        wan(parallel, init_from=str(folder))
    for part in ("missing: proj_out.bias", "unexpected: renamed", "proj_out.weight is [1, 24], not [16, 24]"):
        assert part in caught.value.message


def test_the_index_is_valid_for_the_folder_that_diffusers_writes(folder: Path, parallel: ParallelContext, network: Any) -> None:
    """The same file, listed by an index of one."""
    names = dict.fromkeys((name for name, _ in network.named_parameters()), NAME)
    (folder / "transformer" / f"{NAME}.index.json").write_text(json.dumps({"weight_map": names}))
    same_weights(wan(parallel, init_from=str(folder)), network)
    assert wan(parallel, init_from=str(folder)).predict_velocity(*inputs()).isfinite().all()
