"""The estimate of a run's memory: counted as the real network is, and told before anything is queued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config.compose import compose
from trainers.config import network_size
from trainers.config.memory_estimate import Memory, estimate
from trainers.config.models.base import LoraConfig
from trainers.config.models.wan import WanArchitecture

GB = 1e9
A14B = {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}


def of(recipe: str, ranks: int, *sets: str) -> Memory:
    train = compose(recipe, "local", sets=[*sets, f"resources.ranks={ranks}"]).recipe.train
    assert train is not None
    return estimate(train, ranks)


@pytest.mark.parametrize("numbers", [{}, A14B, {"num_layers": 2, "cross_attn_norm": False, "qk_norm": None, "in_channels": 4}])
def test_a_network_is_counted_as_it_is_built(numbers: dict[str, Any]) -> None:
    import torch
    from diffusers import WanTransformer3DModel

    architecture = WanArchitecture(**numbers)
    with torch.device("meta"):
        network: Any = WanTransformer3DModel(**architecture.model_dump())
    found = network_size.transformer_size(architecture)
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert found.block == sum(p.numel() for p in network.blocks[0].parameters())


def test_adapters_and_gates_are_counted_as_they_are_made() -> None:
    import torch
    from diffusers import WanTransformer3DModel

    from trainers.config.attention import SparseAttention
    from trainers.models import lora
    from trainers.models.attention import sparse_network

    architecture = WanArchitecture(num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=40, text_dim=8)
    asked = LoraConfig(rank=3, target_modules=["to_q", "attn2.to_k", "ffn.net.2"], exclude_modules=["attn1.to_q"])
    with torch.device("meta"):
        network: Any = WanTransformer3DModel(**architecture.model_dump())
        sparse_network.install(network, SparseAttention(sparsity=0.5))
        found = network_size.transformer_size(architecture, asked, gates=True)
        assert found.parameters == sum(p.numel() for p in network.parameters())
        lora.inject(network, asked)
    assert found.adapters == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_states_of_a_trained_role_are_shared_out_and_those_of_a_frozen_one_are_its_weights() -> None:
    one, four = of("dmd2", 4, "train.parallel={replicate: 4, shard: 1}"), of("dmd2", 4)
    student, critic, teacher = (next(r for r in four.roles if r.role == role) for role in ("student", "critic", "teacher"))
    parameters = student.parameters or 0
    assert 1.41e9 < parameters < 1.42e9
    assert (student.weights, student.gradients, student.optimizer) == (parameters, parameters, 2 * parameters)
    assert (student.averages, critic.averages) == (parameters, 0)
    assert (teacher.weights, teacher.gradients, teacher.optimizer, teacher.averages) == (parameters // 2, 0, 0, 0)
    assert next(r for r in one.roles if r.role == "student").weights == 4 * parameters
    assert four.peak < one.peak and four.checkpoint == one.checkpoint == 4 * parameters * (4 + 3)


def test_recomputing_saves_memory_and_adapters_save_more() -> None:
    full, some, none = (of("finetune", 8, f"train.models.student.activation_checkpointing={k}") for k in ("full", "selective", "none"))
    assert full.peak < some.peak < none.peak
    adapters = of("lora", 1)
    assert adapters.peak < full.peak and adapters.checkpoint < full.checkpoint / 50


def test_a_teacher_that_only_makes_the_data_is_not_there_while_training() -> None:
    found = of("kd", 8)
    (teacher,) = (role for role in found.roles if role.before_training)
    assert found.peak == max(teacher.kept + teacher.passing, found.peak) < sum(role.kept + role.passing for role in found.roles)
    large = of("kd", 8, "train.method.teacher_batch_size=64")  # then it takes more than training
    assert large.peak > found.peak and large.highest is None and found.highest is not None


def test_gradients_of_several_rounds_are_whole_until_they_are_shared_out() -> None:
    once, summed = of("kd", 8), of("kd", 8, "train.data.micro_batch_size=1")
    student = next(role for role in once.roles if role.role == "student")
    assert sum(r.gradients for r in summed.roles) - sum(r.gradients for r in once.roles) == 4 * (student.parameters or 0)


def test_a_student_and_its_critic_keep_activations_one_after_the_other() -> None:
    critic = {role.role: role for role in of("dmd2-14b", 64).roles}["critic"]
    highest = of("dmd2-14b", 64).highest
    assert highest is not None and highest.size == critic.activations


def test_a_video_made_block_by_block_keeps_the_past_of_each_expert_that_reads_it() -> None:
    def stage(name: str, *sets: str) -> int:
        return next(s.size for s in of("self-forcing-a14b", 32, *sets).stages if s.name == name)

    layers, width, frame, text = 40, 5120, 28 * 52, 512
    left, past = layers * 2 * width * 21 * frame, layers * 4 * width * (18 * frame + text)  # the last block of three frames is not written
    both, one = stage("the student's rollout") - left, stage("the student's loss") - left
    assert 2 * past < both < 2 * past + 4 * GB and past < one < past + 6 * GB
    ungraded = stage("the student's rollout", "train.method.start_gradient_frame=12")
    assert ungraded == left + both - layers * 2 * width * 12 * frame


def test_of_two_experts_with_mixed_exits_both_learn() -> None:
    one = next(r for r in of("self-forcing-a14b", 32).roles if r.role == "student")
    both = next(r for r in of("self-forcing-a14b", 32, "train.method.same_step_across_blocks=false").roles if r.role == "student")
    assert both.gradients == 2 * one.gradients


@pytest.mark.parametrize(("kind", "measured"), [("none", 66.0), ("selective", 63.8), ("full", 9.7)])
def test_adapters_keep_what_was_measured(kind: str, measured: float) -> None:
    """Measured with the CUDA build of torch, without a GPU (tests/gpu), when the estimate said 122 and 49 GB."""
    found = of("lora", 1, f"train.models.student.activation_checkpointing={kind}")
    assert found.peak == pytest.approx(measured * GB, rel=0.1)


def test_clean_frames_beside_noisy_ones_double_the_tokens() -> None:
    one, both = of("dfsft", 8), of("dfsft", 8, "train.method.teacher_forcing=true")
    assert both.roles[0].activations > 1.9 * one.roles[0].activations


def test_a_whole_mask_is_counted() -> None:
    flex, dense = of("dfsft", 8), of("dfsft", 8, "train.models.student.attention=dense")
    assert dense.peak - flex.peak == 3 * 29120**2


def test_muon_keeps_one_number_a_matrix() -> None:
    adamw = of("shapes-finetune", 1, "train.optimizers.student={kind: adamw, lr: 1e-3}")
    muon = of("shapes-finetune", 1, "train.optimizers.student={kind: muon, lr: 1e-3, rest: {lr: 1e-3}}")
    assert adamw.roles[0].optimizer * 0.5 < muon.roles[0].optimizer < adamw.roles[0].optimizer * 0.8


def test_a_model_that_is_not_here_is_told_as_unknown(tmp_path: Path) -> None:
    found = of("finetune", 8, f"train.models.student.init_from={tmp_path / 'other'}")
    assert found.unknown == ["student"] and found.peak == 0
    (tmp_path / "other/transformer").mkdir(parents=True)
    (tmp_path / "other/transformer/config.json").write_text('{"_class_name": "WanTransformer3DModel", "num_layers": 1}')
    found = of("finetune", 8, f"train.models.student.init_from={tmp_path / 'other'}")
    assert found.unknown == [] and found.roles[0].parameters == network_size.transformer_size(WanArchitecture(num_layers=1)).parameters


def test_of_two_experts_both_are_kept_and_one_computes() -> None:
    one = next(r for r in of("finetune", 8, "train.models.student.init_from=Wan-AI/Wan2.1-T2V-14B-Diffusers").roles)
    two = next(r for r in of("finetune-a14b", 8).roles)
    assert two.parameters == 2 * (one.parameters or 0)
    assert two.optimizer == 2 * one.optimizer // 8  # which is sharded over 8
    assert two.gradients == one.gradients // 8  # a step trains one of them
