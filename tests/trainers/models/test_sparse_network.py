"""Promises of Wan with sparse attention: dense until its gates are trained, recomputed as it was, trained, saved, exported, put back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.trainers.one_rank import inputs, wan
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics, read, tiny
from trainers import export, sample
from trainers.checkpointing.reader import open_checkpoint
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.inference import trained_network, video_makers
from trainers.models.attention import sparse as vsa
from trainers.models.loading.tiny_wan import TEXT_DIM, build

DEEP = {**ARCHITECTURE, "num_layers": 2}
SPARSE = {"kind": "vsa", "sparsity": 0.5, "tile": [2, 1, 2]}
"""Four tiles of the 3 x 2 x 2 tokens of `inputs`, two of them cut off."""
RAMP = {**SPARSE, "tile": [1, 1, 1], "ramp": {"rate": 0.125}}
"""On the 2 x 2 x 2 tokens of `data`: 7, 6, 5, then 4 key tiles of 8."""
GATE = "blocks.0.attn1.to_gate_compress"


def opened(model: Any) -> Any:
    """With gates that are not zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.transformer.named_parameters():
            if "to_gate_compress" in name:
                dtensor.local(parameter).normal_(0, 0.3, generator=generator)
    return model


def test_sparsity_zero_is_the_dense_network_until_the_gates_are_trained(parallel: ParallelContext) -> None:
    dense, sparse = wan(parallel, architecture=DEEP), wan(parallel, architecture=DEEP, attention={**SPARSE, "sparsity": 0})
    expected = dense.predict_velocity(*inputs())
    torch.testing.assert_close(sparse.predict_velocity(*inputs()), expected, rtol=0, atol=1e-6)
    gates = {name: p for name, p in sparse.transformer.named_parameters() if "to_gate_compress" in name}
    assert set(gates) == {f"blocks.{n}.attn1.to_gate_compress.{part}" for n in (0, 1) for part in ("weight", "bias")}
    assert all(p.requires_grad and not dtensor.whole(p).any() for p in gates.values())
    assert (opened(sparse).predict_velocity(*inputs()) - expected).abs().max() > 1e-3


def test_the_whole_tiny_wan_is_unchanged_at_sparsity_zero_and_changed_above(parallel: ParallelContext, tmp_path: Path) -> None:
    folder = build(tmp_path / "wan")
    noisy, prompt = torch.randn(1, 3, 16, 8, 8), torch.randn(1, 6, TEXT_DIM)
    made = [wan(parallel, init_from=str(folder), attention=a) for a in (None, {**SPARSE, "sparsity": 0}, SPARSE)]
    dense, same, sparse = (model.predict_velocity(noisy, torch.tensor([500.0]), prompt) for model in made)
    torch.testing.assert_close(same, dense, rtol=0, atol=1e-6)
    assert (sparse - dense).abs().max() > 1e-4


def test_it_is_diffusers_own_under_the_mask_of_the_chosen_tiles(parallel: ParallelContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block, whose choice is written down and given to stock attention as a mask between tokens."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    chosen: list[Tensor] = []
    monkeypatch.setattr(vsa, "choose", lambda scores, kept: chosen.append(scores.topk(kept).indices) or chosen[-1])
    found = wan(parallel, attention=SPARSE).predict_velocity(*inputs())
    of = torch.tensor([t // 2 * 2 + h for t in range(3) for h in range(2) for _ in range(2)])
    mask = torch.zeros(2, 2, 4, 4, dtype=torch.bool).scatter_(-1, chosen[0], True)[:, :, of][:, :, :, of]

    class Masked(WanAttnProcessor):
        def __call__(self, attn: Any, hidden: Tensor, text: Any = None, _mask: Any = None, angles: Any = None) -> Tensor:
            seen: Tensor = super().__call__(attn, hidden, text, mask, angles)
            return seen

    dense: Any = wan(parallel)
    dense.transformer.blocks[0].attn1.set_processor(Masked())
    torch.testing.assert_close(found, dense.predict_velocity(*inputs()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputing_chooses_the_same_tiles(parallel: ParallelContext, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was computed between the two passes."""
    chosen: list[Tensor] = []
    plain = vsa.choose
    monkeypatch.setattr(vsa, "choose", lambda scores, kept: chosen.append(plain(scores, kept)) or chosen[-1])

    def gradients(checkpointing: str, between: bool) -> list[Tensor]:
        model = opened(
            wan(parallel, architecture=DEEP, attention={**SPARSE, "ramp": {"rate": 0.25}}, activation_checkpointing=checkpointing)
        )
        noisy, timesteps, prompt = inputs()
        model.on_step(2)
        velocity = model.predict_velocity(noisy, timesteps, prompt)
        if between:  # another step, another grid
            model.on_step(1)
            with torch.no_grad():
                model.predict_velocity(noisy[:, :2], timesteps, prompt)
            del chosen[2:]
        velocity.square().mean().backward()
        return [dtensor.whole(parameter.grad) for parameter in model.transformer.parameters()]

    recomputed = gradients(kind, between=True)
    assert [tuple(c.shape) for c in chosen] == [(2, 2, 4, 2)] * 4
    assert chosen[0].equal(chosen[3]) and chosen[1].equal(chosen[2])  # the last block comes first
    assert all(a.equal(b) for a, b in zip(recomputed, gradients("none", between=False), strict=True))


def test_selective_checkpointing_attends_to_tiles_once(parallel: ParallelContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever backend does it: torch sees into none of them."""
    plain, calls = vsa._FINE["gather"], list[int]()

    def counted(*inputs: Any) -> Tensor:
        calls.append(1)
        return plain(*inputs)

    monkeypatch.setitem(vsa._FINE, "gather", counted)

    def gradients(kind: str) -> tuple[list[Tensor], int]:
        calls.clear()
        model = opened(wan(parallel, architecture=DEEP, attention=SPARSE, activation_checkpointing=kind))
        model.predict_velocity(*inputs()).square().mean().backward()
        return [dtensor.whole(parameter.grad) for parameter in model.transformer.parameters()], len(calls)

    (expected, once), (kept, selective), (recomputed, full) = map(gradients, ("none", "selective", "full"))
    assert (once, selective, full) == (2, 2, 4)
    assert all(a.equal(b) and a.equal(c) for a, b, c in zip(expected, kept, recomputed, strict=True))


def test_gates_learn_and_half_precision_keeps_float32_masters(parallel: ParallelContext) -> None:
    model = wan(parallel, attention=SPARSE, precision="bf16", activation_checkpointing="full")
    velocity = model.predict_velocity(*inputs())
    velocity.square().mean().backward()
    gates = {name: p for name, p in model.transformer.named_parameters() if "to_gate_compress" in name}
    assert gates and all(p.dtype == torch.float32 and dtensor.whole(p.grad).abs().max() > 0 for p in gates.values())
    exact = wan(parallel, attention=SPARSE).predict_velocity(*inputs())
    assert 0 < (velocity - exact).abs().max() < 0.1 * exact.abs().max()


def test_one_role_is_sparse_and_another_dense(parallel: ParallelContext) -> None:
    student, teacher = wan(parallel, attention=SPARSE), wan(parallel, role="teacher", trainable=False)
    assert "to_gate_compress" in dict(student.transformer.blocks[0].attn1.named_children())
    assert not [name for name, _ in teacher.transformer.named_parameters() if "gate_compress" in name]
    assert not [p for p in wan(parallel, trainable=False, attention=SPARSE).transformer.parameters() if p.requires_grad]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which as errors would end it
def test_compiled_blocks_compute_the_same(parallel: ParallelContext) -> None:
    def gradients(compiled: bool) -> list[Tensor]:
        model = opened(wan(parallel, attention=SPARSE, activation_checkpointing="full", compile=compiled))
        model.predict_velocity(*inputs()).square().mean().backward()
        return [dtensor.whole(parameter.grad) for parameter in model.transformer.parameters()]

    for plain, compiled in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


# --- whole runs


def config(data: Path, **changes: Any) -> dict[str, Any]:
    model = {"architecture": ARCHITECTURE, "attention": RAMP, **changes.pop("model", {})}
    return tiny(data, models={"student": model}, callbacks={"ema": {"decay": 0.5}}, optimizers__student__lr=1e-2, **changes)


def finished(runs: Any, folder: Path, made: dict[str, Any], **options: Any) -> Path:
    """A run as a launcher leaves it."""
    (folder / "attempts").mkdir(parents=True, exist_ok=True)
    (folder / "attempts" / "0001.config.json").write_text(json.dumps({"train": made}))
    run: Path = runs.finish(made, folder, **options)
    return run


@pytest.fixture(scope="module")
def run(runs: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(runs, tmp_path_factory.mktemp("sparse"), config(data))


@pytest.fixture(scope="module")
def early(runs: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after two steps."""
    return finished(runs, tmp_path_factory.mktemp("early"), config(data, max_steps=2))


def test_gates_are_trained_saved_and_resumed_bitwise_in_the_middle_of_the_ramp(
    runs: Any, data: Path, run: Path, early: Path, tmp_path: Path
) -> None:
    keys = [key for key in read(run, 4) if GATE in key]
    assert {key.partition(".")[0] for key in keys} == {"roles", "optimizers", "callbacks"}
    assert all(read(run, 4)[key].abs().max() > 0 for key in keys if key.startswith("roles"))
    shutil.copytree(early, tmp_path / "run")
    resumed = runs.finish(config(data), tmp_path / "run", attempt=2)
    assert losses(resumed) == losses(run)
    state = read(resumed, 4)
    assert all(torch.equal(state[key], value) for key, value in read(run, 4).items() if isinstance(value, Tensor))
    flat = runs.finish(config(data, max_steps=1, model={"attention": {**RAMP, "ramp": None}}), tmp_path / "flat")
    assert losses(flat)[0] != losses(run)[0]


def test_two_ranks_train_as_one(runs: Any, data: Path, run: Path, tmp_path: Path) -> None:
    both = runs.finish(config(data, model={"activation_checkpointing": "full"}), tmp_path, world=2)
    assert losses(both) == pytest.approx(losses(run), rel=1e-5)
    assert [line["grad_norm"] for line in metrics(both)] == pytest.approx([line["grad_norm"] for line in metrics(run)], rel=1e-4)


def exported(run: Path, to: Path, *words: str) -> Path:
    assert export.main([str(run), "--to", str(to), *words]) == 0
    return to


def predicted(model: Any) -> Tensor:
    with torch.no_grad():
        noisy, timesteps, prompt = inputs()
        return model.predict_velocity(noisy, timesteps, prompt)  # type: ignore[no-any-return]


def test_an_export_has_the_gates_and_says_so_and_stock_diffusers_loads_it(run: Path, parallel: ParallelContext, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    made = exported(run, tmp_path / "made")
    state = load_file(made / "transformer/diffusion_pytorch_model.safetensors")
    trained = read(run, 4)
    assert {name for name in state if GATE in name} == {f"{GATE}.weight", f"{GATE}.bias"}
    assert all(state[name].equal(trained[f"roles.student.transformer.{name}"]) for name in state)
    told = json.loads((made / "transformer/config.json").read_text())["_attention"]
    assert (told["kind"], told["sparsity"], told["tile"], told["ramp"]) == ("vsa", 0.5, [1, 1, 1], None)
    assert json.loads((made / "training.json").read_text())["train"]["models"]["student"]["attention"]["ramp"]["rate"] == 0.125
    assert "to_gate_compress" in (made / "README.md").read_text()
    stock = WanTransformer3DModel.from_pretrained(made / "transformer")
    assert all(parameter.equal(state[name]) for name, parameter in stock.named_parameters())


def test_an_export_is_put_back_where_it_is_trained_on_or_sampled(
    run: Path, parallel: ParallelContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported(run, tmp_path / "made")
    expected = predicted(trained_network.restored(open_checkpoint(run), "student", "live", parallel))
    assert predicted(wan(parallel, init_from=str(made))).equal(expected)
    assert predicted(wan(parallel, init_from=str(made), attention={**SPARSE, "tile": [1, 1, 1]})).equal(expected)
    assert not predicted(wan(parallel, init_from=str(made), attention={**SPARSE, "tile": [1, 1, 1], "sparsity": 0})).equal(expected)
    monkeypatch.setattr(sample.mesh, "start", lambda _config: parallel)
    monkeypatch.setattr(video_makers, "as_validated", lambda model, _train, _settings: model)
    sampled, _ = video_makers.maker_of(made, video_makers.SamplerOverrides(), step=None, weights="live", role="student")
    assert predicted(sampled).equal(expected)


def test_what_was_trained_sparse_is_not_silently_made_dense(run: Path, parallel: ParallelContext, tmp_path: Path) -> None:
    made = exported(run, tmp_path / "made")
    with pytest.raises(UserError, match="was trained with video sparse attention and its gates") as caught:
        wan(parallel, init_from=str(made), attention={"kind": "dense"})
    assert "sparsity: 0" in caught.value.hint
    note = made / "transformer/config.json"
    note.write_text(note.read_text().replace('"sparsity": 0.5', '"sparsity": 5'))
    with pytest.raises(UserError, match="_attention"):
        wan(parallel, init_from=str(made))


def test_a_checkpoint_in_the_ramp_is_sampled_and_exported_as_it_was_then(early: Path, parallel: ParallelContext, tmp_path: Path) -> None:
    made = exported(early, tmp_path / "made")
    assert json.loads((made / "transformer/config.json").read_text())["_attention"]["sparsity"] == 0.25
    model = trained_network.restored(open_checkpoint(early), "student", "live", parallel)
    found = predicted(model)
    assert found.equal(predicted(wan(parallel, init_from=str(made))))
    model.on_step(4)
    assert not predicted(model).equal(found)
