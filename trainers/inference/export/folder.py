"""Owns a whole exported folder: weights, configuration, scheduler, model card; published by rename. Must not change the run."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...checkpointing.reader import Checkpoint
from ...checkpointing.step_names import step_of
from ...config import denoising_steps
from ...config.discovery import is_own
from ...config.export_folder import COMPONENT, LORA_FILE, TRAINING
from ...config.validation import ValidationConfig
from ...diffusion.samplers import few_step_solver, solver, unshifted_sigmas
from ...errors import UserError, first_line
from ...files import new_folder, publish_folder
from ...own_code import with_built_in_sections
from .model_card import Card, FewSteps, without_paths
from .weights import ExportRequest, write_adapter, write_transformer

_LINK_BYTES = 1 << 20
"""Smaller files are copied: a link shares later edits with the base model."""
_OWN = {COMPONENT, "scheduler", "README.md", TRAINING, LORA_FILE}
_DEFAULT_PROMPT = "a cat walks on the grass"


def export(asked: ExportRequest) -> Path:
    """Make `asked.to`; UserError where it exists already or something is missing."""
    if asked.to.exists() or asked.to.is_symlink():
        raise UserError(f"{asked.to} exists already", "nothing is ever overwritten: give another folder, or remove it")
    _refuse_foreign(asked)
    for one in asked.each:
        asked.checkpoint.names(one.role, one.weights, one.network)  # fails early
    if asked.merge and asked.model.lora is None:
        raise UserError(f"{asked.role!r} was trained without LoRA: there is nothing to merge", "leave out --merge")
    target = asked.to.absolute()
    try:
        with new_folder(target) as temporary:
            _fill(temporary, asked)
            publish_folder(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}", "--to needs a folder on a disk with room") from error
    return asked.to


def _refuse_foreign(asked: ExportRequest) -> None:
    """A network that is no Wan has no folder that stock diffusers loads."""
    plain: Any = with_built_in_sections(asked.checkpoint.config).models.get(asked.role)
    if is_own(str(getattr(plain, "family", ""))):
        hint = "trainers.checkpointing.reader.open_checkpoint(RUN).weights(ROLE, 'live') reads its weights, 'ema' their averages"
        raise UserError(f"the family {plain.family} is not derived from a Wan: there is no folder of it that diffusers loads", hint)


def _fill(folder: Path, asked: ExportRequest) -> None:
    if asked.adapter_only:
        for one in asked.each:
            write_adapter(folder, one)
    else:
        for one in asked.each:
            write_transformer(folder / one.network, one)
        _scheduler(asked).save_pretrained(folder / "scheduler")
        if asked.kind == "pipeline":
            _take_rest(asked, folder)
    _write_texts(folder, asked)


# --- the rest


def _sampling(asked: ExportRequest) -> ValidationConfig:
    """As the run's validation samples; other roles than the student as any many-step network."""
    train = asked.checkpoint.config
    return train.sampling() if asked.role == "student" else ValidationConfig().filled(None)


def _scheduler(asked: ExportRequest) -> Any:
    """What makes a stock pipeline sample as the run's validation does; a few-step student's timesteps must be given to it, too."""
    found, shift = _sampling(asked), asked.checkpoint.config.flow_shift
    if found.timesteps is not None:
        return few_step_solver(found.timesteps, shift, stochastic=found.solver == "sde")
    kind: Any = found.solver
    return solver(kind, found.flow_shift or shift)


def _take_rest(asked: ExportRequest, folder: Path) -> None:
    """Everything of the base pipeline that is not replaced."""
    base, written = asked.base, {one.network for one in asked.each}
    assert base is not None
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_dir() or relative.parts[0] in _OWN | written or any(part.startswith(".") for part in relative.parts):
            continue
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path.resolve(), folder / relative)
    index = json.loads((folder / "model_index.json").read_text())
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if len(written) > 1:
        index |= {name: ["diffusers", "WanTransformer3DModel"] for name in written} | {"boundary_ratio": asked.section.boundary_ratio}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _link_or_copy(path: Path, to: Path) -> None:
    if path.stat().st_size >= _LINK_BYTES:
        with suppress(OSError):  # another file system, or not ours to link
            os.link(path, to)
            return
    shutil.copyfile(path, to)


def _write_texts(folder: Path, asked: ExportRequest) -> None:
    train = without_paths(with_built_in_sections(asked.checkpoint.config).resolved())
    facts = {
        "format": 1,
        "step": asked.checkpoint.step,
        "role": asked.role,
        "weights": asked.weights,
        "sampling": _told_sampling(asked),
        "versions": _versions(),
        "train": train,
    }
    (folder / TRAINING).write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "README.md").write_text(_card(folder, asked, train).text())


def _told_sampling(asked: ExportRequest) -> dict[str, Any]:
    """In plain numbers what the weights are to be sampled with."""
    found = _sampling(asked)
    shift = found.flow_shift or asked.checkpoint.config.flow_shift
    told = {name: getattr(found, name) for name in ("solver", "num_steps", "timesteps", "guidance_scale")}
    sigmas = None if found.timesteps is None else [round(s, 6) for s in denoising_steps.sigmas(found.timesteps, shift)]
    return {**told, "sigmas": sigmas, "flow_shift": shift}


def _card(folder: Path, asked: ExportRequest, train: dict[str, Any]) -> Card:
    validation = _sampling(asked)
    assert validation.num_steps is not None and validation.guidance_scale is not None
    base = asked.section.init_from
    return Card(
        name=asked.to.name, kind=asked.kind, folder=asked.hub_id or str(asked.to), base=base, step=asked.checkpoint.step,
        weights=asked.weights, role=asked.role, train=train, versions=_versions(), prompt=(validation.prompts or [_DEFAULT_PROMPT])[0],
        num_steps=validation.num_steps, guidance_scale=validation.guidance_scale, fps=validation.fps,
        sample=_sample(folder, asked.checkpoint), few_steps=_few_steps(asked), sparse=asked.attention is not None,
        networks=[one.network for one in asked.each],
    )  # fmt: skip


def _few_steps(asked: ExportRequest) -> FewSteps | None:
    found, shift = _sampling(asked), asked.checkpoint.config.flow_shift
    if found.timesteps is None:
        return None
    return FewSteps(found.timesteps, unshifted_sigmas(found.timesteps, shift), shift, stochastic=found.solver == "sde")


def _sample(folder: Path, checkpoint: Checkpoint) -> str | None:
    """The run's newest validation video up to this step, beside the card."""
    videos = sorted(checkpoint.run.glob("samples/step-*/*.mp4"))
    fitting = [path for path in videos if (step := step_of(path.parent.name)) is not None and step <= checkpoint.step]
    newest = [path for path in fitting if path.parent == fitting[-1].parent]
    if not newest:
        return None
    shutil.copyfile(newest[0], folder / "sample.mp4")
    return "sample.mp4"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "diffusers", "safetensors")}


def push(folder: Path, hub_id: str) -> str:
    """Upload to the Hugging Face hub; a repository that has to be made is private. Its address."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(hub_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message=f"Upload {folder.name}")
    except Exception as error:  # whatever the network or the hub says; the folder is here
        line = first_line(error)
        raise UserError(f"{folder} is exported, but the upload to {hub_id} failed: {line}", f"hf upload {hub_id} {folder}") from None
    return str(address)
