"""Which device a rank takes: a GPU that the job was given and torch cannot use is an error that says whose fault it is, never the CPU."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from tests.support.paths import ROOT
from trainers import allocator
from trainers.distributed import devices, mesh
from trainers.errors import NodeError, UserError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("TRAINER_GPUS", "CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def test_float32_is_computed_in_full_whatever_torch_and_the_environment_default_to() -> None:
    """By themselves cuDNN's convolutions take TF32, and in NVIDIA's images products do, too."""
    said = """
import torch
from trainers.distributed import devices
before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision() != "highest"
devices.choose()
print(before, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())
"""
    environment = {**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "TRAINER_GPUS": "0"}
    reading = "ignore:Please use the new API"  # torch 2.9 warns of that, too
    told = subprocess.run(
        [sys.executable, "-W", "error", "-W", reading, "-c", said], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.split("\n")[0] == "(True, True) False False highest"


def test_where_nobody_asked_for_a_gpu_the_cpu_is_taken_and_told_once(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert devices.choose().type == "cpu"
    environment.setenv("RANK", "1")
    assert devices.choose().type == "cpu"
    assert [record.getMessage() for record in caplog.records] == [f"no GPU is seen by torch {torch.__version__}: this runs on the CPU"]


def test_the_cpu_is_taken_in_silence_where_it_is_meant(environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    environment.setenv("TRAINER_GPUS", "0")
    assert devices.choose().type == "cpu" and not caplog.records


def test_a_build_for_the_cpu_is_wrong_on_every_node(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(torch.version, "cuda", None)
    environment.setenv("TRAINER_GPUS", "2")
    with pytest.raises(UserError, match=r"2 GPUs were given to this node's ranks, and torch .* is built for the CPU alone") as told:
        devices.choose()
    assert "device: cpu" in told.value.hint


@pytest.mark.parametrize("visible", ["", "-1"])
def test_gpus_that_the_environment_hides_are_wrong_on_every_node(environment: pytest.MonkeyPatch, visible: str) -> None:
    cuda_build(environment)
    environment.setenv("TRAINER_GPUS", "1")
    environment.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=r"CUDA_VISIBLE_DEVICES") as told:
        devices.choose()
    assert "env and setup" in told.value.hint


def test_a_node_on_which_cuda_sees_nothing_is_that_nodes_fault_and_cudas_words_are_told(environment: pytest.MonkeyPatch) -> None:
    cuda_build(environment)
    environment.setenv("TRAINER_GPUS", "1")
    with pytest.raises(NodeError, match=r"1 GPU was given to this node's ranks, and torch .* sees 0: .*(CUDA|driver)"):
        devices.choose()


def test_a_gpu_that_fell_off_the_bus_is_missed(environment: pytest.MonkeyPatch) -> None:
    cuda_build(environment)
    environment.setenv("TRAINER_GPUS", "8")
    environment.setattr(torch.cuda, "is_available", lambda: True)
    environment.setattr(torch.cuda, "device_count", lambda: 7)
    with pytest.raises(NodeError, match=r"8 GPUs were given to this node's ranks, and torch .* sees 7"):
        devices.choose()


class Cuda:
    """torch.cuda as far as choosing a device asks it, with an allocator that says of itself what it does."""

    def __init__(self, environment: pytest.MonkeyPatch, expandable: bool | None) -> None:
        settings = {} if expandable is None else {"expandable_segments": expandable}
        environment.setenv("TRAINER_GPUS", "1")
        environment.setattr(torch.cuda, "is_available", lambda: True)
        environment.setattr(torch.cuda, "device_count", lambda: 1)
        environment.setattr(torch.cuda, "set_device", lambda _device: None)
        environment.setattr(torch.cuda.memory, "_snapshot", lambda: {"allocator_settings": settings})
        environment.setattr(devices.torch, "empty", lambda *_sizes, **_named: None)
        for name in allocator.NAMES:
            environment.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("own", "expandable", "words", "wrong"),
    [
        ({}, True, "memory of the GPU is allocated by PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", False),
        ({}, None, "memory of the GPU is allocated by PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", False),
        ({}, False, "this GPU or driver has no expandable segments", True),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, False, "set PYTORCH_CUDA_ALLOC_CONF in its place", True),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}, False, "max_split_size_mb:128, without expandable segments", False),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, False, "segments:False, without expandable segments", False),
        ({"PYTORCH_HIP_ALLOC_CONF": ""}, False, "PYTORCH_HIP_ALLOC_CONF=, without expandable segments", False),
    ],
)
def test_segments_grow_unless_the_person_says_otherwise_and_what_holds_is_told(
    own: dict[str, str], expandable: bool, words: str, wrong: bool, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Cuda(environment, expandable)
    for name, value in own.items():
        environment.setenv(name, value)
    environment.setenv(allocator.NAME, own.get(allocator.NAME, ""))  # so that it is put back
    if allocator.NAME not in own:
        environment.delenv(allocator.NAME)
    allocator.prefer_expandable_segments()
    assert {name: os.environ[name] for name in allocator.NAMES if name in os.environ} == (own or {allocator.NAME: allocator.EXPANDABLE})
    assert devices.choose() == torch.device("cuda", 0)
    [told] = caplog.records
    assert words in told.getMessage() and told.reported is wrong  # type: ignore[attr-defined]


def test_where_the_cpu_is_meant_nothing_is_set() -> None:
    environment = {"TRAINER_GPUS": "0"}
    allocator.prefer_expandable_segments(environment)
    assert environment == {"TRAINER_GPUS": "0"}


def test_gpus_are_connected_when_the_ranks_meet_and_not_in_the_first_step() -> None:
    assert mesh._backend(torch.device("cuda", 3)) == {"backend": "cpu:gloo,cuda:nccl", "device_id": torch.device("cuda", 3)}
    assert mesh._backend(torch.device("cpu")) == {"backend": "gloo"}
