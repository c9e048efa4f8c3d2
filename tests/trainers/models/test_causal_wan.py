"""Promises of the causal Wan: Wan's own numbers under a mask, no way from the future to the past, the same with teacher forcing."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.trainers.trainer_ranks import ARCHITECTURE
from trainers.config.models.causal_wan import Config
from trainers.diffusion import frame_blocks
from trainers.distributed import dtensor
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.models import model_class
from trainers.models.attention import block_causal, kernel_choice, masks, rope
from trainers.models.attention.masks import TILE, tile_mask
from trainers.models.causal_wan import CausalWan
from trainers.models.wan import Wan

DEEP = {**ARCHITECTURE, "num_layers": 3}
WIDTH = 24
"""Channels of its hidden states: two heads of 12."""
FRAMES, PER_BLOCK = 5, 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Any:
    """diffusers' own, with weights large enough for a wrong mask to show."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    made = WanTransformer3DModel(**DEEP)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    network.save_pretrained(path / "transformer")
    return path


def causal_wan(parallel: ParallelContext, **config: Any) -> CausalWan:
    made = Config.model_validate({"num_frames_per_block": PER_BLOCK, **config})
    return CausalWan(made, "student", trainable=True, precision="fp32", seed=1, parallel=parallel, load_weights=True)


@pytest.fixture(scope="module")
def model(parallel: ParallelContext, folder: Path) -> CausalWan:
    return causal_wan(parallel, init_from=str(folder))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """(latents [B, T, C, H, W], timesteps [B, T] equal within blocks, prompt [B, L, D])."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, FRAMES, 4, 4, 8, generator=generator)
    levels = torch.tensor([[937.5, 400.0, 12.25], [5.0, 1000.0, 700.0]])[:, frame_blocks.block_of_frame(FRAMES, PER_BLOCK)]
    return latents, levels, torch.randn(2, 6, 16, generator=generator)


def masked_by_diffusers(network: Any, mask: Tensor, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
    """The velocity of diffusers' own network, whose own attention is given a mask [F, F] between frames."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    tokens = noisy.shape[-2] * noisy.shape[-1] // 4

    class Masked(WanAttnProcessor):
        def __call__(self, attn: Any, hidden: Tensor, _text: Any, _mask: Any, angles: Any) -> Tensor:
            between: Tensor = mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
            seen: Tensor = super().__call__(attn, hidden, None, between, angles)
            return seen

    for block in network.blocks:
        block.attn1.set_processor(Masked())
    with torch.no_grad():
        found: Tensor = network(noisy.transpose(1, 2), timesteps.repeat_interleave(tokens, 1), prompt, return_dict=False)[0]
    return found.transpose(1, 2)


def test_the_family_is_found_by_its_name() -> None:
    assert model_class("causal-wan") is CausalWan


def test_it_is_diffusers_network_under_the_mask(model: CausalWan, network: Any) -> None:
    expected = masked_by_diffusers(network, frame_blocks.causal(FRAMES, PER_BLOCK), *inputs())
    torch.testing.assert_close(model.predict_velocity(*inputs()), expected, rtol=0, atol=3e-6)
    unmasked = masked_by_diffusers(network, torch.ones(FRAMES, FRAMES, dtype=torch.bool), *inputs())
    assert (expected - unmasked).abs().max() > 1e-2


def test_one_block_of_all_frames_is_diffusers_network_as_it_is(parallel: ParallelContext, folder: Path, network: Any) -> None:
    expected = masked_by_diffusers(network, torch.ones(FRAMES, FRAMES, dtype=torch.bool), *inputs())
    actual = causal_wan(parallel, init_from=str(folder), num_frames_per_block=FRAMES).predict_velocity(*inputs())
    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6)


def test_one_noise_level_for_all_frames_may_be_given_once(model: CausalWan) -> None:
    noisy, _, prompt = inputs()
    once = torch.tensor([937.5, 12.25])
    each = model.predict_velocity(noisy, once[:, None].expand(-1, FRAMES), prompt)
    torch.testing.assert_close(model.predict_velocity(noisy, once, prompt), each, rtol=0, atol=3e-6)


class Modulations(TorchDispatchMode):
    """Notes the sizes of what is made with six numbers for each of the network's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        of_weights = isinstance(found, Tensor) and found.shape == (WIDTH, 6 * WIDTH)
        if isinstance(found, Tensor) and not of_weights and (found.shape[-2:] == (6, WIDTH) or found.shape[-1:] == (6 * WIDTH,)):
            self.numbers.add(found.numel() // (6 * WIDTH))
        return found


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_frames_noise_level_is_embedded_once_and_not_for_each_of_its_tokens(
    parallel: ParallelContext, folder: Path, checkpointing: str, forced: bool
) -> None:
    """Forwards, backwards and recomputed: six modulations a frame at most, where there are 8 tokens a frame."""
    made, (noisy, levels, prompt) = causal_wan(parallel, init_from=str(folder), activation_checkpointing=checkpointing), inputs()
    with Modulations() as seen:
        made.predict_velocity(noisy, levels, prompt, **({"clean": noisy.flip(0)} if forced else {})).square().mean().backward()
    assert max(seen.numbers) == 2 * FRAMES * (2 if forced else 1)


def in_float64(parallel: ParallelContext, folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> CausalWan:
    """diffusers' Wan and our output pass through float32, which here is left out."""
    plain = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else plain(tensor))
    made = causal_wan(parallel, init_from=str(folder), **config)
    made.transformer.double()
    made.compute_type = torch.float64
    return made


@pytest.mark.parametrize("where", ["whole", "block", "written"])
def test_it_is_wan_with_a_timestep_for_each_token(
    parallel: ParallelContext, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In float64 to twelve digits, gradients too: over all frames, over a block that sees earlier ones, and after such were written."""
    noisy, levels, prompt = inputs()
    noisy = noisy.double()
    levels[:, 1] = 250.0  # also where a block is not of one level
    found = []
    for form in (CausalWan, Wan):
        made = in_float64(parallel, folder, monkeypatch)
        with monkeypatch.context() as patched:
            if form is Wan:
                patched.setattr(CausalWan, "_pass", Wan.predict_velocity)
            if where == "whole":
                velocity = made.predict_velocity(noisy, levels, prompt)
            else:
                cache = made.open_cache(2, prompt, FRAMES, (4, 8))
                shown = levels[:, :2] if where == "written" else levels[:, 0]
                made.write_block(noisy[:, :2], shown, prompt, cache, start=0)
                velocity = made.predict_block(noisy[:, 2:4], levels[:, 2:4] + torch.tensor([0.0, 3.0]), prompt, cache, start=2)
        velocity.square().mean().backward()
        found.append([velocity.detach(), *(p.grad for p in made.transformer.parameters() if p.grad is not None)])
    assert len(found[0]) == len(list(made.transformer.parameters())) + 1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changed", [2, 4])
@pytest.mark.parametrize("forced", [False, True])
def test_a_later_block_never_changes_an_earlier_output(model: CausalWan, changed: int, forced: bool) -> None:
    """Neither its latents nor its noise level, bit for bit; its own output does change."""
    noisy, levels, prompt = inputs()
    other, others = noisy.clone(), levels.clone()
    other[:, changed:], others[:, changed:] = 7 - other[:, changed:], 333.0
    context = {"clean": noisy.flip(0)} if forced else {}
    changes = {"clean": torch.cat([context["clean"][:, :changed], other[:, changed:]], 1)} if forced else {}
    before, after = model.predict_velocity(noisy, levels, prompt, **context), model.predict_velocity(other, others, prompt, **changes)
    assert before[:, :changed].equal(after[:, :changed])
    assert (before[:, changed:] - after[:, changed:]).abs().max() > 1e-2


@pytest.mark.parametrize("forced", [False, True])
def test_no_gradient_flows_from_an_earlier_output_to_a_later_block(model: CausalWan, forced: bool) -> None:
    noisy, levels, prompt = inputs()
    noisy.requires_grad_()
    clean = noisy.detach().flip(0).requires_grad_()
    model.predict_velocity(noisy, levels, prompt, **({"clean": clean} if forced else {}))[:, 2:4].square().sum().backward()
    assert noisy.grad is not None and noisy.grad[:, 4:].eq(0).all() and noisy.grad[:, 2:4].ne(0).any()
    if forced:  # the past is seen clean, and only strictly earlier blocks are
        assert clean.grad is not None and clean.grad[:, 2:].eq(0).all() and clean.grad[:, :2].ne(0).any()
        assert noisy.grad[:, :2].eq(0).all()
    else:
        assert noisy.grad[:, :2].ne(0).any()


def test_a_longer_video_has_the_same_beginning(model: CausalWan) -> None:
    noisy, levels, prompt = inputs()
    whole, beginning = model.predict_velocity(noisy, levels, prompt), model.predict_velocity(noisy[:, :4], levels[:, :4], prompt)
    torch.testing.assert_close(beginning, whole[:, :4], rtol=0, atol=3e-6)


def test_teacher_forcing_is_each_block_after_its_clean_past(model: CausalWan) -> None:
    """One pass over [clean | noisy] is, for each block, a pass over the clean earlier frames at timestep 0 and the noisy block."""
    noisy, levels, prompt = inputs()
    clean = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(9))
    found = model.predict_velocity(noisy, levels, prompt, clean=clean)
    assert found.shape == noisy.shape
    for start in range(0, FRAMES, PER_BLOCK):
        end = min(start + PER_BLOCK, FRAMES)
        latents = torch.cat([clean[:, :start], noisy[:, start:end]], 1)
        timesteps = torch.cat([torch.zeros(2, start), levels[:, start:end]], 1)
        alone = model.predict_velocity(latents, timesteps, prompt)[:, start:]
        torch.testing.assert_close(found[:, start:end], alone, rtol=0, atol=3e-6)


def test_gradients_survive_that_another_pass_is_made_before_they_are_recomputed(parallel: ParallelContext, folder: Path) -> None:
    noisy, levels, prompt = inputs()

    def gradient(checkpointing: str, between: bool) -> Tensor:
        made = causal_wan(parallel, init_from=str(folder), activation_checkpointing=checkpointing)
        velocity = made.predict_velocity(noisy, levels, prompt, clean=noisy.flip(0))
        if between:  # other positions, another mask
            with torch.no_grad():
                made.predict_velocity(noisy[:, :3], levels[:, :3], prompt)
        velocity.square().mean().backward()
        found: Any = made.transformer.get_parameter("blocks.0.attn1.to_k.weight").grad
        return dtensor.whole(found)  # type: ignore[no-any-return]

    assert gradient("full", between=True).equal(gradient("none", between=False))


def test_a_mask_first_made_for_sampling_does_for_training() -> None:
    masks.mask.cache_clear()
    with torch.inference_mode():
        made: Any = masks.mask("dense", FRAMES, PER_BLOCK, 3, CPU)
    assert not made.is_inference() and masks.mask("dense", FRAMES, PER_BLOCK, 3, CPU) is made


def test_bfloat16_predicts_nearly_the_same(parallel: ParallelContext, folder: Path, model: CausalWan) -> None:
    config = Config.model_validate({"num_frames_per_block": PER_BLOCK, "init_from": str(folder)})
    half = CausalWan(config, "student", trainable=True, precision="bf16", seed=1, parallel=parallel, load_weights=True)
    actual, expected = half.predict_velocity(*inputs()), model.predict_velocity(*inputs())
    assert actual.dtype == torch.float32 and 0 < (actual - expected).abs().max() < 0.1 * expected.abs().max()


# --- positions and the masks of flex_attention


def test_angles_of_the_first_frames_are_diffusers_own(network: Any) -> None:
    expected = network.rope(torch.zeros(1, 4, FRAMES, 4, 8))
    actual = rope.rotary_angles(network.rope, torch.arange(FRAMES), 2, 4)
    assert all(ours.equal(theirs) for ours, theirs in zip(actual, expected, strict=True))
    later = rope.rotary_angles(network.rope, torch.tensor([3, 0]), 2, 4)
    tokens = 8
    assert later[0][:, :tokens].equal(expected[0][:, 3 * tokens : 4 * tokens]) and later[1][:, tokens:].equal(expected[1][:, :tokens])


MASKS = [
    (frame_blocks.causal(4, 1), TILE),
    (frame_blocks.causal(5, 2), 70),
    (frame_blocks.causal(7, 3), 200),
    (frame_blocks.teacher_forcing(5, 2), 51),
    (frame_blocks.teacher_forcing(3, 3), TILE),
]


@pytest.mark.parametrize(("between", "tokens"), MASKS)
def test_tiles_are_what_torch_finds_by_looking_at_every_pair(between: Tensor, tokens: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    size = len(between) * tokens
    ours = tile_mask(between, tokens, CPU)
    theirs = create_block_mask(lambda _b, _h, q, k: between[q // tokens, k // tokens], None, None, size, size, device="cpu")
    assert ours.seq_lengths == theirs.seq_lengths
    for names in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices"), ("q_num_blocks", "q_indices")):
        assert listed(ours, *names) == listed(theirs, *names), names
    assert listed(ours, "full_q_num_blocks", "full_q_indices") == listed(theirs, "full_q_num_blocks", "full_q_indices")


def listed(mask: Any, counts: str, indices: str) -> list[list[int]]:
    """The tiles of each row."""
    return [sorted(row[:count].tolist()) for count, row in zip(getattr(mask, counts)[0, 0], getattr(mask, indices)[0, 0], strict=True)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_what_the_whole_mask_shows(parallel: ParallelContext, folder: Path, model: CausalWan) -> None:
    """Its forward pass, uncompiled: a CPU has no more. On CUDA it is what `auto` takes."""
    noisy, levels, prompt = inputs()
    flex = causal_wan(parallel, init_from=str(folder), attention="flex")
    flex.transformer.requires_grad_(False)
    with torch.no_grad():
        for context in ({}, {"clean": noisy.flip(0)}):
            expected = model.predict_velocity(noisy, levels, prompt, **context)
            torch.testing.assert_close(flex.predict_velocity(noisy, levels, prompt, **context), expected, rtol=0, atol=3e-6)


def test_flex_attention_is_taken_only_where_it_trains_and_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_choice.forget()
    monkeypatch.setattr(masks, "tried", lambda *_: "")
    assert masks.backend("auto", torch.device("cuda"), 128) == "flex"
    assert masks.backend("auto", torch.device("cuda"), 12) == "dense"
    assert masks.backend("auto", CPU, 128) == "dense"
    assert masks.backend("flex", CPU, 128) == "flex" and masks.backend("dense", torch.device("cuda"), 128) == "dense"
    kernel_choice.forget()
    monkeypatch.setattr(masks, "tried", lambda *_: "dq is wrong")
    assert masks.backend("auto", torch.device("cuda"), 128) == "dense"
    with pytest.raises(UserError, match="attention: flex was chosen by name, and dq is wrong"):
        masks.backend("flex", torch.device("cuda"), 128)
    kernel_choice.forget()


def test_the_processor_is_called_as_diffusers_calls_its_own() -> None:
    """The names and the order of what WanAttention passes; ours takes the angles' place."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    theirs, ours = (inspect.signature(found.__call__).parameters for found in (WanAttnProcessor, block_causal.BlockCausalProcessor))
    assert len(theirs) == len(ours) and list(theirs)[-1] == list(ours)[-1] == "rotary_emb"
