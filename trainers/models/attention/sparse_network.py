"""Owns video sparse attention in a network: its gates, its present sparsity, and what an export says about it. Must not know roles or
runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor, nn

from ...config.attention import DenseAttention, SparseAttention, num_kept
from ...distributed.dtensor import local
from ...errors import UserError
from ..loading import diffusers_weights
from . import sparse_gpu
from .sparse import SparseAttentionInputs, VideoSparseProcessor
from .sparse_tiles import Tiles

GATE = "to_gate_compress"
"""FastVideo's name of the layer; here it is blocks.N.attn1.to_gate_compress."""
NOTE = "_attention"
"""The key in config.json. diffusers ignores keys that begin with an underscore."""


class SparseSelfAttention:
    """What all blocks of one network share. `sparsity` may change between forward passes."""

    def __init__(self, config: SparseAttention) -> None:
        self._config, self.sparsity = config, config.sparsity

    def at(self, step: int) -> None:
        """Set the sparsity of this step."""
        self.sparsity = self._config.sparsity_at(step)

    def inputs_of_pass(self, rope: Any, inputs: tuple[Tensor], angles: tuple[Tensor, Tensor]) -> SparseAttentionInputs:
        """Return the attention's inputs. A hook on the rotary embedding: called at the start of each forward pass, and never when
        activations are recomputed."""
        (hidden,) = inputs
        frames, height, width = (size // patch for size, patch in zip(hidden.shape[2:], rope.patch_size, strict=True))
        tiles = Tiles((frames, height, width), self._config.tile)
        backend = sparse_gpu.backend(self._config.backend, hidden.device, hidden.dtype, tiles.size, rope.attention_head_dim)
        return SparseAttentionInputs(*angles, tiles, num_kept(self.sparsity, tiles.num), backend)


def install(network: Any, config: SparseAttention) -> SparseSelfAttention:
    """Put gates and sparse attention into diffusers' WanTransformer3DModel, which computes what it did until the gates are trained or tiles
    are left out.

    Before adapters and sharding, where there are any.
    """
    for block in network.blocks:
        block.attn1.add_module(GATE, _gate(block.attn1))
        block.attn1.set_processor(VideoSparseProcessor())
    shared = SparseSelfAttention(config)
    network.rope.register_forward_hook(shared.inputs_of_pass)
    return shared


def _gate(attn: Any) -> nn.Linear:
    like = attn.to_q.weight
    with torch.random.fork_rng(devices=[]):  # otherwise the gates would change which random weights a seed gives the rest
        made = nn.Linear(like.shape[1], like.shape[0], device=like.device, dtype=like.dtype)
    made.train(attn.training).requires_grad_(like.requires_grad)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def is_gate(name: str) -> bool:
    """Return whether a parameter of that name is a gate's own, not its adapter's."""
    return GATE in name.split(".") and ".lora_" not in name


@torch.no_grad()
def zero_gates(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if is_gate(name):
            local(parameter).zero_()


# --- what an export says


def write_note(folder: Path, config: SparseAttention) -> None:
    """Add the configuration to the config.json of a network that was saved in `folder`."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, NOTE: config.model_dump(mode="json")}, indent=2, sort_keys=True) + "\n")


def stored(folder: Path) -> SparseAttention | None:
    """Return what the network in a diffusers folder was trained with, where one of ours was exported there; else None."""
    note = diffusers_weights.read_note(folder, NOTE)
    if note is None:
        return None
    try:
        return SparseAttention.model_validate(note)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: {NOTE}: {error.errors()[0]['msg']}", "export again") from None


def attention_of(configured: Any, folder: Path | None) -> SparseAttention | None:
    """Return a role's sparse attention: its own `attention`, else what the network that it starts from was trained with. None: dense."""
    if isinstance(configured, SparseAttention):
        return configured
    trained_with = None if folder is None else stored(folder)
    if trained_with is not None and configured is not None:
        kind = "dense attention" if isinstance(configured, DenseAttention) else "a block-causal network"
        raise UserError(
            f"init_from: {folder} was trained with video sparse attention and its gates, which {kind} has not",
            "attention: {kind: vsa, sparsity: 0} computes all pairs with them; or start from other weights",
        )
    return trained_with


def reinstall(network: Any, folder: Path, config: SparseAttention) -> None:
    """Put sparse attention into a network that diffusers has loaded from `folder` without its gates, and read these."""
    install(network, config)
    own = {name: parameter for name, parameter in network.named_parameters() if is_gate(name)}
    for file in diffusers_weights.files(folder):
        with safe_open(file, framework="pt") as held, torch.no_grad():
            for name in own.keys() & set(held.keys()):
                own[name].copy_(held.get_tensor(name))
