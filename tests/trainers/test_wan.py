"""Promises of Wan in a role: layout, types, weights from a seed and from a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from trainer_ranks import ARCHITECTURE

from trainers.config.families.wan import Config
from trainers.errors import UserError
from trainers.models.wan import Wan
from trainers.parallel import Parallel


@pytest.fixture(scope="module")
def place() -> Iterator[Parallel]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("replicate", "shard", "sequence"))
    yield Parallel(torch.device("cpu"), 0, 1, mesh, dist.new_group(backend="gloo"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def network() -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    return WanTransformer3DModel(**ARCHITECTURE)


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "transformer")
    return tmp_path


def wan(place: Parallel, *, precision: str = "fp32", seed: int = 1, role: str = "student", **config: Any) -> Wan:
    made = Config.model_validate(config or {"architecture": ARCHITECTURE})
    return Wan(made, role, trainable=True, precision=precision, seed=seed, parallel=place, load_weights=True)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 4, 4, generator=generator), torch.tensor([937.5, 12.25]), torch.randn(2, 6, 16, generator=generator)


def test_it_predicts_what_diffusers_predicts_from_the_same_folder(place: Parallel, network: Any, folder: Path) -> None:
    noisy, timesteps, prompt = inputs()
    prompt[:, 3:] = 0  # padding: attended to, never masked
    wanted = network(noisy.transpose(1, 2), timesteps, prompt, return_dict=False)[0].transpose(1, 2)
    found = wan(place, init_from=str(folder)).predict_velocity(noisy, timesteps, prompt)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    shorter = wan(place, init_from=str(folder)).predict_velocity(noisy, timesteps, prompt[:, :3])
    assert (shorter - wanted).abs().max() > 1e-4


def test_a_noise_level_for_each_frame_equals_one_for_all_where_they_agree(place: Parallel) -> None:
    noisy, timesteps, prompt = inputs()
    model = wan(place)
    one, each = (model.predict_velocity(noisy, t, prompt) for t in (timesteps, timesteps[:, None].expand(2, 3)))
    torch.testing.assert_close(each, one, rtol=0, atol=2e-6)
    assert model.predict_velocity(noisy, torch.tensor([[1000.0, 500.0, 0.0]]).expand(2, 3), prompt).shape == noisy.shape


def test_random_weights_follow_from_the_seed_and_the_role_alone(place: Parallel) -> None:
    def first(**options: Any) -> torch.Tensor:
        torch.rand(1)
        tensor: torch.Tensor = wan(place, **options).transformer.get_parameter("blocks.0.attn1.to_q.weight").detach().full_tensor()
        return tensor

    assert first().equal(first())
    assert not first().equal(first(seed=2))
    assert not first().equal(first(role="critic"))


def test_making_a_network_leaves_the_global_generator_alone(place: Parallel) -> None:
    before = torch.get_rng_state()
    wan(place)
    assert torch.get_rng_state().equal(before)


def test_bfloat16_runs_round_neither_timesteps_nor_angles(place: Parallel) -> None:
    model = wan(place, precision="bf16")
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    seen: dict[str, torch.Tensor] = {}
    transformer: Any = model.transformer
    transformer.condition_embedder.timesteps_proj.register_forward_hook(lambda _m, args, _out: seen.update(timesteps=args[0]))
    transformer.condition_embedder.time_embedder.register_forward_hook(lambda _m, args, _out: seen.update(embedded=args[0]))
    transformer.blocks[0].register_forward_pre_hook(lambda _m, args: seen.update(hidden=args[0], angles=args[3][0]))
    noisy, timesteps, prompt = inputs()
    velocity = model.predict_velocity(noisy, timesteps, prompt)
    assert seen["timesteps"].tolist() == [937.5, 12.25]
    assert (seen["embedded"].dtype, seen["hidden"].dtype) == (torch.float32, torch.bfloat16)
    assert seen["angles"].dtype in (torch.float32, torch.float64)
    assert velocity.dtype == torch.float32


def test_stored_half_precision_becomes_float32_masters(place: Parallel, network: Any, tmp_path: Path) -> None:
    import copy

    half = copy.deepcopy(network).half()
    half.save_pretrained(tmp_path / "transformer")
    model = wan(place, init_from=str(tmp_path))
    found = model.transformer.get_parameter("proj_out.weight").detach().full_tensor()
    assert found.dtype == torch.float32
    assert found.equal(half.proj_out.weight.float())


def test_a_folder_that_is_no_model_is_told_with_a_hint(place: Parallel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no diffusers folder") as caught:
        wan(place, init_from=str(tmp_path / "none"))
    assert "download" in caught.value.hint
    (folder / "transformer" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(UserError, match="FluxTransformer2DModel"):
        wan(place, init_from=str(folder))


def test_weights_that_do_not_fit_are_named(place: Parallel, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["renamed"] = tensors.pop("proj_out.bias")
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:1].contiguous()
    save_file(tensors, path)
    with pytest.raises(UserError) as caught:
        wan(place, init_from=str(folder))
    for part in ("missing: proj_out.bias", "unexpected: renamed", "proj_out.weight is [1, 24], not [16, 24]"):
        assert part in caught.value.message
