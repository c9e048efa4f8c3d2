"""Owns reading a run from outside: what it was configured as, which checkpoint is meant, and its tensors. Must not change a run.

A run may go on training meanwhile: nothing is renamed or deleted here, and nothing needs a process group.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ..config import TrainConfig
from ..config.export_folder import WeightsKind
from ..config.programs import OTHER_PROGRAMS
from ..config.stored_json import read_object
from ..errors import UserError
from ..own_code import with_own_sections
from . import manifest as manifests
from . import store
from .dcp_io import SafeReader, one_line, read_metadata
from .keys import CheckpointKeys
from .manifest import BadManifest, NewerFormat

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte is as published. `config` is what the run's newest attempt was started with."""

    run: Path
    step: int
    folder: Path
    config: TrainConfig
    saved: dict[str, Any]
    """DCP's index: flat key -> sizes and types."""

    @cached_property
    def _keys(self) -> CheckpointKeys:
        return CheckpointKeys(self.saved)

    def networks(self, role: str) -> list[str]:
        """Return the networks of a role that was trained, by their folders in a pipeline; UserError for another role."""
        networks = self._keys.networks(role)
        if not networks:
            self._refuse(role, "live")
        return networks

    def names(self, role: str, weights: WeightsKind, network: str = "transformer") -> dict[str, tuple[str, torch.Size, torch.dtype]]:
        """Return, by parameter name, (key in the checkpoint, shape, type); UserError where the checkpoint has no such weights."""
        self.networks(role)  # refuses a role that was not trained
        prefix = self._keys.prefix(role, network, weights)
        named = {
            key.removeprefix(prefix): (key, entry.size, entry.properties.dtype)
            for key, entry in self.saved.items()
            if key.startswith(prefix) and hasattr(entry, "properties")
        }
        if not named:
            self._refuse(role, weights)
        return named

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return whole tensors on the CPU, by key, as they were saved."""
        state = {key: torch.empty(self.saved[key].size, dtype=self.saved[key].properties.dtype) for key in keys}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that there is no process group: we know
                dcp.load(state, storage_reader=SafeReader(self.folder), no_dist=True)
        except CheckpointException as error:  # a BaseException
            raise UserError(
                f"the checkpoint {self.folder} cannot be read: {one_line(error)}", "was it pruned just now? try again"
            ) from None
        return state

    def weights(self, role: str, weights: WeightsKind, network: str = "transformer") -> dict[str, Tensor]:
        """Return a network's weights by parameter name, all at once, on the CPU."""
        names = self.names(role, weights, network)
        read = self.read(key for key, _, _ in names.values())
        return {name: read[key] for name, (key, _, _) in names.items()}

    def _refuse(self, role: str, weights: WeightsKind) -> None:
        trained = sorted(self._keys.roles)
        if role not in trained:
            raise UserError(f"the run trained no role {role!r}", f"--role may be {' or '.join(trained)}")
        assert weights == "ema", f"a role without weights: {role}"
        raise UserError(f"step {self.step} holds no averaged weights", "--weights live, or train with callbacks.ema")


def is_run(folder: Path) -> bool:
    """Return whether this is a run's directory and not a model's."""
    return (folder / "checkpoints").is_dir() and (folder / "attempts").is_dir()


def open_checkpoint(run: Path, step: int | None = None, *, verify: bool = True) -> Checkpoint:
    """Open the checkpoint of `step`, or the newest that verifies; a damaged one that is passed over is named in the log.

    Without `verify` nothing but the index is read, to know what there is: what it returns is not to be loaded.
    """
    config = read_config(run)
    checkpoints = run / "checkpoints"
    steps = store.steps(checkpoints)
    if not steps:
        raise UserError(f"{run} has no checkpoint yet", "wait for its first one, or stop the run: it saves before it ends")
    if step is not None and step not in steps:
        raise UserError(f"{run} has no checkpoint of step {step}", f"there are: {', '.join(map(str, steps))}")
    for candidate in [step] if step is not None else reversed(steps):
        folder = store.folder_of(checkpoints, candidate)
        problem = _problem(folder) if verify else ""
        if not problem:
            return Checkpoint(run, candidate, folder, config, dict(read_metadata(folder).state_dict_metadata))
        log.warning("the checkpoint of step %d is damaged: %s", candidate, problem)
        if step is not None:
            raise UserError(f"the checkpoint of step {step} is damaged: {problem}", f"there are: {', '.join(map(str, steps))}")
    raise UserError(f"none of the checkpoints in {checkpoints} verifies: {', '.join(map(str, steps))}", "restore one from a copy")


def read_config(run: Path) -> TrainConfig:
    """Return the configuration that the run's newest attempt was started with; UserError where the folder is no training run."""
    started = sorted((run / "attempts").glob("*.config.json"))
    if not started:
        raise UserError(f"{run} is not the directory of a run that has started: no attempts/*.config.json", "give a run, or a model folder")
    try:
        content = read_object(started[-1])
        if isinstance(content, dict) and (program := next((name for name in OTHER_PROGRAMS if name in content), None)):
            raise UserError(f"{run} trained nothing: it is a job of `{program}`", "give the run of a training recipe")
        return with_own_sections(TrainConfig.model_validate(content.get("train", content)), run)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{started[-1]} does not fit this version: {where}: {first['msg']}", "use the version that the run was made with"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {started[-1]}: {error}") from None


def _problem(folder: Path) -> str:
    try:
        manifest = manifests.read(folder)
        wrong = manifests.wrong_files(folder, manifest, sorted(manifest.files))
    except (BadManifest, NewerFormat) as error:
        return str(error)
    except OSError as error:
        raise UserError(f"the checkpoint {folder} cannot be read: {error.strerror}", "was it pruned just now? try again") from None
    return "; ".join(wrong[:3])
