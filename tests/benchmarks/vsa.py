"""What sparse attention saves: `python tests/benchmarks/vsa.py [ROUNDS]`.

Forward and backward of all of video sparse attention (cutting into tiles, coarse branch, choice, fine branch, gate) against torch's own
dense attention of the same tokens, by turns, on this machine's CPU. Prints a table; ends with 1 where a limit is not kept.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trainers.config.attention import num_kept
from trainers.models.attention.sparse import attend
from trainers.models.attention.sparse_tiles import Tiles

ROUNDS = 5
HEADS, HEAD_DIM, TILE = 2, 64, (4, 4, 4)
CASES = [((8, 32, 32), 0.9, 3.0), ((8, 32, 32), 0.8, None), ((7, 34, 34), 0.9, None), ((16, 32, 32), 0.9, None)]
"""(grid of tokens, sparsity, how many times as fast at least)."""


def main(rounds: int) -> int:
    kept = True
    print("| tokens | tiles | sparsity | dense | sparse | times as fast | limit |\n|---|---:|---:|---:|---:|---:|---:|")
    for grid, sparsity, limit in CASES:
        tiles = Tiles(grid, TILE)
        dense, sparse, ratio = _compared(tiles, sparsity, rounds)
        told = "" if limit is None else f"at least {limit:g}"
        kept &= limit is None or ratio >= limit
        name = f"{' x '.join(map(str, grid))}{', cut-off tiles' if tiles.ragged else ''}"
        print(f"| {name} | {tiles.num} | {sparsity:g} | {dense * 1e3:.0f} ms | {sparse * 1e3:.0f} ms | {ratio:.2f} | {told} |")
    print(f"\nmedians of {rounds} rounds; forward and backward, {HEADS} heads of {HEAD_DIM}, float32, {torch.get_num_threads()} threads")
    return int(not kept)


def _compared(tiles: Tiles, sparsity: float, rounds: int) -> tuple[float, float, float]:
    """(dense, sparse, median of the ratios) in seconds."""
    torch.manual_seed(0)
    t, h, w = tiles.grid
    parts = [torch.randn(1, t * h * w, HEADS, HEAD_DIM, requires_grad=True) for _ in range(4)]
    upstream, kept = torch.randn_like(parts[0]), num_kept(sparsity, tiles.num)

    def sparse() -> Tensor:
        return attend(*parts, tiles, kept, "gather")

    def dense() -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in parts[:3])
        return scaled_dot_product_attention(query, key, value).transpose(1, 2)

    _seconds(sparse, upstream, parts)
    pairs = [(_seconds(dense, upstream, parts), _seconds(sparse, upstream, parts)) for _ in range(rounds)]
    ours, theirs = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
    return statistics.median(theirs), statistics.median(ours), statistics.median(a / b for a, b in pairs)


def _seconds(function: Callable[[], Tensor], upstream: Tensor, parts: list[Tensor]) -> float:
    started = time.perf_counter()
    function().backward(upstream)
    ended = time.perf_counter()
    for part in parts:
        part.grad = None
    return ended - started


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
