"""Promises of video sparse attention as mathematics: what a float64 reference says, on every backend that runs here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.support.trainers import emulated_kernels as kernels
from trainers.errors import UserError
from trainers.models.attention import kernel_choice, kernel_packages, sparse_gather, sparse_gpu
from trainers.models.attention import sparse as vsa
from trainers.models.attention.sparse_tiles import Tiles

CPU = torch.device("cpu")
CASES = [
    (Tiles((4, 4, 4), (2, 2, 2)), 3),
    (Tiles((6, 5, 7), (4, 4, 4)), 3),
    (Tiles((6, 5, 7), (2, 3, 2)), 7),
    (Tiles((3, 2, 2), (1, 2, 2)), 1),
    (Tiles((5, 2, 2), (2, 2, 2)), 2),
    (Tiles((2, 3, 5), (1, 1, 1)), 11),
]
"""Tiles, and how many key tiles are kept."""
TIGHT = {"rtol": 0, "atol": 1e-6}


def inputs(tiles: Tiles, head_dim: int = 8, batch: int = 2, heads: int = 3) -> list[Tensor]:
    """query, key, value, gate and what comes back in the backward pass: [B, S, heads, head dim] float64."""
    generator = torch.Generator().manual_seed(7)
    shape = (batch, math.prod(tiles.grid), heads, head_dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for scale in (1, 1, 1, 1, 0.3)]


def tile_of_token(tiles: Tiles) -> Tensor:
    """[S], from the coordinates."""
    along = [torch.arange(length) // size for length, size in zip(tiles.grid, tiles.tile, strict=True)]
    time, down, across = torch.cartesian_prod(*along).unbind(1)
    high, wide = int(along[1].max()) + 1, int(along[2].max()) + 1
    return (time * high + down) * wide + across


def reference(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, tiles: Tiles, kept: int) -> tuple[Tensor, Tensor]:
    """(output, which key tiles each query tile keeps), one head at a time, with the whole matrix of scores."""
    of, scale = tile_of_token(tiles), query.shape[-1] ** -0.5
    belongs = (of[None] == torch.arange(tiles.num)[:, None]).to(query.dtype)
    mean = belongs / belongs.sum(1, keepdim=True)
    outputs, choices = torch.empty_like(query), torch.zeros(query.shape[0], query.shape[2], tiles.num, tiles.num, dtype=torch.bool)
    for b in range(query.shape[0]):
        for head in range(query.shape[2]):
            q, k, v, g = (part[b, :, head] for part in (query, key, value, gate))
            scores = (mean @ q) @ (mean @ k).T * scale
            coarse = torch.softmax(scores, 1) @ (mean @ v)
            for row in range(tiles.num):
                choices[b, head, row, scores[row].detach().argsort(descending=True)[:kept]] = True
            seen = choices[b, head][of][:, of]
            weights = torch.where(seen, (q @ k.T * scale).exp(), 0.0)
            outputs[b, :, head] = coarse[of] * g + weights @ v / weights.sum(1, keepdim=True)
    return outputs, choices


def with_gradients(function: Callable[..., Tensor], parts: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """[output, gradients of each of `parts`]"""
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


@pytest.mark.parametrize(("tiles", "kept"), CASES)
def test_outputs_and_all_gradients_are_those_of_the_whole_matrix_in_float64(tiles: Tiles, kept: int) -> None:
    *parts, upstream = inputs(tiles)
    expected = with_gradients(lambda *of: reference(*of, tiles, kept)[0], parts, upstream)
    ours = [part.float() for part in parts]
    actual = with_gradients(lambda *of: vsa.attend(*of, tiles, kept, "gather"), ours, upstream.float())
    for ours_, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_, theirs.float(), **TIGHT)
    dense = with_gradients(lambda *of: reference(*of, tiles, tiles.num)[0], parts, upstream)
    assert all((sparse - full).abs().max() > 1e-3 for sparse, full in zip(expected[:4], dense[:4], strict=True))


@pytest.mark.parametrize(("tiles", "kept"), CASES)
def test_the_tiles_of_the_highest_scores_are_chosen_in_each_head(tiles: Tiles, kept: int) -> None:
    query, key, value, gate, _ = inputs(tiles)
    expected = reference(query, key, value, gate, tiles, kept)[1]
    chosen = vsa.choose(vsa.over_means(tiles.cut(query), tiles.cut(key), tiles.cut(value), tiles)[1], kept)
    assert chosen.shape == (2, 3, tiles.num, kept)
    assert torch.zeros_like(expected).scatter_(-1, chosen, True).equal(expected)
    assert kept == 1 or (chosen.diff(dim=-1) > 0).all()


@pytest.mark.parametrize(("tiles", "kept"), CASES)
def test_a_gate_of_zero_leaves_torchs_attention_under_the_expanded_mask(tiles: Tiles, kept: int) -> None:
    """So the choice has no gradient: the mask has none."""
    *parts, gate, upstream = inputs(tiles)
    of = tile_of_token(tiles)
    mask = reference(*parts, gate, tiles, kept)[1][:, :, of][:, :, :, of]

    def masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)), attn_mask=mask).transpose(1, 2)

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return vsa.attend(query, key, value, torch.zeros_like(gate, dtype=query.dtype), tiles, kept, "gather")

    expected = with_gradients(masked, [part.float() for part in parts], upstream.float())
    actual = with_gradients(ours, [part.float() for part in parts], upstream.float())
    for ours_, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, **TIGHT)


@pytest.mark.parametrize("tiles", [tiles for tiles, _ in CASES])
def test_all_tiles_and_a_gate_of_zero_are_dense_attention(tiles: Tiles) -> None:
    query, key, value, gate, _ = (part.float() for part in inputs(tiles))
    actual = vsa.attend(query, key, value, torch.zeros_like(gate), tiles, tiles.num, "gather")
    expected = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(actual, expected, **TIGHT)


def test_a_gate_that_is_open_has_the_gradient_of_the_coarse_branch_also_where_nothing_is_left_out() -> None:
    tiles = Tiles((3, 4, 4), (2, 2, 2))
    *parts, upstream = inputs(tiles)
    expected = with_gradients(lambda *of: reference(*of, tiles, tiles.num)[0], parts, upstream)
    actual = with_gradients(lambda *of: vsa.attend(*of, tiles, tiles.num, "gather"), [p.float() for p in parts], upstream.float())
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs.float(), **TIGHT)


def test_no_gradient_comes_back_through_the_choice() -> None:
    scores = torch.randn(1, 1, 4, 4, requires_grad=True)
    assert not vsa.choose(scores, 2).requires_grad


def test_half_precision_is_computed_on_exactly() -> None:
    tiles, kept = CASES[1]
    *parts, upstream = (part.bfloat16() for part in inputs(tiles))
    actual = with_gradients(lambda *of: vsa.attend(*of, tiles, kept, "gather"), list(parts), upstream)
    expected = with_gradients(lambda *of: vsa.attend(*of, tiles, kept, "gather"), [p.float() for p in parts], upstream.float())
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-2, atol=1e-2)


def test_how_much_is_gathered_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, kept = CASES[2]
    *parts, upstream = inputs(tiles)
    whole = with_gradients(lambda *of: vsa.attend(*of, tiles, kept, "gather"), parts, upstream)
    monkeypatch.setattr(sparse_gather, "_CPU_BYTES", 1)
    alone = with_gradients(lambda *of: vsa.attend(*of, tiles, kept, "gather"), parts, upstream)
    for ours, theirs in zip(alone, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


# --- tiles


@pytest.mark.parametrize("tiles", [tiles for tiles, _ in CASES])
def test_tokens_are_regrouped_by_their_coordinates_and_put_back(tiles: Tiles) -> None:
    tokens = torch.arange(1, 1 + math.prod(tiles.grid), dtype=torch.float32)[None, :, None, None].expand(2, -1, 3, 5)
    cut, of = tiles.cut(tokens), tile_of_token(tiles)
    assert cut.shape == (2, 3, tiles.num, tiles.size, 5)
    for number in range(tiles.num):
        inside = cut[1, 2, number, :, 4]
        assert inside[inside > 0].tolist() == (1 + torch.nonzero(of == number)[:, 0]).tolist()
        assert (inside > 0).equal(tiles.valid(CPU)[number]) and int((inside > 0).sum()) == tiles.lengths(CPU)[number]
    assert tiles.joined(cut).equal(tokens)
    assert tiles.ragged == bool((~tiles.valid(CPU)).any())


def test_what_is_remembered_of_tiles_while_sampling_does_for_training() -> None:
    tiles = Tiles((3, 3, 3), (2, 2, 2))
    with torch.inference_mode():
        assert not tiles.valid(CPU).is_inference() and not tiles.lengths(CPU).is_inference()


# --- the backends of GPUs, as far as a CPU can hold them to the reference


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("tiles", "kept"), CASES[:2])
def test_flex_attention_sees_the_same(tiles: Tiles, kept: int) -> None:
    """Its forward pass, uncompiled: a CPU has no more."""
    query, key, value, gate, _ = (part.float() for part in inputs(tiles))
    with torch.no_grad():
        actual, expected = (vsa.attend(query, key, value, gate, tiles, kept, backend) for backend in ("flex", "gather"))
    torch.testing.assert_close(actual, expected, **TIGHT)


@pytest.mark.parametrize(("tiles", "kept"), CASES)
def test_the_block_mask_shows_the_chosen_tiles_and_no_padding(tiles: Tiles, kept: int) -> None:
    chosen = torch.rand(2, 3, tiles.num, tiles.num, generator=torch.Generator().manual_seed(1)).topk(kept, -1).indices
    valid = tiles.valid(CPU) if tiles.ragged else None
    mask: Any = sparse_gpu.block_mask(chosen, valid, tiles.size)
    expected = torch.zeros(2, 3, tiles.num, tiles.num, dtype=torch.int32).scatter_(-1, chosen, 1)
    assert mask.to_dense().equal(expected)
    every = torch.arange(tiles.num * tiles.size)
    looked = mask.mask_mod(torch.tensor(1), torch.tensor(2), every[:, None], every)
    expanded = expected[1, 2].bool().repeat_interleave(tiles.size, 0).repeat_interleave(tiles.size, 1)
    assert looked.equal(expanded if valid is None else expanded & valid.flatten())
    whole = torch.ones(tiles.num, dtype=torch.bool) if valid is None else valid.all(1)
    assert int(mask.full_kv_num_blocks.sum()) == int(whole[chosen].sum())
    assert mask.kv_indices.shape[-1] == mask.full_kv_indices.shape[-1] == tiles.num  # whatever is kept: nothing compiles anew


def stand_in(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """What the packages' block_sparse_attn is documented to compute: [B, heads, N n, D], a map [B, heads, N, N], and for each tile how
    many of its first places are tokens."""
    tile = key.shape[2] // len(lengths)
    assert chosen.dtype == torch.bool and lengths.dtype == torch.int32
    keys = (torch.arange(tile) < lengths[:, None]).flatten()
    mask = chosen.repeat_interleave(tile, 2).repeat_interleave(tile, 3) & keys
    return scaled_dot_product_attention(query, key, value, attn_mask=mask), None


@pytest.mark.parametrize(("tiles", "kept"), CASES)
def test_the_packages_kernels_are_given_what_they_ask_for(tiles: Tiles, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_packages, "found", lambda: (stand_in, ""))
    *parts, upstream = (part.float() for part in inputs(tiles))
    actual, expected = (
        with_gradients(lambda *of, b=b: vsa.attend(*of, tiles, kept, b), list(parts), upstream) for b in ("kernel", "gather")
    )
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_several_videos_are_given_to_kernels_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels for Hopper cards check that the batch is one."""
    monkeypatch.setattr(kernel_packages, "found", lambda: (kernels.for_one_video, ""))
    tiles, kept = Tiles((6, 5, 7), (4, 4, 4)), 3
    *parts, upstream = (part.float() for part in inputs(tiles, batch=3))
    actual, expected = (
        with_gradients(lambda *of, b=b: vsa.attend(*of, tiles, kept, b), list(parts), upstream) for b in ("kernel", "gather")
    )
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


@pytest.fixture
def undecided() -> Iterator[None]:
    kernel_choice.forget()
    kernel_packages.found.cache_clear()
    yield
    kernel_choice.forget()
    kernel_packages.found.cache_clear()


@pytest.mark.usefixtures("undecided")
def test_a_cpu_imports_no_kernels_and_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    assert sparse_gpu.backend("auto", CPU, torch.bfloat16, 64, 128) == "gather"
    with pytest.raises(UserError, match="is installed here, or no GPU is seen"):
        sparse_gpu.backend("kernel", CPU, torch.bfloat16, 64, 128)


@pytest.mark.usefixtures("undecided")
def test_a_gpu_takes_the_fastest_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, half = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr(sparse_gpu, "tried", lambda *_: "")
    monkeypatch.setattr(kernel_packages, "found", lambda: (None, ""))
    assert sparse_gpu.backend("auto", cuda, half, 64, 128) == "flex"
    assert sparse_gpu.backend("auto", cuda, half, 8, 128) == sparse_gpu.backend("auto", cuda, half, 64, 12) == "gather"
    kernel_choice.forget()
    monkeypatch.setattr(kernel_packages, "found", lambda: (stand_in, ""))
    assert sparse_gpu.backend("auto", cuda, half, 64, 128) == "kernel"
    assert sparse_gpu.backend("auto", cuda, torch.float32, 64, 128) == sparse_gpu.backend("auto", cuda, half, 128, 128) == "flex"
    assert sparse_gpu.backend("gather", cuda, half, 64, 128) == "gather" and sparse_gpu.backend("flex", cuda, half, 64, 128) == "flex"


WRONG = [kernels.keys_scaled_in_bf16, kernels.another_dv, kernels.raising, kernels.without_numbers]


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("kernel", WRONG)
def test_a_wrong_kernel_is_told_and_left_by_auto_and_refused_by_name(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_packages, "found", lambda: (kernel, ""))
    real = sparse_gpu.tried  # here the tensors are on the CPU, whatever the device is called
    monkeypatch.setattr(sparse_gpu, "tried", lambda of, _device, *rest: real(of, CPU, *rest) if of is sparse_gpu.attend_kernel else "")
    for _ in range(2):  # each pass looks, and it is told once
        assert sparse_gpu.backend("auto", torch.device("cuda"), torch.bfloat16, 64, 64) == "flex"
    [told] = [record for record in caplog.records if record.reported]  # type: ignore[attr-defined]
    assert told.getMessage().startswith("attention: a package's kernels are not used: ") and "next is 'flex'" in told.getMessage()
    with pytest.raises(UserError, match=r"^attention\.backend: kernel was chosen by name, and (d[qkv]|it) (is|fails)") as refused:
        sparse_gpu.backend("kernel", torch.device("cuda"), torch.bfloat16, 64, 64)
    assert "fastvideo-kernel 0.3.4 or newer" in refused.value.hint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("grid", [(8, 8, 8), (6, 5, 7)])
@pytest.mark.parametrize("backend", ["flex", "kernel"])
def test_a_gpus_backends_are_the_reference(backend: Any, grid: tuple[int, int, int]) -> None:
    if backend == "kernel" and kernel_packages.found()[0] is None:
        pytest.skip("no package with kernels")
    tiles, kind = Tiles(grid, (4, 4, 4)), torch.bfloat16
    *parts, upstream = (part.to("cuda", kind) for part in inputs(tiles, head_dim=64))
    expected = with_gradients(lambda *of: vsa.attend(*of, tiles, 3, "gather"), [p.float() for p in parts], upstream.float())
    actual = with_gradients(lambda *of: vsa.attend(*of, tiles, 3, backend), list(parts), upstream)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=3e-2, atol=3e-2)
