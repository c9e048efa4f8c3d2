"""Owns what is told of a rank's memory before anything is queued: the trainers' estimate, as lines and as JSON. Must not warn or judge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .plan import Plan

GB = 1e9
CUDA_BYTES = 2e9
"""What CUDA's context, NCCL's buffers and loaded kernels take beside torch's allocator: an assumption, which nobody has measured here."""


def estimated(plan: Plan) -> Any | None:
    """Return the trainers' estimate of one rank's memory; None for another program, and where the method knows no roles."""
    from trainers.config.memory_estimate import estimate

    from ..config.schema import Recipe

    train = Recipe.model_validate(plan.recipe).train
    return estimate(train, plan.ranks) if train is not None else None


def needed(needs: Any) -> float:
    """Return the bytes that a GPU needs."""
    return float(needs.peak + CUDA_BYTES)


def lines(plan: Plan, needs: Any) -> list[str]:
    """Return the estimate in lines: one a role, then the sum."""
    known = [role for role in needs.roles if role.parameters is not None]
    found = [f"memory of a rank, estimated ({plan.summary}):"] if known else []
    for role in known:
        parts = {
            "weights": role.weights, "gradients": role.gradients, "optimizer": role.optimizer, "averages": role.averages,
            "gathered": role.gathered, "activations": role.activations,
        }  # fmt: skip
        sizes = ", ".join(f"{name} {gb(size)}" for name, size in parts.items() if size)
        found.append(f"  {role.role:<8} {_count(role.parameters)}: {sizes}{', before training only' if role.before_training else ''}")
    if known:
        most = f", most in {needs.highest.name}" if needs.highest is not None else ""
        what = f"{gb(needs.peak)} at once{most}; a GPU needs about {gb(needed(needs))}; a checkpoint takes {gb(needs.checkpoint)}"
        found.append(f"  at most  {what}")
    if needs.unknown:
        found.append(f"memory: the size of {', '.join(needs.unknown)} is not known here (a model that is not downloaded or not Wan's)")
    return found


def as_json(plan: Plan) -> dict[str, Any] | None:
    """Return the estimate in bytes; `peak` and `checkpoint` are sums over the roles that are known."""
    needs = estimated(plan)
    return None if needs is None else {"peak": needs.peak, "needed": int(needed(needs)), **asdict(needs)}


def gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= 0.05 * GB else f"{size / 1e6:.1f} MB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 5e7 else f"{parameters / 1e6:.2f} M"
