"""Promises of a step's way to the device: it reads nothing back from there, and copies nothing there but a batch.

Seen at torch's functions, so it holds on the CPU too: whatever asks for a tensor's value would wait for a GPU.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.support.paths import ROOT
from tests.support.trainers.distilled import dmd2, kd, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import tiny
from trainers.config import TrainConfig
from trainers.control import Control
from trainers.distributed.mesh import ParallelContext
from trainers.methods import method_class
from trainers.models import build_role
from trainers.training.trainer import Trainer

READS = {
    "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__repr__", "__format__",
    "nonzero", "argwhere", "masked_select", "is_nonzero", "equal", "allclose", "unique", "unique_consecutive", "bincount",
}  # fmt: skip
"""Functions whose answer, or its shape, is a value that the device has to have computed."""
MAKES = {"tensor", "as_tensor", "asarray"}
"""Functions that copy from the host where they are given a device."""
DECLARED = {
    "trainers/diffusion/expert_ranges.py:draw",  # of a generator of the host
    "trainers/methods/self_forcing.py:exits",  # likewise
    "trainers/distributed/mesh.py:data_rank",  # of the mesh, which the host has
    "trainers/training/metrics.py:on_device",  # of a plain number
    "trainers/training/metrics.py:pop",  # of the step before, whose copy to the host has been under way since
}


class Waits(TorchFunctionMode):
    """Notes where in the trainers a value is read from the device, or one of the host's is copied there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        copies = name in MAKES and kwargs.get("device") is not None
        if name in READS or copies or _has_unknown_shape(name, args):
            self.found.add(_where())
        return func(*args, **kwargs)


def _has_unknown_shape(name: str, args: tuple[Any, ...]) -> bool:
    if name == "where":
        return len(args) == 1
    if name == "repeat_interleave":
        return len(args) > 1 and isinstance(args[1], Tensor)
    if name not in ("__getitem__", "__setitem__"):
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index)


def _where() -> str:
    frame: Any = sys._getframe(2)
    while not frame.f_code.co_filename.startswith(str(ROOT / "trainers")):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_code.co_name}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    experts = write_teacher(tmp_path_factory.mktemp("experts"), seed=1)
    shutil.copytree(write_teacher(tmp_path_factory.mktemp("low"), seed=2) / "transformer", experts / "transformer_2")
    return write_prompted_data(tmp_path_factory.mktemp("prompted")), experts


def block(kind: str, folders: tuple[Path, Path], cache: Path) -> dict[str, Any]:
    data, experts = folders
    two: dict[str, Any] = {"family": "wan-a14b", "init_from": str(experts), "activation_checkpointing": "full"}
    causal = {**two, "family": "causal-wan-a14b", "num_frames_per_block": 1}
    one = {"init_from": str(experts)}
    few: dict[str, Any] = {"denoising_steps": [1000, 950, 400], "generator_update_interval": 1}
    if kind == "finetune":
        return tiny(data, models={"student": two}, callbacks={"ema": {"decay": 0.5}})
    if kind == "dfsft":
        return tiny(data, models={"student": causal}, method={"kind": "dfsft", "teacher_forcing": True})
    if kind.startswith("kd"):
        made = kd(data, None, cache)
        made["models"]["student"] = causal if kind == "kd-causal" else two
        made["method"] |= {"kind": kind, "trajectory_steps": 48, "t_list": [1000, 937, 833, 625, 0]}
        return made
    student = {"dmd2-vsa": {**one, "attention": {"kind": "vsa", "sparsity": 0.5, "tile": [1, 1, 2]}}, "self-forcing": causal}.get(kind, two)
    method = {"kind": "self-forcing", "require_causal_start": False} if kind == "self-forcing" else {"kind": "dmd2"}
    if kind == "dmd2-of-clips":
        method["rollout"] = "data_latent"
    others = one if kind == "dmd2-vsa" else two
    return dmd2(data, experts, models={"student": student, "teacher": others, "critic": others}, method={**few, **method}, flow_shift=5.0)


@pytest.mark.parametrize("kind", ["finetune", "dfsft", "dmd2", "dmd2-of-clips", "dmd2-vsa", "self-forcing"])
def test_a_step_waits_for_the_device_nowhere_but_where_it_is_declared(
    kind: str, folders: tuple[Path, Path], parallel: ParallelContext, tmp_path: Path
) -> None:
    """With two experts, averages, clipping, two rounds; the first step may fill what is kept for all later ones."""
    (tmp_path / "run").mkdir()
    config = TrainConfig.model_validate(block(kind, folders, tmp_path))
    trainer = Trainer(config, tmp_path / "run", Control({}), parallel)
    with Waits() as waits:
        for _ in range(2):
            waits.found.clear()
            trainer.step += 1
            trainer._train_step(next(trainer.batches), time.monotonic())
    trainer.close()
    assert "trainers/training/metrics.py:pop" in waits.found  # else nothing would be seen
    assert waits.found <= DECLARED


@pytest.mark.parametrize("kind", ["kd", "kd-causal"])
def test_nor_does_distilling_from_trajectories(kind: str, folders: tuple[Path, Path], parallel: ParallelContext, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(block(kind, folders, tmp_path))
    method = method_class(kind)(config, {"student": build_role(config, "student", parallel, load_weights=True)})
    stored = torch.tensor([[1000.0, 937.0, 875.0, 833.0, 625.0, 0.0]] * 2)
    batch = {"trajectory_latents": torch.randn(2, 6, 2, 4, 4, 4), "trajectory_timesteps": stored, "prompt": torch.randn(2, 6, 16)}
    with Waits() as waits:
        for _ in range(2):
            waits.found.clear()
            method.accumulate(batch, 1)
    assert waits.found <= DECLARED


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: bool(t.any()),
        lambda t: float(t[0]),
        lambda t: f"{t[0]:.2f}",
        lambda t: t[t > 0],
        lambda t: t.tolist(),
        lambda t: t.nonzero(),
        lambda t: torch.as_tensor(1.0, device=t.device),
        lambda t: 1.0 in t,
        lambda t: torch.where(t > 0),
        lambda t: t.repeat_interleave(torch.ones(2, dtype=torch.long)),
        lambda t: range(5)[t.long()[0]],
    ],
)
def test_a_wait_would_be_seen(wait: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "_where", lambda: "here")
    with Waits() as waits:
        wait(torch.ones(2))
    assert waits.found == {"here"}
