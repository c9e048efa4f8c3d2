"""Promises of whole runs: the same numbers whatever interrupts them and however many ranks make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.rows import fault
from tests.support.trainers.checkpoint_states import same_state
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics, read, tiny

MUON = {"kind": "muon", "lr": 0.02, "rest": {"kind": "adamw", "lr": 1e-3}, "schedule": {"kind": "cosine", "warmup_steps": 2}}
EMA = {"ema": {"decay": 0.5, "start_step": 1}}


@pytest.fixture(scope="module")
def plain(runs: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of 4 steps on one rank."""
    run: Path = runs.finish(tiny(data, callbacks=EMA), tmp_path_factory.mktemp("plain"))
    return run


@pytest.mark.parametrize(("world", "mesh"), [(2, {}), (4, {"shard": 2}), (4, {})], ids=["2", "2x2", "4"])
def test_any_mesh_gives_the_losses_weights_and_averages_of_one_rank(
    runs: Any, data: Path, plain: Path, tmp_path: Path, world: int, mesh: dict[str, int]
) -> None:
    run = runs.finish(tiny(data, callbacks=EMA, parallel=mesh), tmp_path, world)
    assert losses(run) == pytest.approx(losses(plain), rel=1e-6)
    assert [m["grad_norm"] for m in metrics(run)] == pytest.approx([m["grad_norm"] for m in metrics(plain)], rel=1e-6)
    same_state(plain, run, 4, 2e-5)  # AdamW divides tiny gradients by tiny gradients


@pytest.mark.parametrize(("world", "optimizer"), [(1, None), (2, MUON)], ids=["adamw", "muon-2-ranks"])
def test_a_run_stopped_by_a_notice_resumes_bitwise(runs: Any, data: Path, tmp_path: Path, world: int, optimizer: Any) -> None:
    config = tiny(data, max_steps=12, callbacks=EMA, checkpoint__every_steps=5)
    if optimizer:
        config["optimizers"]["student"] = optimizer
    whole = runs.finish(config, tmp_path / "whole", world)
    first = runs.start(config, tmp_path / "cut", world, hold_at=("warming", 3))
    first.wait_held()
    first.notice(rank=world - 1)  # one rank is enough
    assert first.join() == [75] * world
    stopped = len(metrics(tmp_path / "cut"))
    assert stopped == 3
    assert [m["step"] for m in first.sent() if m["kind"] == "checkpoint"][-1] == stopped
    second = runs.start(config, tmp_path / "cut", world, attempt=2)
    assert second.join() == [0] * world
    assert [m["step"] for m in second.sent() if m["kind"] == "resumed"] == [stopped]
    assert losses(tmp_path / "cut") == losses(whole)
    assert [m["step"] for m in metrics(tmp_path / "cut")] == list(range(1, 13))
    assert [m["attempt"] for m in metrics(tmp_path / "cut")] == [1] * stopped + [2] * (12 - stopped)
    same_state(whole, tmp_path / "cut", 12, 0.0)


@fault("12", "2 -> 1 ranks, bare trainers")
@pytest.mark.parametrize("optimizer", [None, MUON], ids=["adamw", "muon"])
def test_a_run_resumed_at_another_world_size_agrees(runs: Any, data: Path, plain: Path, tmp_path: Path, optimizer: Any) -> None:
    changes = {"optimizers__student": optimizer} if optimizer else {}
    whole = runs.finish(tiny(data, callbacks=EMA, **changes), tmp_path / "whole") if optimizer else plain
    run = runs.finish(tiny(data, callbacks=EMA, **changes, max_steps=2), tmp_path / "cut", world=2)
    if optimizer:  # its decay is a function of max_steps: the cut run is that of a shorter one
        assert losses(run)[:2] == pytest.approx(losses(whole)[:2], rel=1e-6)
        return
    runs.finish(tiny(data, callbacks=EMA, **changes), run, world=1, attempt=2)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)
    same_state(whole, run, 4, 2e-5)


def test_what_resume_may_change_applies_after_the_load(runs: Any, data: Path, tmp_path: Path) -> None:
    schedule = {"kind": "linear", "warmup_steps": 0}
    run = runs.finish(tiny(data, max_steps=2, optimizers__student={"kind": "adamw", "lr": 1.0, "schedule": schedule}), tmp_path)
    other = {"kind": "adamw", "lr": 0.5, "weight_decay": 0.3, "schedule": schedule}
    runs.finish(tiny(data, max_steps=4, optimizers__student=other, callbacks={"ema": {"decay": 0.75}}), run, attempt=2)
    assert [m["lr"] for m in metrics(run)] == [1.0, 0.5, 0.5 * 2 / 4, 0.5 * 1 / 4]
    before, after = read(run, 2), read(run, 4)
    averaged = {key for key in after if key.startswith("callbacks.ema.student.")}
    assert averaged
    assert not any(key.startswith("callbacks") for key in before)
    runs.finish(tiny(data, max_steps=5, optimizers__student=other), run, attempt=3)  # and averages may be given up again
    assert not any(key.startswith("callbacks") for key in read(run, 5))


def test_averages_that_start_at_a_resume_start_from_the_loaded_weights(runs: Any, data: Path, tmp_path: Path) -> None:
    run = runs.finish(tiny(data, max_steps=1), tmp_path)
    runs.finish(tiny(data, max_steps=2, callbacks={"ema": {"decay": 0.75}}), run, attempt=2)
    before, after = read(run, 1), read(run, 2)
    name = "blocks.0.attn1.to_q.weight"
    expected = 0.75 * before[f"roles.student.transformer.{name}"] + 0.25 * after[f"roles.student.transformer.{name}"]
    torch.testing.assert_close(after[f"callbacks.ema.student.{name}"], expected, rtol=0, atol=1e-7)


def test_a_finished_run_finishes_again_at_once(runs: Any, data: Path, tmp_path: Path) -> None:
    run = runs.finish(tiny(data, max_steps=2), tmp_path)
    before = (run / "metrics.jsonl").read_bytes()
    runs.finish(tiny(data, max_steps=2), run, attempt=2)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_metrics_have_their_keys_in_order_and_losses_in_full(plain: Path) -> None:
    for number, line in enumerate(metrics(plain), 1):
        assert list(line) == ["step", "loss", "grad_norm", "lr", "step_s", "attempt"]
        assert line["step"] == number
    assert len(str(losses(plain)[3])) > 8


def test_recomputed_activations_change_no_bit(runs: Any, data: Path, plain: Path, tmp_path: Path) -> None:
    model = {"architecture": ARCHITECTURE, "activation_checkpointing": "full"}
    run = runs.finish(tiny(data, callbacks=EMA, models={"student": model}), tmp_path)
    same_state(plain, run, 4, 0.0)


def test_bfloat16_follows_float32_closely_and_keeps_float32_masters(runs: Any, data: Path, plain: Path, tmp_path: Path) -> None:
    run = runs.finish(tiny(data, precision="bf16", max_steps=3), tmp_path)
    assert losses(run) == pytest.approx(losses(plain)[:3], rel=2e-2)
    assert losses(run) != losses(plain)[:3]
    assert {v.dtype for v in read(run, 3).values() if isinstance(v, torch.Tensor)} == {torch.float32}


def test_a_run_that_starts_from_a_folder_of_weights_uses_them(runs: Any, data: Path, plain: Path, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(**ARCHITECTURE)
    network.load_state_dict(
        {k.removeprefix("roles.student.transformer."): v for k, v in read(plain, 4).items() if k.startswith("roles.student.transformer.")}
    )
    network.save_pretrained(tmp_path / "model" / "transformer")
    model = {"init_from": str(tmp_path / "model")}
    frozen = {"kind": "adamw", "lr": 1e-30, "weight_decay": 0.0}
    run = runs.finish(tiny(data, max_steps=1, models={"student": model}, optimizers__student=frozen), tmp_path / "run", world=2)
    left, right = read(plain, 4), read(run, 1)
    for key in (k for k in left if k.startswith("roles.")):
        assert torch.equal(left[key], right[key])
