"""Promises of Wan in a role: layout, types, weights from a seed and from a diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.trainers.one_rank import inputs, wan
from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext


def test_it_predicts_what_diffusers_predicts_from_the_same_folder(parallel: ParallelContext, network: Any, folder: Path) -> None:
    noisy, timesteps, prompt = inputs()
    prompt[:, 3:] = 0  # padding: attended to, never masked
    expected = network(noisy.transpose(1, 2), timesteps, prompt, return_dict=False)[0].transpose(1, 2)
    actual = wan(parallel, init_from=str(folder)).predict_velocity(noisy, timesteps, prompt)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    shorter = wan(parallel, init_from=str(folder)).predict_velocity(noisy, timesteps, prompt[:, :3])
    assert (shorter - expected).abs().max() > 1e-4


def test_a_noise_level_for_each_frame_equals_one_for_all_where_they_agree(parallel: ParallelContext) -> None:
    noisy, timesteps, prompt = inputs()
    model = wan(parallel)
    one, each = (model.predict_velocity(noisy, t, prompt) for t in (timesteps, timesteps[:, None].expand(2, 3)))
    torch.testing.assert_close(each, one, rtol=0, atol=2e-6)
    assert model.predict_velocity(noisy, torch.tensor([[1000.0, 500.0, 0.0]]).expand(2, 3), prompt).shape == noisy.shape


def test_random_weights_follow_from_the_seed_and_the_role_alone(parallel: ParallelContext) -> None:
    def first(**options: Any) -> torch.Tensor:
        torch.rand(1)
        tensor: torch.Tensor = dtensor.whole(wan(parallel, **options).transformer.get_parameter("blocks.0.attn1.to_q.weight").detach())
        return tensor

    assert first().equal(first())
    assert not first().equal(first(seed=2))
    assert not first().equal(first(role="critic"))


def test_making_a_network_leaves_the_global_generator_alone(parallel: ParallelContext) -> None:
    before = torch.get_rng_state()
    wan(parallel)
    assert torch.get_rng_state().equal(before)


def test_bfloat16_runs_round_neither_timesteps_nor_angles(parallel: ParallelContext) -> None:
    model = wan(parallel, precision="bf16")
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


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputed_activations_change_no_bit_of_the_gradients(parallel: ParallelContext, kind: str) -> None:
    def gradients(kind: str) -> tuple[list[torch.Tensor], int]:
        model = wan(parallel, architecture=ARCHITECTURE, activation_checkpointing=kind)
        loss = model.predict_velocity(*inputs()).square().mean()
        with Products() as products:
            loss.backward()
        return [dtensor.whole(parameter.grad) for parameter in model.transformer.parameters()], products.count

    (plain, once), (recomputed, more) = gradients("none"), gradients(kind)
    assert all(a.equal(b) for a, b in zip(plain, recomputed, strict=True))
    assert (more > once) == (kind == "full")  # selective kept them


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which as errors would end it
@pytest.mark.parametrize("kind", ["none", "selective"])
def test_compiled_blocks_compute_the_same(parallel: ParallelContext, kind: str) -> None:
    def gradients(compiled: bool) -> list[torch.Tensor]:
        model = wan(parallel, activation_checkpointing=kind, compile=compiled)
        model.predict_velocity(*inputs()).square().mean().backward()
        return [dtensor.whole(parameter.grad) for parameter in model.transformer.parameters()]

    for plain, compiled in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


class Products(TorchDispatchMode):
    """Counts matrix products and attentions."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += name in ("mm", "addmm", "bmm") or (name.startswith("_scaled_dot_product") and "backward" not in name)
        return func(*args, **(kwargs or {}))


def test_a_frozen_network_computes_what_stock_diffusers_does_in_half_precision(parallel: ParallelContext, folder: Path) -> None:
    from diffusers import WanTransformer3DModel

    stock = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.bfloat16).eval()
    model = wan(parallel, trainable=False, precision="bf16", init_from=str(folder))
    stored = {name: parameter.dtype for name, parameter in model.transformer.named_parameters()}
    assert stored == {name: parameter.dtype for name, parameter in stock.named_parameters()}
    assert set(stored.values()) == {torch.bfloat16, torch.float32}
    assert not any(parameter.requires_grad for parameter in model.transformer.parameters())
    noisy, timesteps, prompt = inputs()
    with torch.no_grad():
        expected = stock(noisy.transpose(1, 2).bfloat16(), timesteps, prompt.bfloat16(), return_dict=False)[0]
        assert model.predict_velocity(noisy, timesteps, prompt).equal(expected.transpose(1, 2).float())
