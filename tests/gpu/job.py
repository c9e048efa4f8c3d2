"""Owns what one simulation is given: a recipe at a world size as the train block of one rank, and folders that say what the models' sizes
are and hold nothing else.

Must not import torch: the process that simulates gets it as a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from fvlaunch.config.compose import compose
from tests.support.paths import ROOT
from trainers.config import TrainConfig, check
from trainers.config.models.wan import WanArchitecture
from trainers.config.network_size import architecture_of

PRESETS = (
    "finetune", "dfsft", "lora", "kd", "kd-causal", "dmd2", "dmd2-vsa", "self-forcing", "finetune-a14b", "lora-a14b", "kd-14b",
    "kd-causal-a14b", "dmd2-14b", "dmd2-vsa-14b", "self-forcing-a14b",
)  # fmt: skip
"""The recipes of real size that train, the smaller model's first."""
_CODE = ("methods", "models", "diffusion", "distributed", "optim", "training/trainer.py", "seeding.py")
"""The trainers' code on which figures depend."""
JOB, FIGURES, SAID = "job.json", "figures.json", "stderr"
"""The files of a job's folder: the job itself, what was measured, and what the rank said."""
_EXPERTS = ("transformer", "transformer_2")


class NoJob(Exception):
    """A recipe that cannot be simulated; the argument says why."""


@dataclass(frozen=True)
class Job:
    """One rank's work, as plain data."""

    preset: str
    ranks: int
    train: dict[str, Any]
    """A train block that parses to a TrainConfig."""
    text_dim: int
    channels: int
    digests: dict[str, str]
    """Of the configuration, before its models were moved, and of the code that it runs."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))


def make(preset: str, folder: Path, *, ranks: int | None = None, sets: Sequence[str] = (), layers: int | None = None) -> Job:
    """Compose a recipe and write into `folder` what the trainer reads of it beside the configuration. `layers`: blocks of each network, in
    place of its own number. NoJob where it does not train, contradicts itself, or has a model of unknown size."""
    composed = compose(preset, "local", sets=sets)
    if composed.recipe.train is None:
        raise NoJob(f"{preset} does not train")
    ranks = ranks or composed.recipe.resources.ranks
    train = json.loads(json.dumps(composed.recipe_data["train"], default=str))
    text = json.dumps({"train": train, "ranks": ranks, "layers": layers}, sort_keys=True).replace(str(Path.cwd()), ".")
    architecture = _with_models(train, folder / "models", layers)
    _without_surroundings(train)
    _with_prompts(train, folder / "data", architecture.text_dim)
    _check(preset, train, ranks)
    digests = {"config": hashlib.sha256(text.encode()).hexdigest()[:16], "code": code_digest()}
    return Job(preset, ranks, train, architecture.text_dim, architecture.in_channels, digests)


def code_digest(root: Path = ROOT / "trainers") -> str:
    """Return a digest of the trainers' code that a step runs."""
    digest = hashlib.sha256()
    for path in sorted(file for name in _CODE for file in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _with_models(train: dict[str, Any], folder: Path, layers: int | None) -> WanArchitecture:
    """Put folders of config.json in the place of models that are not here; return the student's architecture."""
    made: dict[str, WanArchitecture] = {}
    for section in (part for model in train["models"].values() for part in _sections(model)):
        if reference := section.get("init_from"):
            architecture = _architecture(reference, section.get("revision"), layers)
            section |= {"init_from": str(_write_model(folder, reference, architecture)), "revision": None}
            made[section["init_from"]] = architecture
        elif section.get("architecture") and layers:
            section["architecture"]["num_layers"] = layers
    student = train["models"]["student"]
    return made.get(student.get("init_from")) or WanArchitecture.model_validate(student.get("architecture") or {})


def _sections(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a role's section that may name a model: its own, and those of its experts."""
    yield model
    yield from (model.get("experts") or {}).values()


def _architecture(reference: str, revision: str | None, layers: int | None) -> WanArchitecture:
    architecture = architecture_of(reference, revision)
    if architecture is None:
        raise NoJob(f"the size of {reference} is not known here: neither a folder with its config.json nor a name that tells it")
    return architecture.model_copy(update={"num_layers": layers}) if layers else architecture


def _write_model(folder: Path, reference: str, architecture: WanArchitecture) -> Path:
    """Write a pipeline of one or two networks without weights, and return its folder. What an export says of its attention is kept."""
    pipeline = folder / f"{Path(reference).name}-{hashlib.sha256(reference.encode()).hexdigest()[:8]}"
    for name in _EXPERTS:
        (pipeline / name).mkdir(parents=True, exist_ok=True)
        content = {"_class_name": "WanTransformer3DModel", **architecture.model_dump(mode="json"), **_note(Path(reference), name)}
        (pipeline / name / "config.json").write_text(json.dumps(content))
    return pipeline


def _note(reference: Path, name: str) -> dict[str, Any]:
    """Return what a local export says of itself in config.json, under keys that diffusers ignores."""
    place = next((path for path in (reference / name / "config.json", reference / "config.json") if path.is_file()), None)
    content = json.loads(place.read_text()) if place else {}
    return {key: value for key, value in content.items() if key.startswith("_") and key not in ("_class_name", "_diffusers_version")}


def _without_surroundings(train: dict[str, Any]) -> None:
    """Leave out what surrounds the steps, and the one look at a model folder that is more than its config.json."""
    train["callbacks"]["validation"] = None
    train["tracking"] = {"tensorboard": False}
    if "require_causal_start" in train["method"]:
        train["method"]["require_causal_start"] = False


def _with_prompts(train: dict[str, Any], folder: Path, text_dim: int) -> None:
    """Give the run a data folder that holds the empty and the negative prompt alone."""
    folder.mkdir(parents=True, exist_ok=True)
    prompt = np.zeros((8, text_dim), dtype=np.float32)
    safetensors.numpy.save_file({"empty": prompt, "negative": prompt.copy()}, folder / "prompts.safetensors")
    train["data"] |= {"path": str(folder), "source": None, "prepare": None}


def _check(preset: str, train: dict[str, Any], ranks: int) -> None:
    try:
        config = TypeAdapter(TrainConfig).validate_python(train)
    except ValidationError as error:
        raise NoJob("; ".join(f"train.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    if wrong := check(config, ranks):
        raise NoJob("; ".join(f"{preset}: train.{'.'.join(map(str, p.path))}: {p.message}" for p in wrong))
