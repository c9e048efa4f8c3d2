"""Owns the did-you-mean: which keys a section has, and what other programs call them. Pure."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from trainers.config import guidance
from trainers.config.discovery import available, config_class
from trainers.config.methods.base import MethodConfig
from trainers.config.section import Section

from . import sbatch_options
from .strict_yaml import KeyPath

_LR = "train.optimizers.<role>.lr"
_SHIFT = "train.flow_shift"
ELSEWHERE = {
    "max_train_steps": "train.max_steps",
    "num_train_steps": "train.max_steps",
    "num_train_epochs": "train.max_steps",
    "learning_rate": _LR,
    "critic_learning_rate": "train.optimizers.critic.lr",
    "fake_score_learning_rate": "train.optimizers.critic.lr",
    "lr_scheduler": "train.optimizers.<role>.schedule.kind",
    "lr_warmup_steps": "train.optimizers.<role>.schedule.warmup_steps",
    "warmup_steps": "train.optimizers.<role>.schedule.warmup_steps",
    "adam_beta1": "train.optimizers.<role>.betas",
    "adam_beta2": "train.optimizers.<role>.betas",
    "adam_epsilon": "train.optimizers.<role>.eps",
    "adam_weight_decay": "train.optimizers.<role>.weight_decay",
    "max_grad_norm": "train.callbacks.grad_clip.max_norm",
    "ema_decay": "train.callbacks.ema.decay",
    "ema_start_step": "train.callbacks.ema.start_step",
    "use_ema": "train.callbacks.ema",
    "hsdp_shard_dim": "train.parallel.shard",
    "hsdp_replicate_dim": "train.parallel.replicate",
    "sp_size": "train.parallel.sequence",
    "num_gpus": "resources.ranks",
    "nproc_per_node": "resources.ranks",
    "train_batch_size": "train.data.micro_batch_size",
    "per_device_train_batch_size": "train.data.micro_batch_size",
    "batch_size": "train.data.global_batch_size",
    "num_latent_t": "train.data.num_frames",
    "num_height": "train.data.height",
    "num_width": "train.data.width",
    "num_frame": "train.data.num_frames",
    "training_cfg_rate": "train.data.text_dropout",
    "data_path": "train.data.path",
    "data_dir": "train.data.path",
    "dataloader_num_workers": "train.data.workers",
    "num_workers": "train.data.workers",
    "text_encoder_max_length": "train.data.text_len",
    "mixed_precision": "train.precision",
    "dit_precision": "train.precision",
    "shift": _SHIFT,
    "timestep_shift": _SHIFT,
    "checkpointing_steps": "train.checkpoint.every_steps",
    "training_state_checkpointing_steps": "train.checkpoint.every_steps",
    "weight_only_checkpointing_steps": "train.checkpoint.every_steps",
    "checkpoints_total_limit": "train.checkpoint.keep_last",
    "VSA_sparsity": "train.models.student.attention.sparsity",
    "VSA_decay_rate": "train.models.student.attention.ramp.rate",
    "VSA_decay_interval_steps": "train.models.student.attention.ramp.interval",
    "enable_gradient_checkpointing_type": "train.models.<role>.activation_checkpointing",
    "gradient_checkpointing": "train.models.<role>.activation_checkpointing",
    "model_path": "train.models.<role>.init_from",
    "pretrained_model_name_or_path": "train.models.<role>.init_from",
    "generator_update_interval": "train.method.generator_update_interval",
    "dfake_gen_update_ratio": "train.method.generator_update_interval",
    "denoising_step_list": "train.method.denoising_steps",
    "warp_denoising_step": "train.method.warp_denoising_steps",
    "num_frame_per_block": "train.models.student.num_frames_per_block",
    "log_dir": "runs_dir of the cluster",
}
"""Keys of FastVideo and its relatives, and the dotted key that says the same here."""

_NOTES = {
    "gradient_accumulation_steps": "accumulation follows: data.global_batch_size / (data.micro_batch_size x data-parallel ranks)",
    "num_latent_t": "train.data.num_frames counts pixel frames: 1 + vae_stride[0] x (num_latent_t - 1), so 20 latent frames are 77",
    "num_train_epochs": "use train.max_steps: a run is counted in optimizer steps",
    "output_dir": "each run has its own folder below the cluster's runs_dir; name it with --name",
    "resume_from_checkpoint": "a run continues from its newest good checkpoint by itself; see fvlaunch resume",
    "wandb_project": "metrics are in the run's metrics.jsonl and tensorboard files",
    "tiny": "tiny stands at the top of a recipe: --set tiny=true",
}


def unknown_key(key: str, value: Any, root: type[BaseModel], section: type[BaseModel] | None, data: Any) -> str:
    """Return what was probably meant by a key that a section does not have."""
    if key == guidance.OTHERS_KEY:
        return guidance.conversions(value)
    if key in _NOTES:
        return _NOTES[key]
    fields = list(section.model_fields) if section is not None else []
    plain = key.lower().replace("-", "_")
    if plain in fields:
        return f"did you mean {plain}?"
    if "slurm" in fields and plain.replace("_", "-") in sbatch_options.KNOWN:
        return f"did you mean slurm.{plain.replace('_', '-')}?"
    if key in ELSEWHERE:
        return f"FastVideo's {key} is {ELSEWHERE[key]} here"
    places = [".".join(map(str, path)) for path in _all_keys(root, data) if path[-1] == plain]
    if places:
        return f"did you mean {' or '.join(places[:3])}?"
    near = closest(plain, fields) or closest(plain, ELSEWHERE)
    if near in ELSEWHERE and near not in fields:
        return f"did you mean {ELSEWHERE[near]}?"
    return f"did you mean {near}?" if near else f"known here: {', '.join(fields)}" if fields else ""


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like it, if one is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def section_at(root: type[BaseModel], data: Any, path: KeyPath) -> type[BaseModel] | None:
    """Return the section that a path of `data` leads to, following `kind` and `family`; None where it is not a section."""
    kind: Any = root
    for key in (*path, None):
        kind = _chosen(kind, data)
        if key is None or kind is None:
            break
        kind = _member(kind, key)
        data = data.get(key) if isinstance(data, dict) else None
    return kind if _is_section(kind) else None


def _is_section(kind: Any) -> bool:
    """Return whether an annotation is a section's class. Python 3.10 takes list[int] for a type, too, and issubclass does not."""
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel)


def _member(kind: Any, key: str | int) -> Any:
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if _is_section(kind) and key in kind.model_fields:
        return kind.model_fields[str(key)].annotation
    return None


def _chosen(kind: Any, data: Any) -> Any:
    """Return the class that `data` is meant for, out of an annotation."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        members = [_chosen(part, data) for part in get_args(kind) if part is not type(None)]
        return next((part for part in members if _is_kind(part, data)), members[0])
    if kind is MethodConfig:
        return _discovered("trainers.config.methods", data, "kind", None) or kind
    return (_discovered("trainers.config.models", data, "family", "wan") or kind) if kind is Section else kind


def _is_kind(kind: Any, data: Any) -> bool:
    written_kind = data.get("kind") if isinstance(data, dict) else None
    field = getattr(kind, "model_fields", {}).get("kind")
    return field is not None and get_origin(field.annotation) is Literal and written_kind in get_args(field.annotation)


def _discovered(package: str, data: Any, key: str, default: str | None) -> type[BaseModel] | None:
    name = data.get(key, default) if isinstance(data, dict) else default
    return config_class(package, name) if isinstance(name, str) and name in available(package) else None


def _all_keys(kind: Any, data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Return every key that can be written, with the names of roles as the data has them."""
    kind = _chosen(kind, data)
    if get_origin(kind) is dict:
        for name, item in data.items() if isinstance(data, dict) else ():
            yield from _all_keys(get_args(kind)[1], item, (*path, name))
    elif _is_section(kind):
        for name, field in kind.model_fields.items():
            yield (*path, name)
            yield from _all_keys(field.annotation, data.get(name) if isinstance(data, dict) else None, (*path, name))
