"""Which device a rank takes: a GPU that the job was given and torch cannot use is an error that says whose fault it is, never the CPU."""

from __future__ import annotations

import logging

import pytest
import torch

from trainers.distributed import devices
from trainers.errors import NodeError, UserError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("TRAINER_GPUS", "CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")


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
