"""GPUs that options of sbatch ask for: counted in every form, or refused with the form that works."""

from __future__ import annotations

from typing import Any

import pytest

from fvlaunch.schedulers.slurm import gpu_counts

TYPES = ("a100", "2080ti", "1080", "rtx_a6000", "a100-sxm4-80gb", "1g.10gb", "1g.10gb+me", "nvidia_h100_80gb_hbm3")


@pytest.mark.parametrize("type_", TYPES)
def test_a_type_may_have_any_name(type_: str) -> None:
    for option in ("gpus", "gpus-per-node", "gpus-per-task"):
        assert gpu_counts.kinds(option, f"{type_}:2") == [(type_, 2)]
    assert gpu_counts.kinds("gres", f"gpu:{type_}:2,shard:3") == [(type_, 2)]
    assert gpu_counts.asking_for({"gres": f"nvme:1,gpu:{type_}:4"}, 2) == {"gres": f"nvme:1,gpu:{type_}:2"}


@pytest.mark.parametrize(
    ("options", "on_a_node", "in_all"),
    [
        ({"gres": "gpu"}, 1, None),
        ({"gres": "gpu:v100"}, 1, None),
        ({"gres": "gpu:4,nvme:1"}, 4, None),
        ({"gres": "gpu:a:2,gpu:b:1"}, 3, None),
        ({"gres": "gpu:1k"}, 1024, None),
        ({"gres": "gpu:0"}, None, None),
        ({"gres": "shard:8"}, None, None),
        ({"gpus-per-node": 8, "gres": "gpu:8"}, 8, None),
        ({"gpus-per-node": "a:2,b:2"}, 4, None),
        ({"gpus-per-task": 2}, 2, None),
        ({"tres-per-task": "cpu:4,gres/gpu:a100:2"}, 2, None),
        ({"tres-per-task": "cpu=4,gres/gpu=2"}, 2, None),
        ({"tres-per-task": "cpu=4,license/gpu=2"}, None, None),
        ({"gpus-per-socket": 2, "sockets-per-node": 2}, 4, None),
        ({"gpus-per-socket": 2, "extra-node-info": "2:8:1"}, 4, None),
        ({"gpus": 16}, None, 16),
        ({"gpus": "a100:16", "gpus-per-node": 8}, 8, 16),
        ({"exclusive": True}, None, None),
    ],
)
def test_each_form_is_counted(options: dict[str, Any], on_a_node: int | None, in_all: int | None) -> None:
    found = gpu_counts.asked(options)
    assert (found.on_a_node, found.in_all) == (on_a_node, in_all)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus-per-node": 4, "gres": "gpu:2"}, "gpus-per-node asks for 4 GPUs of a node, gres for 2"),
        ({"gpus-per-socket": 2}, "gpus-per-socket wants the number of sockets"),
        ({"gres": "gpu:1,gpu:2"}, "gres 'gpu:1,gpu:2' may mean the same GPUs twice"),
        ({"gres": "gpu:2,gpu:a100:2"}, "gres 'gpu:2,gpu:a100:2' may mean the same GPUs twice"),
    ],
)
def test_a_contradiction_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(gpu_counts.GpuError) as refused:
        gpu_counts.asked(options)
    assert refused.value.message == message and refused.value.hint
    assert gpu_counts.num_gpus(options) is None


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("gres", "gpu:a100:4(S:0-1)", "write gpu:a100:4:"),
        ("gres", "GPU:2", "write gpu:NUMBER"),
        ("gres", "gpu:a:b:2", "write gpu:NUMBER"),
        ("gres", "gpu::2", "write gpu:NUMBER"), ("gres", "gpu:-1", "write gpu:NUMBER"), ("gres", "nvme:1, gpu:2", "without spaces"),
        ("gpus-per-node", "2080ti", "2080ti:1"), ("gpus", "gpu:2", "write 2"), ("gpus", "2,", "TYPE:NUMBER"), ("gpus", "=2", "TYPE:NUMBER"),
        ("tres-per-task", "gres/gpu:x:y:2", "gres/gpu:TYPE"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused_with_the_form_that_works(option: str, value: str, hint: str) -> None:
    with pytest.raises(gpu_counts.GpuError) as refused:
        gpu_counts.checked(option, value)
    assert hint in refused.value.hint


def test_the_spellings_of_accounts_become_those_of_sbatch() -> None:
    assert gpu_counts.checked("gres", "gres/gpu:2,gres:nvme=1") == "gpu:2,nvme:1"


@pytest.mark.parametrize(
    ("options", "count", "nodes", "changed"),
    [
        ({"gpus-per-node": "a100:8"}, 2, 1, {"gpus-per-node": "a100:2"}),
        ({"gpus": 8}, 2, 1, {"gpus": "2"}),
        ({"gpus": "a100:8"}, 4, 2, {"gpus-per-node": "a100:4"}),
        ({"gpus": 8, "gpus-per-node": 4}, 4, 2, {"gpus-per-node": 4}),
        ({"gpus-per-socket": "2", "sockets-per-node": 2}, 3, 1, {"sockets-per-node": 2, "gpus-per-node": "3"}),
        ({"tres-per-task": "cpu:2,gres/gpu:4"}, 1, 1, {"tres-per-task": "cpu:2,gres/gpu:1"}),
        ({"gres": "shard:4", "mem": "1G"}, 2, 1, {"gres": "shard:4", "mem": "1G"}),
        ({"gpus-per-node": "a:2,b:2"}, 4, 2, {"gpus-per-node": "a:2,b:2"}),
    ],
)
def test_another_number_is_asked_for_in_the_same_form(options: dict[str, Any], count: int, nodes: int, changed: dict[str, Any]) -> None:
    assert gpu_counts.asking_for(options, count, nodes) == changed


def test_of_several_types_nobody_can_say_which_are_meant() -> None:
    with pytest.raises(gpu_counts.GpuError, match="names several types, and 1 GPUs"):
        gpu_counts.asking_for({"gres": "gpu:a:2,gpu:b:2"}, 1)
