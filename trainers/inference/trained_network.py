"""Owns a role's network as it was trained, from a run's checkpoint or an exported folder. Must not change either, or sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from ..checkpointing import reader
from ..checkpointing.dcp_io import SafeReader
from ..checkpointing.reader import Checkpoint
from ..config import TrainConfig
from ..config.attention import SparseAttention
from ..config.export_folder import COMPONENT, TRAINING, WeightsKind
from ..config.stored_json import read_object
from ..distributed.collectives import taking_part
from ..distributed.mesh import ParallelContext
from ..errors import UserError, first_line
from ..models import model_class
from ..models.base import ModelBase


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the configuration and the number of steps that it was trained with."""

    model: ModelBase
    train: TrainConfig
    step: int


class TrainedAs(NamedTuple):
    """What exported weights were trained as: the configuration, their role in it, and the number of steps."""

    train: TrainConfig
    role: str
    step: int

    @property
    def section(self) -> Any:
        """Return the role's section of the configuration."""
        return self.train.models[self.role]


def network_of(
    folder: Path, parallel: ParallelContext, *, step: int | None = None, weights: WeightsKind = "live", role: str = "student"
) -> TrainedNetwork:
    """Load a network from a run's directory or an exported folder; UserError where it is neither. Collective."""
    if reader.is_run(folder):
        checkpoint = reader.open_checkpoint(folder, step)
        return TrainedNetwork(restored(checkpoint, role, weights, parallel), checkpoint.config, checkpoint.step)
    training = sampled_training(folder, step, weights)
    own: Any = training.section.model_copy(
        update={"init_from": str(folder), "revision": None, "architecture": None, "lora": None, "activation_checkpointing": "none"}
        | ({"experts": {}} if hasattr(training.section, "experts") else {})
    )
    model = built(own, training.role, training.train, parallel, load_weights=True)
    models = {**training.train.models, training.role: own.model_copy(update={"init_from": None})}
    return TrainedNetwork(model, training.train.model_copy(update={"models": models}), training.step)


def sampled_training(folder: Path, step: int | None, weights: WeightsKind) -> TrainedAs:
    """Return what an exported folder's weights were trained as; UserError for a folder that holds none."""
    refuse_choice(folder, step, weights)
    training = training_of(folder)
    if training is None or not (folder / COMPONENT).is_dir():
        raise UserError(
            f"{folder} is neither a run nor a folder that can be sampled", f"a pipeline has model_index.json, an export {TRAINING}"
        )
    return training


def refuse_choice(folder: Path, step: int | None, weights: WeightsKind) -> None:
    """Raise UserError where a checkpoint or kind of weights is chosen of an exported folder, which holds one set of weights."""
    if step is not None or weights != "live":
        raise UserError(f"{folder} is no run: --step and --weights choose among a run's checkpoints", "leave them out")


def restored(checkpoint: Checkpoint, role: str, weights: WeightsKind, parallel: ParallelContext) -> ModelBase:
    """Return the role's network with a checkpoint's weights, as training and validation have it. Collective."""
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


def training_of(folder: Path) -> TrainedAs | None:
    """Return (configuration, role, step) that exported weights were trained with; None for a folder that this project did not export."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / TRAINING).is_file():
        return None
    try:
        facts = read_object(folder / TRAINING)
        train, role, step = TrainConfig.model_validate(facts["train"]), str(facts["role"]), int(facts["step"])
        return TrainedAs(_as_of(train, role, step), role, step)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder / TRAINING}: {first_line(error)}", "export again") from None


def _as_of(train: TrainConfig, role: str, step: int) -> TrainConfig:
    """Return the configuration with the sparsity of the role's attention fixed at what it was at the exported step."""
    model: Any = train.models[role]
    if not isinstance(attention := getattr(model, "attention", None), SparseAttention):
        return train
    return train.model_copy(update={"models": {**train.models, role: model.model_copy(update={"attention": attention.at(step)})}})
