"""Owns a role's network as it was trained, from a run's checkpoint or an exported folder. Must not change either, or sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from ..checkpointing import reader
from ..checkpointing.dcp_io import SafeReader
from ..checkpointing.reader import Checkpoint
from ..config import TrainConfig
from ..config.attention import SparseAttention
from ..config.export_folder import COMPONENT, TRAINING, WeightsKind
from ..distributed.collectives import taking_part
from ..distributed.mesh import ParallelContext
from ..errors import UserError, first_line
from ..models import model_class
from ..models.base import ModelBase


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, what it was trained as, and after how many steps."""

    model: ModelBase
    train: TrainConfig
    step: int


def network_of(
    folder: Path, parallel: ParallelContext, *, step: int | None = None, weights: WeightsKind = "live", role: str = "student"
) -> TrainedNetwork:
    """From a run's directory or an exported folder; UserError where it is neither. Collective."""
    if reader.is_run(folder):
        checkpoint = reader.open_checkpoint(folder, step)
        return TrainedNetwork(restored(checkpoint, role, weights, parallel), checkpoint.config, checkpoint.step)
    refuse_choice(folder, step, weights)
    told_of = training_of(folder)
    if told_of is None or not (folder / COMPONENT).is_dir():
        raise UserError(
            f"{folder} is neither a run nor a folder that can be sampled", f"a pipeline has model_index.json, an export {TRAINING}"
        )
    train, trained_role, made_at = told_of
    own: Any = train.models[trained_role].model_copy(
        update={"init_from": str(folder), "revision": None, "architecture": None, "lora": None, "activation_checkpointing": "none"}
        | ({"experts": {}} if hasattr(train.models[trained_role], "experts") else {})
    )
    model = built(own, trained_role, train, parallel, load_weights=True)
    kept = train.model_copy(update={"models": {**train.models, trained_role: own.model_copy(update={"init_from": None})}})
    return TrainedNetwork(model, kept, made_at)


def refuse_choice(folder: Path, step: int | None, weights: WeightsKind) -> None:
    """An exported folder holds one set of weights."""
    if step is not None or weights != "live":
        raise UserError(f"{folder} is no run: --step and --weights choose among a run's checkpoints", "leave them out")


def restored(checkpoint: Checkpoint, role: str, weights: WeightsKind, parallel: ParallelContext) -> ModelBase:
    """The role's network with a checkpoint's weights, as training and validation have it. Collective."""
    names = {network: checkpoint.names(role, weights, network) for network in checkpoint.networks(role)}  # fails early
    plain: Any = checkpoint.config.models[role].model_copy(update={"activation_checkpointing": "none", "compile": False})
    model = built(plain, role, checkpoint.config, parallel, adapted=plain.adapted)
    for network, module in model.networks.items():
        held = names[network]
        state = {held[name][0]: tensor for name, tensor in get_model_state_dict(module).items() if name in held}
        dcp.load(state, storage_reader=SafeReader(checkpoint.folder), **taking_part())
    model.on_step(checkpoint.step)
    return model


def built(
    config: Any, role: str, train: TrainConfig, parallel: ParallelContext, *, adapted: bool = False, load_weights: bool = False
) -> ModelBase:
    model = model_class(config.family)(
        config, role, trainable=adapted, precision=train.precision, seed=train.seed, parallel=parallel, load_weights=load_weights
    )
    for network in model.networks.values():
        network.eval()
    return model


def training_of(folder: Path) -> tuple[TrainConfig, str, int] | None:
    """What exported weights were trained as, which role they are, and at which step; None for others' folders."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / TRAINING).is_file():
        return None
    try:
        found = json.loads((folder / TRAINING).read_text())
        train, role, step = TrainConfig.model_validate(found["train"]), str(found["role"]), int(found["step"])
        return _as_of(train, role, step), role, step
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder / TRAINING}: {first_line(error)}", "export again") from None


def _as_of(train: TrainConfig, role: str, step: int) -> TrainConfig:
    """With the role's attention as it was at the step that was exported, for good."""
    model: Any = train.models[role]
    if not isinstance(attention := getattr(model, "attention", None), SparseAttention):
        return train
    return train.model_copy(update={"models": {**train.models, role: model.model_copy(update={"attention": attention.at(step)})}})
