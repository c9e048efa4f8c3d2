"""Promises of going on block by block: the numbers of one pass under the mask, and a past that nothing changes."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config.models.causal_wan import Config
from trainers.diffusion import frame_blocks
from trainers.diffusion.frame_blocks import Window
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.models.attention.projections import rotated
from trainers.models.attention.rope import frame_shift, rotary_angles
from trainers.models.causal_wan import CausalWan

DEEP = {**ARCHITECTURE, "num_layers": 3}
FRAMES, PER_BLOCK, SIZE = 7, 2, (4, 8)
CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights large enough for a wrong past to show."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    made = WanTransformer3DModel(**DEEP)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    path: Path = tmp_path_factory.mktemp("model")
    made.save_pretrained(path / "transformer")
    return path


def causal_wan(parallel: ParallelContext, folder: Path, precision: str = "fp32", trainable: bool = True, **config: Any) -> CausalWan:
    made = Config.model_validate({"num_frames_per_block": PER_BLOCK, "init_from": str(folder), **config})
    return CausalWan(made, "student", trainable=trainable, precision=precision, seed=1, parallel=parallel, load_weights=True)


@pytest.fixture(scope="module")
def model(parallel: ParallelContext, folder: Path) -> CausalWan:
    return causal_wan(parallel, folder)


def inputs(num_frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
    """(latents [B, T, C, H, W], timesteps [B, T] equal within blocks, prompt [B, L, D])."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, num_frames, 4, *SIZE, generator=generator)
    levels = torch.rand(2, num_frames, generator=generator)[:, frame_blocks.block_of_frame(num_frames, PER_BLOCK) * PER_BLOCK] * 1000
    return latents, levels, torch.randn(2, 6, 16, generator=generator)


def spans(num_frames: int = FRAMES) -> Iterator[tuple[int, slice]]:
    start = 0
    for length in frame_blocks.lengths(num_frames, PER_BLOCK):
        yield start, slice(start, start + length)
        start += length


def streamed(model: CausalWan, latents: Tensor, levels: Tensor, prompt: Tensor, window: Window | None = None) -> Tensor:
    """Each block predicted, then written as it was given, at its own noise level: what one pass over all of them sees."""
    cache, found = model.open_cache(2, prompt, latents.shape[1], SIZE, window), []
    with torch.no_grad():
        for start, span in spans(latents.shape[1]):
            found.append(model.predict_block(latents[:, span], levels[:, span], prompt, cache, start=start))
            model.write_block(latents[:, span], levels[:, span], prompt, cache, start=start)
    return torch.cat(found, 1)


WINDOWS = [Window(), Window(FRAMES), Window(FRAMES, sink=2), Window(40, sink=1)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_block_by_block_is_one_pass_under_the_mask(model: CausalWan, window: Window) -> None:
    expected = model.predict_velocity(*inputs())
    torch.testing.assert_close(streamed(model, *inputs(), window), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_in_float64_it_is_the_same_to_twelve_digits(parallel: ParallelContext, folder: Path, window: Window, monkeypatch: Any) -> None:
    """diffusers' Wan and our output pass through float32, which rounds the last digits either way; here that is left out."""
    plain = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else plain(tensor))
    double = causal_wan(parallel, folder)
    double.transformer.double()
    double.compute_type = torch.float64
    latents, levels, prompt = inputs()
    expected = double.predict_velocity(latents.double(), levels, prompt)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(streamed(double, latents.double(), levels, prompt, window), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_a_window_that_rolls_is_one_pass_under_a_mask_that_rolls(
    parallel: ParallelContext, folder: Path, model: CausalWan, frames: int
) -> None:
    rolling = causal_wan(parallel, folder, local_attn_size=frames)
    expected = rolling.predict_velocity(*inputs())
    torch.testing.assert_close(streamed(rolling, *inputs()), expected, rtol=1e-6, atol=1e-6)
    assert (expected - model.predict_velocity(*inputs())).abs().max() > 1e-2


def test_the_mask_of_a_window_by_hand() -> None:
    found = frame_blocks.causal(7, 2, Window(4, sink=1)).int().tolist()
    # blocks 01 23 45 6; the last sees its own frame, the sink frame 0 and the two before: 6 has dropped 1, 2, 3
    first, second, third, last = [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1, 1]
    assert found == [first] * 2 + [second] * 2 + [third] * 2 + [last]
    forced = frame_blocks.teacher_forcing(7, 2, Window(4, sink=1)).int().tolist()
    assert forced[4 + 7] == [1, 0, 0, 1, 0, 0, 0, *[0, 0, 0, 0, 1, 1, 0]]
    assert forced[4] == third + [0] * 7


def one_layer(parallel: ParallelContext, per_block: int = PER_BLOCK) -> CausalWan:
    """The same weights at each call."""
    made = Config.model_validate({"num_frames_per_block": per_block, "architecture": ARCHITECTURE})
    return CausalWan(made, "student", trainable=True, precision="fp32", seed=1, parallel=parallel, load_weights=True)


def test_sink_frames_are_seen_right_before_the_window_however_far_it_has_rolled(parallel: ParallelContext) -> None:
    """At each block as in a video of nothing but the sink frame, the window's frames and the block, also beyond rope_max_seq_len.

    One layer: the keys of a frame depend on that frame only, so a video can be cut together.
    """
    latents, levels, prompt = inputs(40)
    actual = streamed(one_layer(parallel), latents, levels, prompt, Window(5, sink=1))
    alone = one_layer(parallel, per_block=5)
    for start in (4, 20, 38):
        cut = [0, *range(start - 2, start + 2)]
        expected = alone.predict_velocity(latents[:, cut], levels[:, cut], prompt)[:, 3:]
        torch.testing.assert_close(actual[:, start : start + 2], expected, rtol=1e-5, atol=1e-5)
    without = streamed(one_layer(parallel), latents, levels, prompt, Window(4))
    assert (actual[:, 4:] - without[:, 4:]).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3


def test_positions_go_on_beyond_what_the_network_has_a_table_of(
    parallel: ParallelContext, folder: Path, model: CausalWan, tmp_path: Path
) -> None:
    config: Any = json.loads((folder / "transformer/config.json").read_text())
    assert config["rope_max_seq_len"] == 32
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_max_seq_len": 64}))
    (tmp_path / WEIGHTS).symlink_to(folder / "transformer" / WEIGHTS)
    expected = causal_wan(parallel, tmp_path).predict_velocity(*inputs(36))
    torch.testing.assert_close(streamed(model, *inputs(36)), expected, rtol=2e-6, atol=2e-6)
    rope: Any = model.transformer.rope
    longer = type(rope)(rope.attention_head_dim, rope.patch_size, 200)
    actual = rotary_angles(rope, torch.tensor([3, 190]), 2, 4, 190)
    wanted_angles = rotary_angles(longer, torch.tensor([3, 190]), 2, 4)
    assert all(ours.equal(theirs) for ours, theirs in zip(actual, wanted_angles, strict=True))


def test_keys_turned_by_a_number_of_frames_are_those_of_later_frames(model: CausalWan) -> None:
    rope: Any = model.transformer.rope
    keys = torch.randn(1, 8, 2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    early, late = (rotary_angles(rope, torch.tensor([position]), 2, 4) for position in (2, 25))
    turned = rotated(rotated(keys, *early), *frame_shift(rope, 23))
    torch.testing.assert_close(turned, rotated(keys, *late), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [Window(), Window(4, sink=1)], ids=str)
def test_a_later_block_never_changes_an_earlier_output(model: CausalWan, window: Window) -> None:
    """Neither its latents nor its noise level, bit for bit; its own and later outputs do change."""
    latents, levels, prompt = inputs()
    other, others = latents.clone(), levels.clone()
    other[:, 4:6], others[:, 4:6] = 7 - other[:, 4:6], 333.0
    before, after = (streamed(model, *given, prompt, window) for given in ((latents, levels), (other, others)))
    assert before[:, :4].equal(after[:, :4])
    assert (before[:, 4:6] - after[:, 4:6]).abs().max() > 1e-2 and (before[:, 6:] - after[:, 6:]).abs().max() > 1e-2


def test_a_shorter_video_has_the_same_beginning_to_the_bit(model: CausalWan) -> None:
    latents, levels, prompt = inputs()
    whole, beginning = streamed(model, latents, levels, prompt), streamed(model, latents[:, :4], levels[:, :4], prompt)
    assert beginning.equal(whole[:, :4])


# --- gradients


def rolled_out(model: CausalWan, window: Window | None = None) -> tuple[Tensor, Tensor]:
    """(what was predicted of all blocks, the latents they were written from): backward is still to come when all are written."""
    latents, levels, prompt = inputs()
    latents.requires_grad_()
    cache, found = model.open_cache(2, prompt, FRAMES, SIZE, window), []
    for start, span in spans():
        found.append(model.predict_block(latents[:, span].detach(), levels[:, span], prompt, cache, start=start))
        model.write_block(latents[:, span], torch.zeros(2), prompt, cache, start=start)
    return torch.cat(found, 1), latents


def gradients(model: CausalWan) -> dict[str, Tensor]:
    found: dict[str, Any] = {name: parameter.grad for name, parameter in model.transformer.named_parameters() if parameter.grad is not None}
    return {name: dtensor.whole(gradient).clone() for name, gradient in found.items()}


@pytest.mark.parametrize("window", [None, Window(4, sink=1)], ids=str)
@pytest.mark.parametrize("kind", ["full", "selective"])
def test_what_a_pass_saw_is_seen_again_when_it_is_recomputed(
    parallel: ParallelContext, folder: Path, kind: str, window: Window | None
) -> None:
    """Though by then later blocks have been written and, in the window, earlier ones let go."""
    found = []
    for checkpointing in ("none", kind):
        made = causal_wan(parallel, folder, activation_checkpointing=checkpointing)
        rolled_out(made, window)[0].square().mean().backward()
        found.append(gradients(made))
    plain, recomputed = found
    assert plain.keys() == recomputed.keys() and all(plain[name].equal(recomputed[name]) for name in plain)


def test_no_gradient_reaches_the_cache(parallel: ParallelContext, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are those of a past that another network wrote, which keeps none; were it written with gradient, it would show."""
    latents, levels, prompt = inputs()

    def predicted(writer: CausalWan, reader: CausalWan, window: Window | None = None) -> tuple[Tensor, Tensor]:
        written = latents[:, :2].clone().requires_grad_()
        cache = writer.open_cache(2, prompt, FRAMES, SIZE, window)
        writer.write_block(written, torch.zeros(2), prompt, cache, start=0)
        monkeypatch.setattr(cache, "_network", reader.transformer)
        return reader.predict_block(latents[:, 2:4], levels[:, 2:4], prompt, cache, start=2), written

    frozen, one, other = causal_wan(parallel, folder, trainable=False), causal_wan(parallel, folder), causal_wan(parallel, folder)
    for writer, reader in ((frozen, one), (other, other)):
        velocity, written = predicted(writer, reader)
        assert not leads_to(velocity, written)
        velocity.square().mean().backward()
    ours, expected = gradients(other), gradients(one)
    assert len(expected) == len(list(one.transformer.parameters())) and all(ours[name].equal(expected[name]) for name in expected)
    with_gradient: Any = CausalWan.write_block
    monkeypatch.setattr(CausalWan, "write_block", with_gradient.__wrapped__)
    assert leads_to(*predicted(other, other, Window(4)))  # where no window rolls, what has a gradient is not even kept


def leads_to(result: Tensor, leaf: Tensor) -> bool:
    """Whether backward from `result` would go as far as `leaf`."""
    seen, ahead = set(), [result.grad_fn]
    while ahead:
        node: Any = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return any(getattr(node, "variable", None) is leaf for node in seen)


# --- the cache itself


def test_what_no_later_block_sees_is_let_go(model: CausalWan) -> None:
    latents, levels, prompt = inputs(12)
    cache, sizes, keys = model.open_cache(2, prompt, 12, SIZE, Window(5, sink=1)), list[int](), list[Any]()
    with torch.no_grad():
        for start, span in spans(12):
            model.write_block(latents[:, span], levels[:, span], prompt, cache, start=start)
            sizes.append(cache.num_bytes)
            keys += [weakref.ref(layers.tokens(0, slice(None))[0]._base) for _, layers in cache._written[-1:]]
    # keys and values of 3 layers, 2 videos, 24 numbers wide: the prompt's 6 tokens, and 2 frames of 8 of the first and the last block
    prompts, block = (3 * 2 * 2 * 24 * 4 * tokens for tokens in (6, 16))
    assert sizes == [prompts + block, *[prompts + 2 * block] * 4, prompts]
    assert not any(key() is not None for key in keys)


def test_a_prompts_keys_and_values_are_made_once_where_there_is_no_gradient(model: CausalWan) -> None:
    latents, levels, prompt = inputs()
    calls: list[bool] = []
    layer: Any = model.transformer.get_submodule("blocks.1.attn2.to_k")
    handle = layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    cache = model.open_cache(2, prompt, FRAMES, SIZE)
    for start, span in spans():
        model.predict_block(latents[:, span], levels[:, span], prompt, cache, start=start)
        with torch.no_grad():
            model.predict_block(latents[:, span], levels[:, span], prompt, cache, start=start)
        model.write_block(latents[:, span], levels[:, span], prompt, cache, start=start)
    handle.remove()
    assert calls == [True, False, True, True, True]


def test_a_cache_is_of_one_network_one_prompt_and_one_block_after_another(
    parallel: ParallelContext, folder: Path, model: CausalWan
) -> None:
    latents, _, prompt = inputs()
    cache, zero = model.open_cache(2, prompt, FRAMES, SIZE), torch.zeros(2)
    model.write_block(latents[:, :2], zero, prompt, cache, start=0)
    wrong: list[tuple[str, CausalWan, Tensor, Tensor, int]] = [
        ("another network", causal_wan(parallel, folder), latents[:, 2:4], prompt, 2),
        ("another prompt", model, latents[:, 2:4], prompt.clone(), 2),
        ("is not the next: 2 frames", model, latents[:, :2], prompt, 0),
        ("is not the next: 2 frames", model, latents[:, 4:6], prompt, 4),
        ("1 frames from frame 2 on are no block of 7 by 2", model, latents[:, 2:3], prompt, 2),
        ("of 2 videos", model, latents[:1, 2:4], prompt, 2),
        ("of 2 videos", model, latents[:, 2:4, :, :, :4], prompt, 2),
    ]
    for message, network, block, text, start in wrong:
        for call in (network.predict_block, network.write_block):
            with pytest.raises(ValueError, match=message):
                call(block, zero[: len(block)], text, cache, start=start)
    assert cache.frames_written == 2
    model.write_block(latents[:, 2:4], zero, prompt, cache, start=2)
    model.write_block(latents[:, 4:6], zero, prompt, cache, start=4)
    model.write_block(latents[:, 6:], zero, prompt, cache, start=6)
    with pytest.raises(ValueError, match="no block"):
        model.predict_block(latents[:, :1], zero, prompt, cache, start=7)


def test_a_pass_that_fails_leaves_no_trace(model: CausalWan) -> None:
    latents, levels, prompt = inputs()
    expected = model.predict_velocity(latents, levels, prompt)
    cache = model.open_cache(2, prompt, FRAMES, SIZE)
    with pytest.raises(Exception, match=r"size|shape"):
        model.write_block(latents[:, :2], torch.zeros(3), prompt, cache, start=0)
    assert cache.frames_written == 0 and cache.num_bytes == 0
    assert model.predict_velocity(latents, levels, prompt).equal(expected)


def test_bfloat16_goes_on_nearly_the_same(parallel: ParallelContext, folder: Path, model: CausalWan) -> None:
    half = causal_wan(parallel, folder, precision="bf16")
    for window in (Window(), Window(4, sink=1)):
        actual, expected = streamed(half, *inputs(), window), streamed(model, *inputs(), window)
        assert actual.dtype == torch.float32 and 0 < (actual - expected).abs().max() < 0.1 * expected.abs().max()


def test_adapters_are_heard_in_both_forms(parallel: ParallelContext, folder: Path, model: CausalWan) -> None:
    adapted = causal_wan(parallel, folder, lora={"rank": 2, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]})
    with torch.no_grad():
        for number, (name, parameter) in enumerate(adapted.transformer.named_parameters()):
            if "lora_B" in name:
                local: Any = parameter.data
                dtensor.local(local).normal_(generator=torch.Generator().manual_seed(number), std=0.3)
    expected = adapted.predict_velocity(*inputs())
    torch.testing.assert_close(streamed(adapted, *inputs()), expected, rtol=2e-6, atol=2e-6)
    assert (expected - model.predict_velocity(*inputs())).abs().max() > 1e-2


def test_a_window_must_hold_its_sink_frames_and_a_block() -> None:
    def made(**config: int) -> Config:
        return Config.model_validate({"num_frames_per_block": 3, **config})

    assert made(local_attn_size=5, sink_frames=2).local_attn_size == 5
    with pytest.raises(ValidationError, match="does not hold sink_frames 3 and a block of num_frames_per_block 3"):
        made(local_attn_size=5, sink_frames=3)
    with pytest.raises(ValidationError, match="set local_attn_size too"):
        made(sink_frames=1)
