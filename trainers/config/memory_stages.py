"""Owns what the roles' networks hold at a time in each stage of a method's step: whose activations live beside whose. Must not import
torch, or know what a pass holds.

A stage counts what torch allocates in the stream in which it computes, where a later stage takes over what an earlier one has freed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .memory_network import Network
from .methods import dmd2, self_forcing
from .models.wan_a14b import TwoExperts
from .train import TrainConfig


@dataclass(frozen=True)
class Stage:
    name: str
    size: int
    """Bytes of activations, caches of keys and values, and blocks that are whole at the time."""


def stages(train: TrainConfig, networks: Mapping[str, Network]) -> list[Stage]:
    """Return the stages of a step that may hold most. `networks`: one of each role that is there while training and whose size is known;
    what is not known counts nothing."""
    method = train.method
    if isinstance(method, self_forcing.Config):
        return _with_scores(networks, _rollout(train, method, networks.get("student")))
    if isinstance(method, dmd2.Config):
        return _with_scores(networks, _simulation(networks.get("student")))
    trained = {role: network for role, network in networks.items() if network.trained}
    frozen = max((network.passing() for network in networks.values() if not network.trained), default=0)
    return [
        Stage(f"the {role}'s backward pass", max(network.left() + network.backward(), network.left() + frozen))
        for role, network in trained.items()
    ]


def expert_networks(train: TrainConfig, role: str) -> int:
    """Return how many networks of a role get a gradient in a step."""
    mixed = isinstance(train.method, self_forcing.Config) and role == "student" and not train.method.same_step_across_blocks
    return 2 if mixed and isinstance(train.models[role], TwoExperts) else 1


def passing_networks(train: TrainConfig, role: str) -> int:
    """Return how many networks of a role make passes in a step. Of distribution matching, samples are made by both of a student's experts,
    and each loss has a noise level of its own, where another of the critic's may be responsible."""
    both = isinstance(train.method, dmd2.Config) and role in ("student", "critic")
    return 2 if both and isinstance(train.models[role], TwoExperts) else 1


@dataclass(frozen=True)
class _Samples:
    """What the student's own samples hold."""

    making: int
    """While they are made."""
    made: int
    """Until their gradient is taken: what the student's pass with gradient, or its passes, left."""
    backward: int
    """In hand while that is taken."""
    without_gradient: int
    """While the critic's are made."""


def _with_scores(networks: Mapping[str, Network], samples: _Samples) -> list[Stage]:
    """Return the stages of distribution matching: the student's gradient is taken before the critic's samples are made."""
    critic, teacher = networks.get("critic"), networks.get("teacher")
    scoring = max((network.passing() for network in (critic, teacher) if network is not None), default=0)
    learning = 0 if critic is None else critic.left() + critic.backward()
    return [
        Stage("the student's rollout", samples.making),
        Stage("the student's loss", samples.made + scoring),
        Stage("the student's backward pass", samples.made + samples.backward),
        Stage("the critic's rollout", samples.without_gradient),
        Stage("the critic's backward pass", learning),
    ]


def _simulation(student: Network | None) -> _Samples:
    if student is None:
        return _Samples(0, 0, 0, 0)
    return _Samples(student.left() + student.passing(), student.left(), student.backward(), student.passing())


def _rollout(train: TrainConfig, method: self_forcing.Config, student: Network | None) -> _Samples:
    """Return what a rollout block by block holds: caches of all blocks but the last, which its backward pass reads, and what is left of
    each block that has a gradient."""
    if student is None:
        return _Samples(0, 0, 0, 0)
    model: Any = train.models["student"]
    frames, frame = train.data.latent_shape[0], student.tokens // train.data.latent_shape[0]
    block = min(model.num_frames_per_block, frames)
    written = (frames - 1) // block * block
    kept = written if model.local_attn_size is None else min(written, model.local_attn_size)
    cache, graded = student.past(kept * frame), frames - method.start_gradient_frame // block * block
    readers = 2 if isinstance(model, TwoExperts) else 1
    left, step = student.left(graded * frame), student.passing(block * frame)
    if model.local_attn_size is not None:  # a window that rolls is joined to a block's own in each pass
        cache = student.past(written * frame)  # what a graph refers to is not dropped
    mixed = expert_networks(train, "student")
    return _Samples(
        making=left + readers * cache + step,
        made=left + mixed * cache,
        backward=student.backward(block * frame, past=kept * frame),
        without_gradient=readers * cache + step,
    )
