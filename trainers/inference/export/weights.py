"""Owns the request for an export and its weights: whole transformers, or adapters by either of their names.

Must not know commands. Files are written where the caller says; publishing them is the caller's.
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
    """A request for an export. `lora_keys`: an adapter's names as diffusers has them, or the original ones behind `diffusion_model.`."""

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
    """The one of the role's networks that is written; `each` lists the requests of all."""

    @property
    def each(self) -> list[ExportRequest]:
        return [replace(self, network=name) for name in self.checkpoint.networks(self.role)]

    @cached_property
    def section(self) -> Any:
        """Return the role's section of the configuration."""
        return self.checkpoint.config.models[self.role]

    @cached_property
    def model(self) -> Any:
        """Return the network's section, as a role of one network would have it."""
        return expert_folders.section_of(self.section, self.network)

    @cached_property
    def base(self) -> Path | None:
        """Return the model folder that the role started from; None for random weights."""
        return None if self.section.init_from is None else model_folder.resolve(self.section.init_from, self.section.revision)

    @cached_property
    def folder(self) -> Path | None:
        """Return the network's own folder in what it started from; None for random weights."""
        if self.model.init_from is None:
            return None
        return model_weights.subfolder(model_folder.resolve(self.model.init_from, self.model.revision), COMPONENT)

    @cached_property
    def attention(self) -> SparseAttention | None:
        """Return the network's sparse attention as it was at the checkpoint's step; None: dense."""
        trained = sparse_network.attention_of(getattr(self.model, "attention", None), self.folder)
        return None if trained is None else trained.at(self.checkpoint.step)

    @property
    def adapter_only(self) -> bool:
        return self.model.lora is not None and not self.merge

    @property
    def kind(self) -> Literal["pipeline", "transformer", "lora"]:
        if self.adapter_only:
            return "lora"
        return "pipeline" if self.base is not None and (self.base / "model_index.json").is_file() else "transformer"


def write_transformer(folder: Path, request: ExportRequest) -> None:
    network = _network(request)
    network.save_config(folder)
    if request.attention is not None:
        sparse_network.write_note(folder, request.attention)
    required = {name: parameter.shape for name, parameter in network.named_parameters()}
    read, shapes = _merged(request) if request.model.lora is not None else _saved(request)
    if {name: tuple(shape) for name, shape in shapes.items()} != {name: tuple(shape) for name, shape in required.items()}:
        different = sorted(name for name in {*required, *shapes} if tuple(required.get(name, ())) != tuple(shapes.get(name, ())))
        raise UserError(f"the checkpoint does not hold the whole network of {request.role!r}: {', '.join(different[:5])}")
    types = {name: _stored_type(name, network, request.dtype) for name in shapes}
    sizes = {name: shape.numel() * types[name].itemsize for name, shape in shapes.items()}
    safetensors_files.write(
        folder,
        sizes,
        lambda names: {name: tensor.to(types[name]) for name, tensor in read(names).items()},
        max_bytes=int(request.max_shard_gb * 10**9),
    )


def _network(request: ExportRequest) -> Any:
    """Return the role's transformer without weights, on the meta device."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        if request.folder is None:
            made = WanTransformer3DModel(**request.model.architecture.model_dump())
        else:
            made = WanTransformer3DModel.from_config(model_weights.read_config(request.folder, "WanTransformer3DModel"))
        if request.attention is not None:
            sparse_network.install(made, request.attention)
        return made


def _stored_type(name: str, network: Any, dtype: str) -> torch.dtype:
    """Return the type in which a tensor is stored, as diffusers loads it: some parts of a bfloat16 network stay float32."""
    kept = any(part in name.split(".") for part in network._keep_in_fp32_modules or ())
    return torch.float32 if kept else _DTYPES[dtype]


def _saved(request: ExportRequest) -> tuple[safetensors_files.Read, dict[str, torch.Size]]:
    names = request.checkpoint.names(request.role, request.weights, request.network)

    def read(parameters: Sequence[str]) -> dict[str, Tensor]:
        tensors = request.checkpoint.read(names[name][0] for name in parameters)
        return {name: tensors[names[name][0]] for name in parameters}

    return read, {name: shape for name, (_, shape, _) in names.items()}


def _merged(request: ExportRequest) -> tuple[safetensors_files.Read, dict[str, torch.Size]]:
    network = with_adapter(request)
    lora.merge(network)
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return lambda names: {name: state[name] for name in names}, {name: tensor.shape for name, tensor in state.items()}


def with_adapter(request: ExportRequest) -> Any:
    """Return the base network in float32 with the trained adapter in it, on the CPU."""
    from diffusers import WanTransformer3DModel

    if request.folder is None:
        raise UserError(f"{request.role!r} has an adapter on random weights: there is no base model to merge it into", "leave out --merge")
    network = WanTransformer3DModel.from_pretrained(request.folder, dtype=torch.float32)
    if request.attention is not None:
        sparse_network.reinstall(network, request.folder, request.attention)
    lora.inject(network, request.model.lora)
    adapters = lora.adapters_of(network)
    with torch.no_grad():
        for name, tensor in request.checkpoint.weights(request.role, request.weights, request.network).items():
            adapters[name].copy_(tensor)
    return network


def write_adapter(folder: Path, request: ExportRequest) -> None:
    """Write an adapter with peft's description in its metadata or, in the original names, with an alpha beside each layer."""
    network, path = _network(request), folder / lora_file(request.network)
    lora.inject(network, request.model.lora)
    state = request.checkpoint.weights(request.role, request.weights, request.network)
    if request.lora_keys == "original":
        renamed = original_names(state, request.model.lora.scaled_alpha)
        safetensors_files.save(path, renamed, {"format": "pt"})
        return
    plain = {lora.exported_name(name): tensor for name, tensor in state.items()}
    description = {f"{COMPONENT}.{key}": value for key, value in lora.adapter_config(network).items()}
    safetensors_files.save(path, plain, {"format": "pt", "lora_adapter_metadata": json.dumps(description, sort_keys=True)})


_ORIGINAL = {
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v", "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k", "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip


def original_names(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Rename an adapter's tensors as other programs expect: diffusion_model.blocks.0.self_attn.q.lora_A.weight, with ….alpha."""
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
