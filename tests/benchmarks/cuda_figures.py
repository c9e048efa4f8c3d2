"""Owns how fast Wan 1.3B trains on this GPU: steps as the trainer makes them, on one clip of 77 frames at 448x832. Random weights.

A further method adds its Case. Times are medians, from CUDA's events; operations are those of cuda_flops.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tests.benchmarks import cuda_flops
from tests.benchmarks.cuda_checks import release
from tests.benchmarks.cuda_flops import Sizes
from tests.benchmarks.cuda_rows import MATRIX_PRODUCT, Figure, one_line
from trainers import seeding
from trainers.config import TrainConfig
from trainers.config.attention import num_kept
from trainers.config.memory_estimate import estimate
from trainers.config.models.wan import WanArchitecture
from trainers.distributed.mesh import ParallelContext
from trainers.methods import method_class
from trainers.methods.base import Batch, TrainingMethod
from trainers.models import model_class
from trainers.models.attention import block_causal, kernel_packages, masks, sparse
from trainers.models.attention.sparse_gpu import Backend
from trainers.models.attention.sparse_tiles import Tiles
from trainers.models.base import ModelBase
from trainers.optim import optimizers

LATENTS, PROMPT = (20, 56, 104), 512
"""(T, H, W) and prompt tokens: what the Wan 1.3B recipes train on."""
TINY: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
}
"""For dry runs."""
PER_BLOCK, RANK = 3, 32
WARM_UP, STEPS, ENOUGH_S = 2, 7, 20.0
"""Steps that are not counted, steps that are, and how long these may take in all (three at least)."""
TILE, SPARSITY = (4, 4, 4), 0.9
"""Of video sparse attention."""
_MATRIX = 8192


@dataclass(frozen=True)
class Case:
    """What is trained: the method and keys of the student's section."""

    name: str
    method: str = "finetune"
    family: str = "wan"
    student: dict[str, Any] = field(default_factory=dict)

    @property
    def per_block(self) -> int | None:
        return PER_BLOCK if self.family == "causal-wan" else None

    def flops(self, sizes: Sizes) -> float:
        recompute = self.student["activation_checkpointing"] == "full"
        if "lora" in self.student:
            return cuda_flops.lora_step(sizes, self.student["lora"]["rank"], recompute=recompute)
        return cuda_flops.full_step(sizes, recompute=recompute)


_FULL = {"activation_checkpointing": "full"}
_SELECTIVE = {"activation_checkpointing": "selective"}
_LORA = {**_FULL, "lora": {"rank": RANK}}
CASES = (
    Case("finetune", student=_FULL),
    Case(f"LoRA, rank {RANK}", student=_LORA),
    Case("finetune, compiled", student={**_FULL, "compile": True}),
    Case("finetune, checkpointing selective", student=_SELECTIVE),
    Case("dfsft, causal Wan", "dfsft", "causal-wan", _FULL),
    Case("dfsft, causal Wan, checkpointing selective", "dfsft", "causal-wan", _SELECTIVE),
    Case("dfsft, causal Wan, compiled", "dfsft", "causal-wan", {**_FULL, "compile": True}),
    Case(f"LoRA, rank {RANK}, compiled", student={**_LORA, "compile": True}),
)
"""The most important first."""


def sizes_of(small: bool, per_block: int | None = None) -> Sizes:
    """Return what is trained: Wan 1.3B, or a tiny one for dry runs."""
    architecture = WanArchitecture.model_validate(TINY if small else {})
    latents, prompt = ((3, 8, 8), 6) if small else (LATENTS, PROMPT)
    return Sizes(architecture, latents, prompt, per_block=per_block)


def parts(parallel: ParallelContext, *, small: bool) -> list[Figure]:
    """Time parts of a step: a large matrix product, and a layer's self-attention."""
    return [_matmul(parallel.device, 128 if small else _MATRIX), *_attention_rows(parallel.device, sizes_of(small), backward=not small)]


def training(case: Case, parallel: ParallelContext, *, small: bool) -> list[Figure]:
    """Time whole steps of a case."""
    sizes = sizes_of(small, case.per_block)
    return [_tolerant(case.name, lambda: _training(case, sizes, parallel))]


def _tolerant(name: str, make: Callable[[], Figure]) -> Figure:
    """What does not fit into memory, or breaks, is a row that says so."""
    try:
        return make()
    except torch.cuda.OutOfMemoryError:
        return Figure(name, peak_gb=_peak_gb(), reserved_gb=reserved_gb(), note="does not fit into memory")
    except Exception as error:
        return Figure(name, note=one_line(error))


# --- training steps


class Bench:
    """A method on this device, with its student's random weights, and the steps that the trainer would make with it."""

    def __init__(self, train: dict[str, Any], sizes: Sizes, parallel: ParallelContext) -> None:
        self.config = TrainConfig.model_validate(train)
        roles = {role: _on_device(model, role, self.config, parallel) for role, model in sorted(self.config.models.items())}
        self.method: TrainingMethod = method_class(self.config.method.kind)(self.config, roles)
        self.method.on_train_start()
        self.method.seed_optimizer_state_for_resume()
        self.batch, self.iteration = _batch(sizes, parallel.device), 0

    def step(self) -> None:
        """As Trainer._train_step, but for what is logged."""
        self.iteration += 1
        method, seed = self.method, self.config.seed
        seeding.seed_step(method.shared_generator, seed, self.iteration)
        seeding.seed_micro_batch(method.cuda_generator, seed, self.iteration, 0)
        method.accumulate(self.batch, self.iteration)
        method.drop_gathered()
        norms = [optimizers.clip_gradients(module, 1.0) for module in method.get_grad_clip_targets(self.iteration).values()]
        found_inf = (~torch.stack(norms).sum().isfinite()).float()
        for optimizer in method.get_optimizers(self.iteration):
            optimizers.step(optimizer, found_inf)
        for optimizer in method.all_optimizers():
            optimizer.zero_grad(set_to_none=True)


def train_block(case: Case, architecture: WanArchitecture) -> dict[str, Any]:
    student = {"family": case.family, "architecture": architecture.model_dump(), **case.student}
    if case.per_block is not None:
        student["num_frames_per_block"] = case.per_block
    return {
        "max_steps": 1000,
        "precision": "bf16",
        "method": {"kind": case.method},
        "models": {"student": student},
        "data": {"path": "none", "global_batch_size": 1},
        "optimizers": {"student": {"kind": "adamw", "lr": 1e-6}},
    }


def _training(case: Case, sizes: Sizes, parallel: ParallelContext) -> Figure:
    if parallel.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    bench = Bench(train_block(case, sizes.architecture), sizes, parallel)
    for _ in range(WARM_UP):
        bench.step()
    wait(parallel.device)
    ready_s = time.monotonic() - started
    step_s = _median_s(bench.step, parallel.device, STEPS, ENOUGH_S)
    operations, memory = case.flops(sizes), {"peak_gb": _peak_gb(), "reserved_gb": reserved_gb()}
    estimated_gb = estimate(bench.config, 1).peak / 1e9 if sizes.latents == LATENTS else None
    note = f"ready after {ready_s:.0f} s"
    return Figure(case.name, step_s, sizes.batch * sizes.tokens, operations, **memory, estimated_gb=estimated_gb, note=note)


def _on_device(model: Any, role: str, config: TrainConfig, parallel: ParallelContext) -> ModelBase:
    """Drawing 1.4 billion numbers on one CPU core, as training from nothing does, would take longer than the steps."""
    family: Any = model_class(model.family)

    class OnDevice(family):  # type: ignore[misc]
        def _random(self, seed: int) -> nn.Module:
            with torch.device(parallel.device):
                drawn: nn.Module = super()._random(seed)
            return drawn

    made: ModelBase = OnDevice(
        model, role, trainable=role in config.optimizers, precision=config.precision, seed=config.seed, parallel=parallel, load_weights=True
    )
    return made


def _batch(sizes: Sizes, device: torch.device) -> Batch:
    a = sizes.architecture
    frames, height, width = sizes.latents
    latents = torch.randn(sizes.batch, frames, a.in_channels, height, width, device=device)
    return {"latents": latents, "prompt": torch.randn(sizes.batch, sizes.prompt, a.text_dim, device=device)}


# --- parts of a step


def _attention_rows(device: torch.device, sizes: Sizes, *, backward: bool) -> list[Figure]:
    """One layer's self-attention, forward and backward (3 times the forward pass's operations)."""
    frames, heads, head_dim = sizes.latents[0], sizes.architecture.num_attention_heads, sizes.architecture.attention_head_dim
    query, key, value = (torch.randn(1, sizes.tokens, heads, head_dim, device=device, dtype=torch.bfloat16) for _ in range(3))
    mask = masks.mask("flex" if device.type == "cuda" else "dense", frames, PER_BLOCK, sizes.tokens // frames, device)
    causal = Sizes(sizes.architecture, sizes.latents, sizes.prompt, per_block=PER_BLOCK)

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    def blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return block_causal.attend(q, k, v, mask)

    def timed(name: str, attend: Callable[[Tensor, Tensor, Tensor], Tensor], pairs: int) -> Figure:
        given = [part.detach().clone().requires_grad_(backward) for part in (query, key, value)]
        ahead = torch.randn_like(attend(*given))

        def once() -> None:
            seen = attend(*given)
            if backward:
                torch.autograd.grad(seen, given, ahead)

        once()
        return Figure(name, _median_s(once, device, 10, 5.0), sizes.tokens, (3 if backward else 1) * 4.0 * sizes.width * pairs)

    passes = "forward and backward" if backward else "forward"
    causal_name = f"block-causal by {PER_BLOCK}, {type(mask).__name__}"
    kinds = [("SDPA, all pairs", dense, sizes.pairs), (causal_name, blocks, causal.pairs), *_sparse(sizes, torch.randn_like(query))]
    found = []
    for kind, attend, pairs in kinds:
        name = f"self-attention of a layer, {passes}: {kind}"
        found.append(_tolerant(name, lambda name=name, attend=attend, pairs=pairs: timed(name, attend, pairs)))  # type: ignore[misc]
    release()
    return found


def _sparse(sizes: Sizes, gate: Tensor) -> list[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor], int]]:
    """Return video sparse attention by each backend that is here: name, function, and pairs of the tiles that are chosen."""
    grid = [size // patch for size, patch in zip(sizes.latents, sizes.architecture.patch_size, strict=True)]
    tile = [min(size, side) for size, side in zip(grid, TILE, strict=True)] if gate.is_cuda else [1, 2, 2]
    tiles = Tiles((grid[0], grid[1], grid[2]), (tile[0], tile[1], tile[2]))
    kept = num_kept(SPARSITY, tiles.num)
    backends: list[Backend] = ["flex"] if gate.is_cuda else ["gather"]
    if kernel_packages.found()[0] is not None:
        backends.append("kernel")

    def by(backend: Backend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda query, key, value: sparse.attend(query, key, value, gate, tiles, kept, backend)

    return [(f"video sparse, {SPARSITY:g} left out, {backend}", by(backend), tiles.num * kept * tiles.size**2) for backend in backends]


def _matmul(device: torch.device, size: int) -> Figure:
    """A product of two [size, size] bfloat16 matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    return Figure(MATRIX_PRODUCT, _median_s(lambda: left @ right, device, 20, 5.0), flops=2.0 * size**3, note=f"{size} x {size}")


# --- measuring


def _median_s(once: Callable[[], Any], device: torch.device, count: int, enough_s: float) -> float:
    """Of `count` calls, or as many as fit into enough_s, but three."""
    taken: list[float] = []
    while len(taken) < count and (len(taken) < 3 or sum(taken) < enough_s):
        taken.append(_seconds(once, device))
    return statistics.median(taken)


def _seconds(once: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        once()
        return time.perf_counter() - started
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    once()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1000


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_gb() -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def reserved_gb() -> float | None:
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None
