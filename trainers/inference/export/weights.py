"""Owns what an export is of, and its weights: whole transformers, or adapters by either of their names. Must not know commands.

Files are written where the caller says; publishing them is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...checkpointing.reader import Checkpoint
from ...config.attention import SparseAttention
from ...config.export_folder import COMPONENT, WeightsKind, lora_file
from ...errors import UserError
from ...models import lora
from ...models.attention import sparse_network
from ...models.loading import diffusers_weights as model_weights
from ...models.loading import expert_folders, model_folder
from . import safetensors_files

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported, and how. `lora_keys`: diffusers' names, or the original ones behind `diffusion_model.`."""

    checkpoint: Checkpoint
    to: Path
    role: str = "student"
    weights: WeightsKind = "live"
    merge: bool = False
    dtype: Literal["fp32", "bf16"] = "fp32"
    max_shard_gb: float = 10.0
    lora_keys: Literal["diffusers", "original"] = "diffusers"
    hub_id: str | None = None
    network: str = COMPONENT
    """Which one of the role's; `each` are all."""

    @property
    def each(self) -> list[ExportRequest]:
        return [replace(self, network=name) for name in self.checkpoint.networks(self.role)]

    @cached_property
    def section(self) -> Any:
        """The role's, of the configuration."""
        return self.checkpoint.config.models[self.role]

    @cached_property
    def model(self) -> Any:
        """The network's section, as of a role of one network."""
        return expert_folders.section_of(self.section, self.network)

    @cached_property
    def base(self) -> Path | None:
        """The folder that the role started from."""
        return None if self.section.init_from is None else model_folder.resolve(self.section.init_from, self.section.revision)

    @cached_property
    def folder(self) -> Path | None:
        """The network's own, in what it started from."""
        if self.model.init_from is None:
            return None
        return model_weights.subfolder(model_folder.resolve(self.model.init_from, self.model.revision), COMPONENT)

    @cached_property
    def attention(self) -> SparseAttention | None:
        """As the role's network had it at the checkpoint's step; None: dense."""
        found = sparse_network.attention_of(getattr(self.model, "attention", None), self.folder)
        return None if found is None else found.at(self.checkpoint.step)

    @property
    def adapter_only(self) -> bool:
        return self.model.lora is not None and not self.merge

    @property
    def kind(self) -> Literal["pipeline", "transformer", "lora"]:
        if self.adapter_only:
            return "lora"
        return "pipeline" if self.base is not None and (self.base / "model_index.json").is_file() else "transformer"


def write_transformer(folder: Path, asked: ExportRequest) -> None:
    network = _network(asked)
    network.save_config(folder)
    if asked.attention is not None:
        sparse_network.write_note(folder, asked.attention)
    wanted = {name: parameter.shape for name, parameter in network.named_parameters()}
    read, shapes = _merged(asked) if asked.model.lora is not None else _saved(asked)
    if {name: tuple(shape) for name, shape in shapes.items()} != {name: tuple(shape) for name, shape in wanted.items()}:
        different = sorted(name for name in {*wanted, *shapes} if tuple(wanted.get(name, ())) != tuple(shapes.get(name, ())))
        raise UserError(f"the checkpoint does not hold the whole network of {asked.role!r}: {', '.join(different[:5])}")
    types = {name: _stored_type(name, network, asked.dtype) for name in shapes}
    sizes = {name: shape.numel() * types[name].itemsize for name, shape in shapes.items()}
    safetensors_files.write(
        folder,
        sizes,
        lambda names: {name: tensor.to(types[name]) for name, tensor in read(names).items()},
        max_bytes=int(asked.max_shard_gb * 10**9),
    )


def _network(asked: ExportRequest) -> Any:
    """The role's transformer without weights."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        if asked.folder is None:
            made = WanTransformer3DModel(**asked.model.architecture.model_dump())
        else:
            made = WanTransformer3DModel.from_config(model_weights.read_config(asked.folder, "WanTransformer3DModel"))
        if asked.attention is not None:
            sparse_network.install(made, asked.attention)
        return made


def _stored_type(name: str, network: Any, dtype: str) -> torch.dtype:
    """As diffusers loads it: some parts of a bfloat16 network stay float32."""
    kept = any(part in name.split(".") for part in network._keep_in_fp32_modules or ())
    return torch.float32 if kept else _DTYPES[dtype]


def _saved(asked: ExportRequest) -> tuple[safetensors_files.Read, dict[str, torch.Size]]:
    names = asked.checkpoint.names(asked.role, asked.weights, asked.network)

    def read(wanted: Sequence[str]) -> dict[str, Tensor]:
        found = asked.checkpoint.read(names[name][0] for name in wanted)
        return {name: found[names[name][0]] for name in wanted}

    return read, {name: shape for name, (_, shape, _) in names.items()}


def _merged(asked: ExportRequest) -> tuple[safetensors_files.Read, dict[str, torch.Size]]:
    network = with_adapter(asked)
    lora.merge(network)
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return lambda names: {name: state[name] for name in names}, {name: tensor.shape for name, tensor in state.items()}


def with_adapter(asked: ExportRequest) -> Any:
    """The base network in float32 with the trained adapter in it, on the CPU."""
    from diffusers import WanTransformer3DModel

    if asked.folder is None:
        raise UserError(f"{asked.role!r} has an adapter on random weights: there is no base model to merge it into", "leave out --merge")
    network = WanTransformer3DModel.from_pretrained(asked.folder, dtype=torch.float32)
    if asked.attention is not None:
        sparse_network.reinstall(network, asked.folder, asked.attention)
    lora.inject(network, asked.model.lora)
    adapters = lora.adapters_of(network)
    with torch.no_grad():
        for name, tensor in asked.checkpoint.weights(asked.role, asked.weights, asked.network).items():
            adapters[name].copy_(tensor)
    return network


def write_adapter(folder: Path, asked: ExportRequest) -> None:
    """With peft's description in its metadata, or, in the original names, with an alpha beside each layer."""
    from safetensors.torch import save_file

    network, path = _network(asked), folder / lora_file(asked.network)
    lora.inject(network, asked.model.lora)
    state = asked.checkpoint.weights(asked.role, asked.weights, asked.network)
    if asked.lora_keys == "original":
        renamed = original_names(state, asked.model.lora.scaled_alpha)
        save_file(renamed, path, metadata={"format": "pt"})
        safetensors_files.check_same(path, renamed)
        return
    plain = {lora.exported_name(name): tensor for name, tensor in state.items()}
    description = {f"{COMPONENT}.{key}": value for key, value in lora.adapter_config(network).items()}
    save_file(plain, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(description, sort_keys=True)})
    safetensors_files.check_same(path, plain)


_ORIGINAL = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v", "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k", "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip


def original_names(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """As other programs expect adapters: diffusion_model.blocks.0.self_attn.q.lora_A.weight, with ….alpha."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, part = name.replace(".default.", ".").partition(".lora_")
        blocks, number, inside = (*layer.split(".", 2), "", "")[:3]
        if blocks != "blocks" or inside not in _ORIGINAL:
            raise UserError(f"the original names have none for an adapter of {layer}", "--lora-keys diffusers")
        original = f"diffusion_model.blocks.{number}.{_ORIGINAL[inside]}"
        renamed[f"{original}.lora_{part}"] = tensor
        renamed[f"{original}.alpha"] = torch.tensor(alpha)
    return renamed
