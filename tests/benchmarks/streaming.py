"""What going on block by block costs: `python tests/benchmarks/streaming.py [ROUNDS]`.

A video of a causal network, by turns: as it is sampled, block by block with the cache of keys and values; its network passes alone, each
over the same tokens and as many keys, which lie there ready to be attended to; and without a cache, each pass over all earlier blocks,
too. On this machine's CPU. Prints a table; ends with 1 where a limit is not kept.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trainers.config.models.causal_wan import Config
from trainers.config.parallel import ParallelConfig
from trainers.diffusion.frame_blocks import Window, lengths
from trainers.distributed import mesh
from trainers.inference import generation
from trainers.inference.settings import Sampling
from trainers.models.attention.block_causal import AttentionInputs
from trainers.models.attention.rope import rotary_angles
from trainers.models.causal_wan import CausalWan
from trainers.models.wan import Wan

ROUNDS = 4
MOST, LEAST = 1.2, 1.5
"""Of its network passes; as fast as without a cache."""
CHANNELS, SIZE, PER_BLOCK, STEPS, TEXT = 4, (16, 16), 3, (1000.0, 900.0, 750.0, 500.0), 64
ARCHITECTURE = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 1024,
    "num_layers": 2,
}
CASES = [(12, None), (21, None), (21, Window(9, sink=3))]
"""(latent frames, window)."""


def main(rounds: int) -> int:
    torch.set_num_threads(1)
    model = _model()
    kept, tokens = True, SIZE[0] * SIZE[1] // 4
    print(f"| frames | cached | its network passes | ratio, at most {MOST:g} | without a cache | times as fast, at least {LEAST:g} |")
    print("|---|---:|---:|---:|---:|---:|")
    for frames, window in CASES:
        cached, passes, whole = _timed(model, frames, window, rounds)
        cost, gain = (statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in ((cached, passes), (whole, cached)))
        kept &= cost <= MOST and gain >= LEAST
        seconds = [statistics.median(times) for times in (cached, passes, whole)]
        name = str(frames) if window is None else f"{frames}, window {window.frames} with {window.sink} sink frames"
        print(f"| {name} | {seconds[0]:.2f} s | {seconds[1]:.2f} s | {cost:.2f} | {seconds[2]:.2f} s | {gain:.1f} |")
    sizes = f"blocks of {PER_BLOCK} frames of {tokens} tokens, {len(STEPS)} steps and a context pass each"
    print(f"\nmedians of {rounds} rounds; {sizes}; 2 layers of 4 heads of 64, float32, CPU time of one thread")
    mesh.stop()
    return int(not kept)


def _model() -> CausalWan:
    config = Config.model_validate({"num_frames_per_block": PER_BLOCK, "architecture": ARCHITECTURE})
    parallel = mesh.start(ParallelConfig())
    return CausalWan(config, "student", trainable=False, precision="fp32", seed=0, parallel=parallel, load_weights=True)


def _timed(model: CausalWan, frames: int, window: Window | None, rounds: int) -> list[list[float]]:
    """Seconds of each round, of the three ways."""
    torch.manual_seed(0)
    noise, prompt = torch.randn(1, frames, CHANNELS, *SIZE), torch.randn(1, TEXT, ARCHITECTURE["text_dim"])  # type: ignore[call-overload]
    sampling = Sampling((CHANNELS, frames, *SIZE), len(STEPS), 1.0, "sde", 3.0, STEPS, window=window)

    def cached() -> object:
        return generation.denoised(model, noise, prompt, None, sampling, torch.Generator().manual_seed(1))

    ways: list[Callable[[], object]] = [
        cached,
        _bare_passes(model, noise, prompt, window or Window()),
        lambda: _without_cache(model, noise, prompt),
    ]
    _seconds(cached)
    found = [[_seconds(way) for way in ways] for _ in range(rounds)]
    return [[times[number] for times in found] for number in range(len(ways))]


class Ready:
    """Keys and values of a pass that lie there already, those of its own tokens included."""

    def __init__(self, num_keys: int) -> None:
        shape = (1, num_keys, ARCHITECTURE["num_attention_heads"], ARCHITECTURE["attention_head_dim"])
        self._pair = torch.randn(shape), torch.randn(shape)  # type: ignore[call-overload]

    def concatenated(self, _layer: int, _key: Tensor, _value: Tensor) -> tuple[Tensor, Tensor]:
        return self._pair


def _bare_passes(model: CausalWan, noise: Tensor, prompt: Tensor, window: Window) -> Callable[[], object]:
    """All passes of a video: of each block its steps, and, but of the last, the context."""
    cache, tokens, blocks, start = model.open_cache(1, prompt, noise.shape[1], SIZE), SIZE[0] * SIZE[1] // 4, [], 0
    for block in noise.split(lengths(noise.shape[1], PER_BLOCK), 1):
        end = start + block.shape[1]
        blocks.append((block, start, Ready((sum(map(len, window.earlier(start, end))) + block.shape[1]) * tokens)))
        start = end

    def attending(rope: Any, _hidden: Tensor, height: int, width: int, start: int, past: Any) -> AttentionInputs:
        return AttentionInputs(*rotary_angles(rope, torch.arange(start, start + PER_BLOCK), height, width), None, past)

    @torch.no_grad()
    def passes() -> None:
        for block, start, past in blocks:
            with model._attention_from(lambda *given, start=start, past=past: attending(*given, start, past), cache):
                for _ in range(len(STEPS) + (start + PER_BLOCK < noise.shape[1])):
                    Wan.predict_velocity(model, block, torch.tensor([500.0]), prompt)

    return passes


@torch.no_grad()
def _without_cache(model: CausalWan, noise: Tensor, prompt: Tensor) -> None:
    """Of each block its steps, each over all frames so far under the mask."""
    for end in range(PER_BLOCK, noise.shape[1] + 1, PER_BLOCK):
        levels = torch.zeros(1, end)
        for step in STEPS:
            levels[:, -PER_BLOCK:] = step
            model.predict_velocity(noise[:, :end], levels, prompt)


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
