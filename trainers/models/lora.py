"""Owns low-rank adapters (LoRA, arXiv 2106.09685; trainers/methods/README.md section 4): putting them into a network, their first values,
taking them out.

Must not import peft before an adapter is used, nor know files. peft's layers are what stock diffusers makes of an exported adapter, so
both compute the same. Adapters go in before sharding: put in later, ranks would not share their gradients.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..config.models.base import LoraConfig
from ..distributed.dtensor import local, whole
from ..errors import UserError
from ..seeding import derived_seed

_BLOCK = re.compile(r"^\w+\.\d+\.")


def inject(network: nn.Module, config: LoraConfig) -> None:
    """Put adapters into all layers that the configuration names; from then on only they are trained. Before sharding, on any device.

    UserError for a target that matches no linear layer, with the names that exist.
    """
    _check_names(network, config)
    if not hasattr(network, "add_adapter"):
        raise UserError(f"lora: a {type(network).__name__} takes no adapters", "derive it from diffusers' ModelMixin and PeftAdapterMixin")
    from peft import LoraConfig as PeftConfig

    network.requires_grad_(False)
    adapters = PeftConfig(
        r=config.rank,
        lora_alpha=config.scaled_alpha,
        target_modules=list(config.target_modules),
        exclude_modules=list(config.exclude_modules) or None,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws first values from the global generator; `initialise` replaces them
        network.add_adapter(adapters)


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Give the adapters their first values: A uniform as Kaiming's with a = sqrt(5), B zero, so the network starts as its base. They depend
    on the seed and the name alone, so all ranks, however many, hold parts of the same adapters."""
    for name, parameter in adapters_of(network).items():
        start = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(derived_seed("lora", seed, name))
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        local(parameter).copy_(local(_laid_out_as(parameter, start)))


def adapters_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' parameters by their names in the network."""
    return {name: parameter for name, parameter in network.named_parameters() if ".lora_" in name}


def base_name(name: str) -> str:
    """Return a parameter's name in the network without adapters."""
    return name.replace(".base_layer.", ".")


def exported_name(name: str) -> str:
    """Return an adapter's name in a diffusers pipeline, such as transformer.blocks.0.attn1.to_q.lora_A.weight."""
    return f"transformer.{name.replace('.default.', '.')}"


def delta(down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """Return what an adapter adds to a weight: (alpha / rank) B A in float32. down A [rank, in], up B [out, rank] -> [out, in]."""
    return scaling * (up.float() @ down.float())


def adapter_state(module: nn.Module, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return whole adapters on the CPU by their exported names. Collective.

    weights: values to return instead, by parameter name, such as a moving average.
    """
    adapters = adapters_of(module)
    chosen = adapters if weights is None else {name: weights[name] for name in adapters}
    return {exported_name(name): whole(tensor.detach()).cpu() for name, tensor in chosen.items()}


def adapter_config(module: Any) -> dict[str, Any]:
    """Return the adapters as plain arguments of peft's LoraConfig, for the metadata of an exported file: without them its alpha would be
    lost.

    No more than that: peft's whole description has arguments that other versions of it refuse.
    """
    made = module.peft_config["default"]
    targets = made.target_modules
    if made.exclude_modules:  # exclusions are expressed by naming the layers that are left
        targets = {name.partition(".lora_")[0] for name in adapters_of(module)}
    return {"r": made.r, "lora_alpha": made.lora_alpha, "target_modules": sorted(targets)}


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Add the adapters to the weights, W <- W + (alpha / rank) B A in float32, and remove them. Collective; the network is not trained
    after."""
    from peft.tuners.lora import LoraLayer

    layers: list[tuple[str, Any]] = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        down, up = (whole(side["default"].weight.detach()) for side in (layer.lora_A, layer.lora_B))
        weight = layer.base_layer.weight
        added = local(_laid_out_as(weight, delta(down, up, layer.scaling["default"])))
        part = local(weight)
        part.copy_(part.float() + added)
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.base_layer)
    vars(module).pop("peft_config", None)
    module._hf_peft_config_loaded = False


def _laid_out_as(parameter: Tensor, complete: Tensor) -> Tensor:
    """Return `complete`, which is equal on all ranks, sharded as the parameter is. Without communication."""
    if not isinstance(parameter, DTensor):
        return complete
    return distribute_tensor(complete.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


# --- names


def _check_names(network: nn.Module, config: LoraConfig) -> None:
    """Raise UserError where a name matches no linear layer, or something else, or where nothing is left to adapt."""
    linear = {name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    others = {name for name, _layer in network.named_modules()} - linear
    for key, names in (("target_modules", config.target_modules), ("exclude_modules", config.exclude_modules)):
        for target in names:
            if not _matching(linear, target) or _matching(others, target):
                raise _unmatched(key, target, linear)
    chosen = {name for target in config.target_modules for name in _matching(linear, target)}
    if not chosen - {name for excluded in config.exclude_modules for name in _matching(linear, excluded)}:
        raise UserError("lora: exclude_modules leaves none of target_modules", "exclude fewer")


def _matching(names: set[str], target: str) -> set[str]:
    """Return the names that peft would take `target` to mean."""
    return {name for name in names if name == target or name.endswith(f".{target}")}


def _unmatched(key: str, target: str, linear: set[str]) -> UserError:
    ends = sorted({_BLOCK.sub("", name) for name in linear})
    near = difflib.get_close_matches(target, [*ends, *(end.partition(".")[2] for end in ends)], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return UserError(f"lora.{key}: {target!r} matches no linear layer of the network", f"{meant}its linear layers: {', '.join(ends)}")
