"""Owns what the tables of keys say of one key: the words for its type, default, bounds and unit. Pure: it reads a schema's property."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "object": "mapping"}
UNITS = {
    "time": "minutes, or D-HH:MM:SS", "height": "pixels", "width": "pixels", "fps": "frames a second", "num_frames": "frames",
    "chunk_size": "latent frames", "num_frames_per_block": "latent frames", "local_attn_size": "latent frames",
    "sink_frames": "latent frames", "start_gradient_frame": "latent frames", "patch_size": "latents", "vae_stride": "frames, pixels",
    "text_len": "tokens", "tile": "tokens", "denoising_steps": "timesteps", "t_list": "timesteps", "timesteps": "timesteps",
    "context_noise": "timestep", "steps": "timesteps", "global_batch_size": "samples", "micro_batch_size": "samples",
    "num_samples": "samples", "teacher_batch_size": "samples", "num_trajectories": "samples", "rows_per_file": "samples",
    "num_videos": "videos", "batch_size": "videos", "workers": "processes", "decoders": "processes", "ranks": "processes",
    "ranks_per_node": "processes", "replicate": "copies", "shard": "ranks", "sequence": "ranks", "threads_per_rank": "threads",
    "generator_update_interval": "steps", "interval": "steps", "start_step": "steps", "nonfinite_limit": "steps", "step": "steps",
    "keep_last": "checkpoints", "crashes": "attempts", "hangs": "attempts", "out_of_memory": "attempts",
    "starts_without_progress": "attempts", "interrupted_starts": "attempts", "failed_saves": "saves",
    "failures_per_node_day": "failures", "preemptions_per_day": "preemptions",
}  # fmt: skip
_ENDINGS = {"_gb_per_s": "GB/s", "_s": "seconds", "_gb": "GB", "_minutes": "minutes", "_steps": "steps"}


def alternatives(value: Schema) -> list[Schema]:
    """Return the forms that a value may have, but for null, which only resets a key to its default."""
    found: list[Schema] = []
    for one in value.get("anyOf") or value.get("oneOf") or [value]:
        found += alternatives(one) if "anyOf" in one or "oneOf" in one else [one]
    return [one for one in found if one.get("type") != "null"]


def meaning(value: Schema) -> str:
    """Return the description of a key or block in one line."""
    return " ".join(value.get("description", "").split())


def type_name(value: Schema) -> str:
    """Return the words for a key's type; a block is a mapping with keys of its own."""
    names = dict.fromkeys(_type(one) for one in alternatives(value))
    return " or ".join(name for name in names if name != "whole number" or "number" not in names)


def default_of(value: Schema, *, is_block: bool = False) -> str:
    """Return a key's default as it would be written in a file, "required" where it has none; {} for a block of its keys' defaults."""
    if "default" not in value:
        return "required"
    return "`{}`" if is_block and isinstance(value["default"], dict) else f"`{json.dumps(value['default'])}`"


def allowed(value: Schema) -> str:
    """Return the values or bounds that a key's type leaves, empty where it leaves them all."""
    return "; ".join(dict.fromkeys(text for one in alternatives(value) if (text := _bounds(one))))


def unit(name: str, value: Schema) -> str:
    """Return the unit of a number, told by the key's name; empty for what is counted or measured in nothing."""
    if "number" not in type_name(value):
        return ""
    return UNITS.get(name) or next((words for ending, words in _ENDINGS.items() if name.endswith(ending)), "")


def _type(one: Schema) -> str:
    kind = one.get("type")
    if isinstance(kind, list):
        return " or ".join(_type({**one, "type": name}) for name in kind if name != "null")
    if "$ref" in one or "properties" in one:
        return "block"
    if "prefixItems" in one:
        return f"{len(one['prefixItems'])} x {_type(one['prefixItems'][0])}"
    if kind == "array":
        return f"list of {type_name(one['items'])}"
    if isinstance(one.get("additionalProperties"), dict):
        return f"mapping, each {type_name(one['additionalProperties'])}"
    return _TYPES.get(kind or "", "text" if "enum" in one or "const" in one else "anything")


def _bounds(one: Schema) -> str:
    if "const" in one:
        return f"`{one['const']}`"
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if one.get("type") == "array":
        is_tuple = "prefixItems" in one
        each = allowed(one["prefixItems"][0] if is_tuple else one.get("items", {}))
        return "; ".join([*(["not empty"] if one.get("minItems") and not is_tuple else []), *([f"each {each}"] if each else [])])
    if isinstance(items := one.get("additionalProperties"), dict):
        return allowed(items)
    return ", ".join(_limits(one))


def _limits(one: Schema) -> list[str]:
    if one.get("type") == "integer" and one.get("exclusiveMinimum") == 0:
        return ["≥ 1", *([f"≤ {one['maximum']:g}"] if "maximum" in one else [])]
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    return [f"{sign} {one[name]:g}" for name, sign in signs if name in one]
