"""Owns Muon (https://kellerjordan.github.io/posts/muon/) for matrices that are sharded over ranks. Must not know what the matrices belong
to.

torch.optim.Muon works on such parameters too, but with a collective for each product of each matrix: 1.06 s a step for 588k parameters
on two CPU ranks. Here ranks exchange shards for whole matrices, each orthogonalises its share in batches and sends it back.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..distributed.dtensor import local, shard_group

_AT_ONCE = 8
"""Matrices that one rank orthogonalises together; bounds the memory."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return about U V^T of each matrix [N, rows, columns]: five Newton-Schulz steps with Muon's coefficients (singular values end near 1).

    Computed in bfloat16 on CUDA, as torch.optim.Muon does; in float32 on CPUs, where that is three times faster.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if matrices.shape[-2] > matrices.shape[-1] else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrices.shape[-2] > matrices.shape[-1] else x).to(matrices.dtype)


class ShardedMuon(torch.optim.Optimizer):
    """m <- lerp(m, g, 1 - momentum); p <- (1 - lr wd) p - lr sqrt(max(1, rows/columns)) orthogonalised(lerp(g, m, momentum))."""

    _step_supports_amp_scaling = True  # reads `found_inf` on the device

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, nesterov: bool, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon is for matrices only")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is None
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[(tuple(p.shape), shard_group(p))].append(p)
            for (shape, ranks), parameters in alike.items():
                at_once = _AT_ONCE * (1 if ranks is None else dist.get_world_size(ranks))
                for first in range(0, len(parameters), at_once):
                    self._update(parameters[first : first + at_once], shape, ranks, group, found_inf)

    def _update(
        self,
        parameters: list[Tensor],
        shape: tuple[int, int],
        ranks: dist.ProcessGroup | None,
        group: dict[str, Any],
        found_inf: Tensor | None,
    ) -> None:
        gradients = torch.stack([local(p.grad) for p in parameters])
        buffers = [local(self._buffer(p)) for p in parameters]
        momentum = torch.stack(buffers).lerp(gradients, 1 - group["momentum"])
        direction = gradients.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        direction = _whole_matrices(direction, shape, ranks)
        masters = torch.stack([local(p) for p in parameters])
        rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
        updated = masters * (1 - group["lr"] * group["weight_decay"]) - rate * direction
        if found_inf is not None:
            momentum = torch.where(found_inf.bool(), torch.stack(buffers), momentum)
            updated = torch.where(found_inf.bool(), masters, updated)
        torch._foreach_copy_(buffers, list(momentum.unbind()))
        torch._foreach_copy_([local(p) for p in parameters], list(updated.unbind()))

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter).detach()
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _whole_matrices(shards: Tensor, shape: tuple[int, int], ranks: dist.ProcessGroup | None) -> Tensor:
    """Orthogonalise matrices of which each rank holds some rows: [N, own rows, columns] in and out. Collective over `ranks`."""
    if ranks is None:
        return orthogonalised(shards)
    size, (count, own_rows, columns) = dist.get_world_size(ranks), shards.shape
    rows, share = -(-shape[0] // size), -(-count // size)  # as fully_shard cuts; the last ranks may hold fewer, so pad
    padded = shards.new_zeros(size * share, rows, columns)
    padded[:count, :own_rows] = shards
    mine = _exchange(padded.view(size, share, rows, columns), ranks)  # [shard, matrix of mine, rows, columns]
    whole = mine.transpose(0, 1).reshape(share, size * rows, columns)
    done = torch.zeros_like(whole)
    done[:, : shape[0]] = orthogonalised(whole[:, : shape[0]])
    back = _exchange(done.view(share, size, rows, columns).transpose(0, 1).contiguous(), ranks)
    return back.reshape(size * share, rows, columns)[:count, :own_rows]


def _exchange(parts: Tensor, ranks: dist.ProcessGroup) -> Tensor:
    """Send parts[i] to rank i; return what was received, [j] from rank j. Collective."""
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=ranks)
    return received
