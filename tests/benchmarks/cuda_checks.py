"""Owns whether the networks compute on this device what they compute on the CPU in float32: velocities and gradients of a tiny Wan.

One more way to compute is one more Variant. TF32 is off throughout.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.benchmarks.cuda_rows import Check, checked
from trainers.diffusion import losses
from trainers.distributed.dtensor import local
from trainers.distributed.mesh import ParallelContext
from trainers.models import lora, model_class
from trainers.models.attention import block_causal, masks

ARCHITECTURE = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 256,
    "rope_max_seq_len": 32,
}
"""Heads wide enough for flex_attention's kernel."""
FRAMES, PER_BLOCK = 5, 2
SIDE, SMALL_SIDE = 16, 8
"""Latents a side: 64 tokens a frame, so that flex_attention's tiles of 128 hold frames that may and that may not be seen; dry runs: 16."""
LIMITS = {"fp32": (1e-4, 1e-3), "bf16": (2e-2, 4e-2)}
"""Relative errors of the velocity, and of the gradient of the parameter that fares worst."""
ADAPTERS = {"rank": 4, "alpha": 8}
WINDOW = {"local_attn_size": 4, "sink_frames": 1}
"""Of networks that go on block by block: the last block does not see all earlier frames."""
CHECKPOINTED_WINDOW = {**WINDOW, "activation_checkpointing": "full"}


@dataclass(frozen=True)
class Variant:
    """A way to compute the same thing. `model`: keys of the model's section. cheap: in dry runs, too."""

    name: str
    family: str = "wan"
    precision: str = "fp32"
    model: dict[str, Any] = field(default_factory=dict)
    cheap: bool = False
    streamed: bool = False
    """Block by block, with a cache of keys and values."""


VARIANTS = (
    Variant("Wan, fp32", cheap=True),
    Variant("Wan, bf16", precision="bf16"),
    Variant("Wan, bf16, checkpointing full", precision="bf16", model={"activation_checkpointing": "full"}, cheap=True),
    Variant("Wan, bf16, checkpointing selective", precision="bf16", model={"activation_checkpointing": "selective"}),
    Variant("causal Wan, fp32", "causal-wan"),
    Variant("causal Wan, bf16, checkpointing full", "causal-wan", "bf16", {"activation_checkpointing": "full"}),
    Variant("causal Wan, bf16, checkpointing selective", "causal-wan", "bf16", {"activation_checkpointing": "selective"}, cheap=True),
    Variant("causal Wan, block by block, fp32", "causal-wan", "fp32", WINDOW, streamed=True),
    Variant("causal Wan, block by block, bf16, checkpointing full", "causal-wan", "bf16", CHECKPOINTED_WINDOW, cheap=True, streamed=True),
    Variant("Wan, LoRA, fp32", model={"lora": ADAPTERS}),
    Variant("Wan, LoRA, bf16, checkpointing full", "wan", "bf16", {"lora": ADAPTERS, "activation_checkpointing": "full"}),
    Variant("Wan, fp32, compiled", model={"compile": True}),
    Variant("Wan, bf16, checkpointing full, compiled", "wan", "bf16", {"activation_checkpointing": "full", "compile": True}),
    Variant("causal Wan, bf16, checkpointing full, compiled", "causal-wan", "bf16", {"activation_checkpointing": "full", "compile": True}),
)


KINDS = ("networks", "networks that go on block by block, and adapters", "compiled networks", "flex_attention")
"""Each is a row of its own."""


def rows(parallel: ParallelContext, kind: str, *, small: bool) -> list[Check]:
    """small: without what a CPU takes long for (compiling, peft's import), and one of a kind."""
    with without_tf32():
        if kind == KINDS[-1]:
            return _attention(parallel, small)
        side, reference = (SMALL_SIDE if small else SIDE), on_cpu(parallel)
        chosen = [variant for variant in VARIANTS if _kind(variant) == kind and (variant.cheap or not small)]
        return [_against_cpu(variant, parallel, reference, side) for variant in chosen]


def _kind(variant: Variant) -> str:
    if variant.model.get("compile"):
        return KINDS[2]
    return KINDS[1] if variant.streamed or "lora" in variant.model else KINDS[0]


def on_cpu(parallel: ParallelContext) -> ParallelContext:
    """A world of one beside it."""
    if parallel.device.type == "cpu":
        return parallel
    mesh = init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("replicate", "shard", "sequence"))
    return ParallelContext(torch.device("cpu"), 0, 1, mesh, parallel.control_group)


@contextmanager
def without_tf32() -> Iterator[None]:
    """cuDNN's convolutions use it by default."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


def release() -> None:
    """Forget what was compiled and give memory back."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- networks

Outcome = tuple[Tensor, dict[str, Tensor]]
"""Velocity and gradients by parameter, in float64 on the CPU."""


def _against_cpu(variant: Variant, parallel: ParallelContext, reference: ParallelContext, side: int) -> Check:
    forward, backward = LIMITS[variant.precision]

    def make() -> tuple[str, bool]:
        wanted = _reference(variant.family, "lora" in variant.model, variant.streamed, reference, side)
        found = _outcome(variant, parallel, side)
        errors = relative(found[0], wanted[0]), _worst(found[1], wanted[1])
        return f"{errors[0]:.1e}, gradients {errors[1]:.1e}", errors[0] <= forward and errors[1] <= backward

    try:
        return checked(f"{variant.name}: velocity and gradients against CPU fp32", f"{forward:.0e}, {backward:.0e}", make)
    finally:
        release()


@cache
def _reference(family: str, adapted: bool, streamed: bool, parallel: ParallelContext, side: int) -> Outcome:
    section: dict[str, Any] = {**({"lora": ADAPTERS} if adapted else {}), **(WINDOW if streamed else {})}
    return _outcome(Variant("", family, model=section, streamed=streamed), parallel, side)


def _outcome(variant: Variant, parallel: ParallelContext, side: int) -> Outcome:
    model = _network(variant, parallel)
    noisy, noise, prompt, timesteps = (part.to(parallel.device) for part in _inputs(variant.family, side))
    predict = partial(_streamed, model) if variant.streamed else model.predict_velocity
    velocity = predict(noisy, timesteps, prompt)
    losses.velocity_loss(velocity, noise, noisy).backward()
    trained = {name: p for name, p in model.transformer.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values()), "a trained parameter has no gradient"
    return _comparable(velocity), {name: _comparable(p.grad) for name, p in trained.items()}


def _streamed(model: Any, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
    """All blocks are predicted and written before the backward pass begins."""
    cache, found = model.open_cache(len(noisy), prompt, FRAMES, tuple(noisy.shape[-2:])), []
    for start in range(0, FRAMES, PER_BLOCK):
        block, levels = noisy[:, start : start + PER_BLOCK], timesteps[:, start : start + PER_BLOCK]
        found.append(model.predict_block(block, levels, prompt, cache, start=start))
        model.write_block(block, torch.zeros_like(levels), prompt, cache, start=start)
    return torch.cat(found, 1)


def _network(variant: Variant, parallel: ParallelContext) -> Any:
    cls: Any = model_class(variant.family)
    section = {"architecture": ARCHITECTURE, **variant.model}
    if variant.family == "causal-wan":
        section["num_frames_per_block"] = PER_BLOCK
    from trainers.config.models import causal_wan, wan

    config = (causal_wan if variant.family == "causal-wan" else wan).Config.model_validate(section)
    model = cls(config, "student", trainable=True, precision=variant.precision, seed=1, parallel=parallel, load_weights=True)
    _spread_adapters(model.transformer)
    return model


@torch.no_grad()
def _spread_adapters(network: torch.nn.Module) -> None:
    """Their second halves start as zeros, which would hide the first ones."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(lora.adapters_of(network).items()):
        if ".lora_B." in name:
            local(parameter).copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def _inputs(family: str, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """noisy and noise [2, T, C, H, W], prompt [2, L, D], timesteps [2], or [2, T] for the causal Wan."""
    generator = torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(2, FRAMES, 4, side, side, generator=generator) for _ in range(2))
    timesteps = 1000 * torch.rand(2, FRAMES, generator=generator)
    return noisy, noise, torch.randn(2, 6, 16, generator=generator), timesteps if family == "causal-wan" else timesteps[:, 0]


def _comparable(tensor: Any) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().double()


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, Euclidean."""
    return float((found - wanted).norm() / wanted.norm())


def _worst(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest of the parameters' relative errors; a gradient that is next to nothing counts as a hundredth of the largest."""
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
    floor = max(float(gradient.norm()) for gradient in wanted.values()) / 100
    return max(float((found[name] - wanted[name]).norm()) / max(float(wanted[name].norm()), floor) for name in wanted)


# --- flex_attention


def _attention(parallel: ParallelContext, small: bool) -> list[Check]:
    frames, tokens, head_dim = (4, 17, 16) if small else (7, 91, 64)
    found = []
    for forcing in (True,) if small else (False, True):
        for precision in LIMITS if not small else ("fp32",):
            forward, backward = LIMITS[precision]
            name = f"flex_attention against a dense mask, {'teacher forcing' if forcing else 'block-causal'}, {precision}"
            make = _flex(parallel.device, precision, frames, tokens, head_dim, forcing)
            found.append(checked(name, f"{forward:.0e}, {backward:.0e}", make))
            release()
    return found


def _flex(device: torch.device, precision: str, frames: int, tokens: int, head_dim: int, forcing: bool) -> Callable[[], tuple[str, bool]]:
    """Against SDPA in float32 on the same device. On a CPU flex_attention has no backward pass."""
    length = frames * tokens * (2 if forcing else 1)
    forward, backward = LIMITS[precision]

    def attended(kind: Any, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(2, length, 3, head_dim, generator=generator) for _ in range(4)]
        query, key, value, ahead = (part.to(device, dtype).requires_grad_(device.type == "cuda" or kind == "dense") for part in drawn)
        mask = masks.mask(kind, frames, 3, tokens, device, teacher_forcing=forcing)
        seen = block_causal.attend(query, key, value, mask)
        if not seen.requires_grad:
            return [_comparable(seen)]
        seen.backward(ahead.detach())
        return [_comparable(part) for part in (seen, query.grad, key.grad, value.grad)]

    def make() -> tuple[str, bool]:
        wanted = attended("dense", torch.float32)
        found = attended("flex", torch.bfloat16 if precision == "bf16" else torch.float32)
        errors = [relative(a, b) for a, b in zip(found, wanted[: len(found)], strict=True)]
        text = f"{errors[0]:.1e}" + (f", gradients {max(errors[1:]):.1e}" if errors[1:] else ", no backward pass here")
        return text, errors[0] <= forward and all(error <= backward for error in errors[1:])

    return make
