"""Promises of distilling to a sparse student: the others stay dense, gates learn, a resume in the ramp is bitwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from tests.support.trainers.distilled import dmd2, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import losses, read

SPARSE = {"kind": "vsa", "sparsity": 0.5, "tile": [1, 1, 2], "ramp": {"rate": 0.25, "interval": 2}}
"""Of the 2 x 2 x 2 tokens in four tiles: all at the first step, then three, two from the fourth step on. The student steps at the third."""


def config(data: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    made = dmd2(data, teacher, max_steps=4, **changes)
    student = {**made["models"]["student"], "attention": SPARSE, "activation_checkpointing": "full"}
    made["models"] = {**made["models"], "student": student}
    return made


def test_a_sparse_student_is_distilled_and_resumed_bitwise(runs: Any, tmp_path: Path) -> None:
    data, teacher = write_prompted_data(tmp_path / "data"), write_teacher(tmp_path / "teacher")
    whole = runs.finish(config(data, teacher, checkpoint__every_steps=2), tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/step-00000004")
    cut = runs.finish(config(data, teacher), tmp_path / "cut", attempt=2)
    state, expected = read(cut, 4), read(whole, 4)
    assert losses(cut) == losses(whole)
    assert all(torch.equal(state[key], value) for key, value in expected.items() if isinstance(value, torch.Tensor))
    gates = [key for key in expected if "to_gate_compress" in key]
    assert {tuple(key.split(".")[:2]) for key in gates} == {("roles", "student"), ("optimizers", "student"), ("callbacks", "ema")}
    assert all(expected[key].abs().max() > 0 for key in gates if key.startswith("roles"))
