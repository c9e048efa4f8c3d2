"""Owns the size of a Wan transformer by its numbers alone. Must not import torch or read more than a config.json."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from . import hub_cache
from .stored_json import read_object

if TYPE_CHECKING:
    from .models.base import LoraConfig
    from .models.wan import WanArchitecture


@dataclass(frozen=True)
class NetworkSize:
    """The size of a role's network, or of its networks, which are alike."""

    parameters: int
    adapters: int
    """Of LoRA: what is trained instead of the parameters; 0: they are trained themselves."""
    block: int
    """Parameters of one transformer block."""
    layers: int
    width: int
    ffn: int
    patch: tuple[int, int, int]
    networks: int = 1
    """Parameters and adapters are those of all; at a time one computes."""

    @property
    def rest(self) -> int:
        """Return the parameters of one network that belong to no block."""
        return (self.parameters - self.networks * self.layers * self.block) // self.networks

    def tokens(self, latents: tuple[int, int, int]) -> int:
        """Return the tokens of one clip of (T, H, W) latents."""
        return math.prod(size // by for size, by in zip(latents, self.patch, strict=True))


def transformer_size(architecture: WanArchitecture, lora: LoraConfig | None = None, *, gates: bool = False) -> NetworkSize:
    """Return the size of diffusers' WanTransformer3DModel with these arguments; `gates`: with those of video sparse attention."""
    a, width = architecture, architecture.num_attention_heads * architecture.attention_head_dim
    patch = math.prod(a.patch_size)
    square = width * width + width
    norms = 4 * width + (2 * width if a.cross_attn_norm else 0)
    block = 8 * square + norms + 2 * width * a.ffn_dim + width + a.ffn_dim + 6 * width
    block += square if gates else 0
    ends = a.in_channels * width * patch + width  # patch embedding
    ends += a.freq_dim * width + width + square + 6 * width * width + 6 * width  # time
    ends += a.text_dim * width + width + square  # text
    ends += width * a.out_channels * patch + a.out_channels * patch + 2 * width
    adapters = 0 if lora is None else a.num_layers * _adapters(lora, width, a.ffn_dim)
    return NetworkSize(ends + a.num_layers * block, adapters, block, a.num_layers, width, a.ffn_dim, a.patch_size)


def adapted_layers(lora: LoraConfig) -> frozenset[str]:
    """Return the names in a block of the layers that get an adapter, as far as there are such layers."""
    return frozenset(layer for layer in _layers(0, 0) if _named(layer, lora.target_modules, lora.exclude_modules))


def _adapters(lora: LoraConfig, width: int, ffn: int) -> int:
    """Return the parameters of one block's adapters: rank x (inputs + outputs) of each layer that is named."""
    named = adapted_layers(lora)
    return lora.rank * sum(size for layer, size in _layers(width, ffn).items() if layer in named)


def _layers(width: int, ffn: int) -> dict[str, int]:
    """Return inputs + outputs of a block's linear layers."""
    layers = {f"attn{n}.{name}": 2 * width for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    return layers | {"attn1.to_gate_compress": 2 * width, "ffn.net.0.proj": width + ffn, "ffn.net.2": width + ffn}


def _named(layer: str, named: list[str], left_out: list[str]) -> bool:
    def among(names: list[str]) -> bool:
        return any(layer == name or layer.endswith(f".{name}") for name in names)

    return among(named) and not among(left_out)


def architecture_of(reference: str, revision: str | None = None) -> WanArchitecture | None:
    """Return the architecture of a folder, a downloaded model or a well-known name; None where nothing tells it."""
    from .models.wan import WanArchitecture

    content = _read(reference, revision)
    if content is not None:
        known = {key: value for key, value in content.items() if key in WanArchitecture.model_fields}
        try:
            return WanArchitecture.model_validate(known)
        except ValidationError:
            return None
    if reference.startswith("tiny-wan"):
        return WanArchitecture(num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=32, text_dim=32)
    name = reference.lower()
    if "wan" in name and re.search(r"a?14b", name):
        return WanArchitecture(num_layers=40, num_attention_heads=40, ffn_dim=13824)
    return WanArchitecture() if "wan" in name and "1.3b" in name else None


def _read(reference: str, revision: str | None) -> dict[str, object] | None:
    """Read config.json of the transformer; the network is never used."""
    folder = Path(reference).expanduser()
    try:
        if not folder.is_dir():
            folder = hub_cache.snapshot("model", reference, revision) if hub_cache.is_id(reference) else folder
        root = folder / "transformer" if (folder / "transformer").is_dir() else folder
        return dict(read_object(root / "config.json"))
    except (hub_cache.NotHere, OSError, ValueError):
        return None
