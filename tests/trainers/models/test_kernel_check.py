"""Promises of the comparison that kernels of attention must pass before a run takes them: right ones do, wrong ones are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.support.trainers import emulated_kernels as kernels
from trainers.models.attention import block_causal, kernel_packages, masks, sparse_gather, sparse_gpu

CPU, HALF = torch.device("cpu"), torch.bfloat16


def result(kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, head_dim: int = 64) -> str:
    monkeypatch.setattr(kernel_packages, "found", lambda: (kernel, ""))
    return sparse_gpu.tried(sparse_gpu.attend_kernel, CPU, HALF, 64, head_dim)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_kernel_that_rounds_as_kernels_do_is_right(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert result(kernels.right, monkeypatch, head_dim) == ""


@pytest.mark.parametrize("head_dim", [64, 128])
def test_keys_that_are_scaled_in_bfloat16_are_seen_in_the_gradients(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = result(kernels.keys_scaled_in_bf16, monkeypatch, head_dim)
    assert found.startswith(("dq is", "dk is", "dv is")) and "4 times their usual size" in found


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (kernels.another_dv, "dv is"),
        (kernels.raising, "it fails with RuntimeError: no kernel image is available for execution on the device"),
        (kernels.without_numbers, "dk is not finite"),
        (kernels.padding_attended_to, "the output is"),
        (kernels.half_a_scale, "dq is"),
        (kernels.without_gradients, "it fails with RuntimeError"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(kernel: Callable[..., Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = result(kernel, monkeypatch)
    assert found.startswith(words) and "\n" not in found


@pytest.mark.parametrize("dtype", [HALF, torch.float32])
def test_torchs_own_attention_passes_in_each_precision(dtype: torch.dtype) -> None:
    assert sparse_gpu.tried(sparse_gather.attend, CPU, dtype, 64, 64) == ""
    for of in (dense, lambda q, k, v, mask: dense(q.contiguous(), k.contiguous(), v.contiguous(), mask)):
        assert masks.tried(of, CPU, dtype, 64) == ""


def test_a_block_causal_kernel_that_sees_the_future_is_wrong() -> None:
    found = masks.tried(lambda query, key, value, _mask: block_causal.attend(query, key, value, None), CPU, HALF, 64)
    assert found.startswith("the output is")


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
    """What flex_attention computes with a BlockMask, whose squares of 128 tokens are expanded and looked at token by token."""
    every = torch.arange(query.shape[1])
    whole = mask.mask_mod(None, None, every[:, None], every)
    return scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)), attn_mask=whole).transpose(1, 2)


def test_the_comparison_is_the_same_while_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of a pipeline that was loaded by diffusers makes it, under inference_mode."""
    with torch.inference_mode():
        assert result(kernels.right, monkeypatch) == ""
        assert result(kernels.another_dv, monkeypatch).startswith("dv is")


def test_the_comparison_draws_nothing_from_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    result(kernels.right, monkeypatch)
    assert torch.get_rng_state().equal(state)
