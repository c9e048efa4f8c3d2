"""Owns a whole exported folder: weights, configuration, scheduler, model card; published by rename. Must not change the run."""

from __future__ import annotations

import json
import os
import shutil
import stat
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...checkpointing.reader import Checkpoint
from ...checkpointing.step_names import step_of
from ...config import denoising_steps
from ...config.discovery import is_own
from ...config.export_folder import COMPONENT, LORA_FILE, TRAINING
from ...config.os_errors import explain
from ...config.stored_json import read_object
from ...config.validation import ValidationConfig
from ...diffusion.samplers import few_step_solver, solver, unshifted_sigmas
from ...errors import UserError, first_line
from ...files import check_writable, new_folder, publish_folder, usual_mode
from ...own_code import with_built_in_sections
from .model_card import Card, FewSteps, without_paths
from .weights import ExportRequest, write_adapter, write_transformer

_LINK_BYTES = 1 << 20
"""Size in bytes from which a file of the base model is linked; smaller ones are copied, for a link shares later edits."""
_OWN = {COMPONENT, "scheduler", "README.md", TRAINING, LORA_FILE}
_DEFAULT_PROMPT = "a cat walks on the grass"


def export(request: ExportRequest) -> Path:
    """Make the folder `request.to` and return it; UserError where it exists already or something is missing."""
    check(request)
    target = request.to.absolute()
    try:
        with new_folder(target) as temporary:
            _fill(temporary, request)
            publish_folder(temporary, target)
    except OSError as error:
        refusal = explain(error)
        words = refusal.message if refusal is not None else error.strerror or error
        raise UserError(f"cannot write {target}: {words}", "--to needs a folder on a disk with room") from error
    return request.to


def check(request: ExportRequest) -> None:
    """Raise UserError for what can be known before any weights are read: the folder, the role and which of its weights there are."""
    if request.to.exists() or request.to.is_symlink():
        raise UserError(f"{request.to} exists already", "nothing is ever overwritten: give another folder, or remove it")
    if wrong := next((path for path in request.to.absolute().parents if path.exists() and not path.is_dir()), None):
        raise UserError(f"cannot write {request.to.absolute()}: {wrong} is a file", "give another --to")
    check_writable(request.to.parent)
    _refuse_foreign(request)
    for one in request.each:
        request.checkpoint.names(one.role, one.weights, one.network)  # fails early
    if request.merge and request.model.lora is None:
        raise UserError(f"{request.role!r} was trained without LoRA: there is nothing to merge", "leave out --merge")


def _refuse_foreign(request: ExportRequest) -> None:
    """A network that is no Wan has no folder that stock diffusers loads."""
    plain: Any = with_built_in_sections(request.checkpoint.config).models.get(request.role)
    if is_own(str(getattr(plain, "family", ""))):
        hint = "trainers.checkpointing.reader.open_checkpoint(RUN).weights(ROLE, 'live') reads its weights, 'ema' their averages"
        raise UserError(f"the family {plain.family} is not derived from a Wan: there is no folder of it that diffusers loads", hint)


def _fill(folder: Path, request: ExportRequest) -> None:
    if request.adapter_only:
        for one in request.each:
            write_adapter(folder, one)
    else:
        for one in request.each:
            write_transformer(folder / one.network, one)
        _scheduler(request).save_pretrained(folder / "scheduler")
        if request.kind == "pipeline":
            _take_rest(request, folder)
    _write_texts(folder, request)


# --- the rest


def _sampling(request: ExportRequest) -> ValidationConfig:
    """Return how the run's validation samples; for other roles than the student the defaults of a network of many steps."""
    train = request.checkpoint.config
    return train.sampling() if request.role == "student" else ValidationConfig().filled(None)


def _scheduler(request: ExportRequest) -> Any:
    """Return the scheduler with which a stock pipeline samples as the run's validation does.

    A pipeline of a few-step student must be given its timesteps, too.
    """
    sampling, shift = _sampling(request), request.checkpoint.config.flow_shift
    if sampling.timesteps is not None:
        return few_step_solver(sampling.timesteps, shift, stochastic=sampling.solver == "sde")
    kind: Any = sampling.solver
    return solver(kind, sampling.flow_shift or shift)


def _take_rest(request: ExportRequest, folder: Path) -> None:
    """Take over every file of the base pipeline that is not replaced."""
    base, written = request.base, {one.network for one in request.each}
    assert base is not None
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_dir() or relative.parts[0] in _OWN | written or any(part.startswith(".") for part in relative.parts):
            continue
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path.resolve(), folder / relative)
    try:
        index = read_object(folder / "model_index.json")
        index["scheduler"] = ["diffusers", read_object(folder / "scheduler/scheduler_config.json")["_class_name"]]
    except (ValueError, LookupError) as error:
        raise UserError(f"the pipeline in {base} is damaged: its model_index.json or scheduler: {first_line(error)}") from None
    if len(written) > 1:
        index |= {name: ["diffusers", "WanTransformer3DModel"] for name in written} | {"boundary_ratio": request.section.boundary_ratio}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _link_or_copy(path: Path, to: Path) -> None:
    if path.stat().st_size >= _LINK_BYTES and stat.S_IMODE(path.stat().st_mode) == usual_mode(path):
        with suppress(OSError):  # another file system, or not ours to link
            os.link(path, to)
            return
    shutil.copyfile(path, to)


def _write_texts(folder: Path, request: ExportRequest) -> None:
    train = without_paths(with_built_in_sections(request.checkpoint.config).resolved())
    facts = {
        "format": 1,
        "step": request.checkpoint.step,
        "role": request.role,
        "weights": request.weights,
        "sampling": _sampling_facts(request),
        "versions": _versions(),
        "train": train,
    }
    (folder / TRAINING).write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "README.md").write_text(_card(folder, request, train).text())


def _sampling_facts(request: ExportRequest) -> dict[str, Any]:
    """Return, as plain numbers, what the weights are to be sampled with."""
    sampling = _sampling(request)
    shift = sampling.flow_shift or request.checkpoint.config.flow_shift
    facts = {name: getattr(sampling, name) for name in ("solver", "num_steps", "timesteps", "guidance_scale")}
    sigmas = None if sampling.timesteps is None else [round(s, 6) for s in denoising_steps.sigmas(sampling.timesteps, shift)]
    return {**facts, "sigmas": sigmas, "flow_shift": shift}


def _card(folder: Path, request: ExportRequest, train: dict[str, Any]) -> Card:
    validation = _sampling(request)
    assert validation.num_steps is not None and validation.guidance_scale is not None
    base = request.section.init_from
    return Card(
        name=request.to.name, kind=request.kind, folder=request.hub_id or str(request.to), base=base, step=request.checkpoint.step,
        weights=request.weights, role=request.role, train=train, versions=_versions(), prompt=(validation.prompts or [_DEFAULT_PROMPT])[0],
        num_steps=validation.num_steps, guidance_scale=validation.guidance_scale, fps=validation.fps,
        sample=_sample(folder, request.checkpoint), few_steps=_few_steps(request), sparse=request.attention is not None,
        networks=[one.network for one in request.each],
    )  # fmt: skip


def _few_steps(request: ExportRequest) -> FewSteps | None:
    sampling, shift = _sampling(request), request.checkpoint.config.flow_shift
    if sampling.timesteps is None:
        return None
    return FewSteps(sampling.timesteps, unshifted_sigmas(sampling.timesteps, shift), shift, stochastic=sampling.solver == "sde")


def _sample(folder: Path, checkpoint: Checkpoint) -> str | None:
    """Copy the run's newest validation video up to this step beside the card and return its name; None where there is none."""
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
    """Upload to the Hugging Face hub and return the address; a repository that has to be made is private."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(hub_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message=f"Upload {folder.name}")
    except Exception as error:  # whatever the network or the hub says; the folder is here
        line = first_line(error)
        raise UserError(f"{folder} is exported, but the upload to {hub_id} failed: {line}", f"hf upload {hub_id} {folder}") from None
    return str(address)
