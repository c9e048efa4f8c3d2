"""Promises of adapters: stock diffusers computes the same with them, targets are checked, ranks agree, checkpoints hold no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trainers.one_rank import inputs, wan
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, read, tiny
from trainers.config import TrainConfig
from trainers.config.cross_checks import check
from trainers.config.models.base import LoraConfig
from trainers.config.models.wan import Config
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.models import lora

LORA = {"rank": 4, "alpha": 6}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    WanTransformer3DModel(**ARCHITECTURE).save_pretrained(tmp_path / "transformer")
    return tmp_path


def trained(parallel: ParallelContext, **config: Any) -> Any:
    """With adapters as after some training: B is not zero."""
    model = wan(parallel, lora=config.pop("lora", LORA), **config)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in lora.adapters_of(model.transformer).items():
            if ".lora_B." in name:
                dtensor.local(parameter).copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_it_starts_as_its_base_and_only_adapters_are_trained(parallel: ParallelContext, folder: Path) -> None:
    model = wan(parallel, init_from=str(folder), lora=LORA)
    assert model.predict_velocity(*inputs()).equal(wan(parallel, init_from=str(folder)).predict_velocity(*inputs()))
    training = {name for name, parameter in model.transformer.named_parameters() if parameter.requires_grad}
    layers = [f"blocks.0.attn{number}.{target}" for number in (1, 2) for target in TARGETS]
    assert training == {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    model.predict_velocity(*inputs()).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.transformer.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == training
    for name, gradient in gradients.items():
        assert bool(dtensor.whole(gradient).any()) == (".lora_B." in name), name  # B is zero, so A has no gradient yet


def test_an_adapter_adds_alpha_over_rank_times_b_a(parallel: ParallelContext) -> None:
    block = trained(parallel).transformer.blocks[0]
    layer = block.attn1.to_q
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    w, bias, down, up = (
        dtensor.whole(parameter).detach().double()
        for parameter in (layer.base_layer.weight, layer.base_layer.bias, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    )
    expected = x.double() @ w.T + bias + 6 / 4 * (x.double() @ down.T) @ up.T
    torch.testing.assert_close(lora.delta(down, up, 1.5).double(), 1.5 * up @ down, rtol=0, atol=2e-6)
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=2e-6)


def test_first_values_are_kaiming_uniform_and_follow_from_the_seed(parallel: ParallelContext) -> None:
    def down(**options: Any) -> torch.Tensor:
        torch.rand(1)
        before = torch.get_rng_state()
        model = wan(parallel, lora={"rank": 64, "target_modules": ["attn1.to_q", "attn1.to_k"]}, **options)
        assert torch.get_rng_state().equal(before)
        found = lora.adapter_state(model.transformer)
        assert not found["transformer.blocks.0.attn1.to_q.lora_A.weight"].equal(found["transformer.blocks.0.attn1.to_k.lora_A.weight"])
        return found["transformer.blocks.0.attn1.to_q.lora_A.weight"]

    values = down()
    bound = 24**-0.5  # gain sqrt(2 / (1 + 5)) times sqrt(3 / inputs)
    assert values.shape == (64, 24)
    assert 0.98 * bound < values.abs().max() <= bound
    assert abs(values.std() / (bound / 3**0.5) - 1) < 0.05
    assert values.equal(down())
    assert not values.equal(down(seed=2))
    assert not values.equal(down(role="critic"))


def test_stock_diffusers_computes_the_same_from_what_comes_out(parallel: ParallelContext, folder: Path) -> None:
    from diffusers import WanPipeline, WanTransformer3DModel

    model = trained(parallel, init_from=str(folder), lora={**LORA, "exclude_modules": ["attn2.to_v"]})
    state, description = lora.adapter_state(model.transformer), lora.adapter_config(model.transformer)
    assert len(state) == 2 * 7
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    file = {"transformer_lora_adapter_metadata": description}
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=drop_prefix(state), **file)
    stock = WanTransformer3DModel.from_pretrained(folder / "transformer")
    stock.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors", prefix="transformer")
    noisy, timesteps, prompt = inputs()
    expected = stock(noisy.transpose(1, 2), timesteps, prompt, return_dict=False)[0].transpose(1, 2)
    assert model.predict_velocity(noisy, timesteps, prompt).equal(expected)
    assert [config.lora_alpha for config in stock.peft_config.values()] == [6]


def drop_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in state.items()}


def test_merged_weights_need_no_adapter(parallel: ParallelContext, folder: Path) -> None:
    model = trained(parallel, init_from=str(folder))
    before = model.predict_velocity(*inputs())
    base = wan(parallel, init_from=str(folder))
    assert (before - base.predict_velocity(*inputs())).abs().max() > 1e-2
    lora.merge(model.transformer)
    assert model.transformer.state_dict().keys() == base.transformer.state_dict().keys()
    torch.testing.assert_close(model.predict_velocity(*inputs()), before, rtol=0, atol=2e-5)


def test_averaged_adapters_come_out_in_place_of_the_live_ones(parallel: ParallelContext) -> None:
    model = trained(parallel)
    shadows = {name: parameter.detach() * 2 for name, parameter in lora.adapters_of(model.transformer).items()}
    live, averaged = lora.adapter_state(model.transformer), lora.adapter_state(model.transformer, shadows)
    assert all(averaged[name].equal(2 * tensor) for name, tensor in live.items())


def test_in_half_precision_the_base_is_stored_so_and_adapters_are_float32_masters(parallel: ParallelContext, folder: Path) -> None:
    model = trained(parallel, precision="bf16", init_from=str(folder), activation_checkpointing="selective")
    types = {name: parameter.dtype for name, parameter in model.transformer.named_parameters()}
    assert {types[name] for name in lora.adapters_of(model.transformer)} == {torch.float32}
    assert types["blocks.0.attn1.to_q.base_layer.weight"] == types["proj_out.weight"] == torch.bfloat16
    assert types["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    whole = trained(parallel, init_from=str(folder)).predict_velocity(*inputs())
    found = model.predict_velocity(*inputs())
    assert 0 < (found - whole).abs().max() < 0.05
    found.square().mean().backward()
    gradients = [parameter.grad for parameter in lora.adapters_of(model.transformer).values()]
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_modules": ["to_q", "q_proj"]}, "lora.target_modules: 'q_proj' matches no linear layer"),
        ({"target_modules": ["to_out"]}, "'to_out' matches no linear layer"),
        ({"target_modules": ["patch_embedding"]}, "'patch_embedding' matches no linear layer"),
        ({"target_modules": ["o_q"]}, "'o_q' matches no linear layer"),
        ({"exclude_modules": ["attn3.to_q"]}, "lora.exclude_modules: 'attn3.to_q' matches no linear layer"),
        ({"target_modules": ["to_q"], "exclude_modules": ["to_q"]}, "leaves none"),
    ],
)
def test_names_that_match_nothing_are_refused_with_what_there_is(parallel: ParallelContext, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        wan(parallel, lora={"rank": 2, **changes})
    if "leaves" not in told:
        assert "attn1.to_out.0" in caught.value.hint
        assert "ffn.net.0.proj" in caught.value.hint
    if changes.get("target_modules") == ["to_out"]:
        assert "did you mean to_out.0?" in caught.value.hint


def test_alpha_defaults_to_the_rank_and_bad_values_are_refused() -> None:
    assert LoraConfig(rank=8).scaled_alpha == 8
    for wrong in ({}, {"rank": 0}, {"rank": 4, "alpha": 0}, {"rank": 4, "target_modules": []}, {"rank": 4, "dropout": 0.1}):
        with pytest.raises(ValueError):
            LoraConfig.model_validate(wrong)


def test_an_adapter_on_a_role_that_is_not_trained_is_a_contradiction() -> None:
    config = TrainConfig.model_validate(tiny(Path("data")))
    role = Config.model_validate({"architecture": ARCHITECTURE, "lora": LORA, "revision": "v1"})
    assert [problem.path for problem in role.problems("student", config)] == [("models", "student", "revision")]
    assert ("models", "teacher", "lora") in [problem.path for problem in role.problems("teacher", config)]
    assert check(TrainConfig.model_validate(tiny(Path("data"), models__student__lora=LORA)), 1) == []


# --- whole runs

WATCHED = """
import torch
import torch.distributed as dist
from trainers.models import lora
from trainers.methods.finetune import FineTuneMethod


class Watched(FineTuneMethod):
    def single_train_step(self, batch, iteration):
        adapters = lora.adapters_of(self.student.transformer)
        assert adapters
        for name, parameter in adapters.items():
            mine = parameter.to_local().detach()
            assert mine.shape == parameter.shape
            assert mine.any() or iteration == 1 and ".lora_B." in name
            both = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(both, mine.contiguous())
            assert all(other.equal(mine) for other in both), name
        return super().single_train_step(batch, iteration)
"""
METHOD = {"weighting_scheme": "uniform", "precondition_outputs": False}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("method") / "watched.py"
    path.write_text(WATCHED)
    return {"kind": f"{path}:Watched", **METHOD}


@pytest.fixture(scope="module")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a base in several files."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("base")
    WanTransformer3DModel(**ARCHITECTURE).save_pretrained(folder / "transformer", max_shard_size="20KB")
    return tiny(data, models__student={"init_from": str(folder), "lora": LORA}, optimizers__student__lr=0.01)


@pytest.fixture(scope="module")
def plain(runs: Any, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of 4 steps on one rank."""
    run: Path = runs.finish(config, tmp_path_factory.mktemp("plain"))
    return run


def test_replicated_adapters_stay_equal_on_all_ranks_and_train_as_on_one(
    runs: Any, config: dict[str, Any], plain: Path, watched: dict[str, Any], tmp_path: Path
) -> None:
    run = runs.finish({**config, "method": watched, "parallel": {"replicate": 2, "shard": 1}}, tmp_path, world=2)
    assert losses(run) == pytest.approx(losses(plain), rel=1e-6)


def test_checkpoints_hold_adapters_only_and_a_resume_on_more_ranks_agrees(
    runs: Any, config: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    runs.finish({**config, "max_steps": 2}, tmp_path)
    resumed = runs.start(config, tmp_path, world=2, attempt=2)
    assert resumed.join() == [0, 0], resumed.log()
    assert [sent["step"] for sent in resumed.sent() if sent["kind"] == "resumed"] == [2]
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=1e-6)
    held = [name for name in read(tmp_path, 4) if name.startswith("roles.")]
    assert len(held) == 2 * 8
    assert all(".lora_" in name for name in held)


def test_without_adapters_nothing_imports_peft_or_transformers(
    runs: Any, parallel: ParallelContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "trainers.models.wan" in runs.imported()
    assert not {"peft", "transformers"} & set(runs.imported())
    from diffusers.utils import is_peft_available

    assert is_peft_available()  # for whoever wants it
    model = wan(parallel)
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    model.predict_velocity(*inputs())


def test_who_wants_pipelines_after_the_network_gets_them_whole() -> None:
    code = (
        "import sys\n"
        "from trainers.models.wan import Wan, WanTransformer3DModel as ours\n"
        "assert not {'peft', 'transformers'} & set(sys.modules)\n"
        "from diffusers import WanPipeline, WanTransformer3DModel\n"
        "from diffusers.loaders import lora_base, single_file_utils\n"
        "assert ours is WanTransformer3DModel\n"
        "assert lora_base.LoraBaseMixin in WanPipeline.__mro__\n"
        "assert lora_base.PreTrainedModel and lora_base.BaseTunerLayer and single_file_utils.AutoImageProcessor\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_network_of_ones_own_that_takes_no_adapters_is_told() -> None:
    network = torch.nn.ModuleDict({"to_q": torch.nn.Linear(2, 2)})
    with pytest.raises(UserError, match="a ModuleDict takes no adapters"):
        lora.inject(network, LoraConfig(rank=1, target_modules=["to_q"]))
