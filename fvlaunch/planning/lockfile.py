"""Owns the `lock` of run.yaml: what code, versions, models and data a run was made with, and what differs from them now.

Must not change what it looks at. What lies inside a container, or is made on first use, is left out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.config import hub_cache, trajectory_metadata

from ..config import own_files
from ..config.schema import Recipe
from ..config.strict_yaml import read
from ..errors import FvlaunchError
from ..runs import code_snapshot
from ..runs.directory import Run
from ..schedulers.registry import scheduler
from .plan import Plan, in_container

_VERSIONS = ("fvlaunch", "torch", "diffusers", "transformers", "peft", "submitit", "pyarrow", "safetensors")
_COMPARED = ("git", "code", "versions", "models", "data", "site")
_MAX_FILES = 5000


def make(plan: Plan, request: dict[str, Any], run: Run | None = None) -> dict[str, Any]:
    """Return the lock: what it would take to get the same run again. `run`: its directory, where the copy of the code is."""
    code = code_snapshot.source_root() if run is None else code_snapshot.code_folder(run)
    return {
        "recipe": plan.recipe_name,
        "cluster": plan.cluster_name,
        "submitted": _now(),
        "asked": request,
        "git": code_snapshot.git_state(code),
        "code": code_snapshot.digest(code, own_code(plan, run)),
        "versions": {"python": platform.python_version()} | {name: version for name in _VERSIONS if (version := _version(name))},
        "site": _site(plan),
        "paths": plan.path_texts,
        **_inputs(plan),
    }


def own_code(plan: Plan, run: Run | None) -> dict[str, Path]:
    """Return by name the user's own files, and what they import: the run's copies, or where it has none what would be copied."""
    copies = code_snapshot.own_copies(run) if run is not None else {}
    return copies or own_files.all_copies(plan.recipe.get("train") or {}, plan.own_copies)


def renewed(run: Run, plan: Plan, generation: int) -> dict[str, Any]:
    """Return the lock of a run that goes on: its code stays as it was submitted; its cluster, models and data are looked at again."""
    before = of_file(run.config_file)
    again = {
        "cluster": plan.cluster_name,
        "site": _site(plan),
        "paths": plan.path_texts,
        **_inputs(plan),
        "resumed": _now(),
        "resumed_from": generation,
    }
    if not before:
        return {**make(plan, {}, run), "resumed_from": generation}
    if isinstance(code := before.get("code"), dict):  # an own file is what the run goes on with, whoever has changed the copy
        again["code"] = {"sha256": code.get("sha256"), **own_files.digests(own_code(plan, run))}
    return {**before, **again}


def of_file(path: Path) -> dict[str, Any]:
    """Return the lock of a run.yaml; empty where there is none that can be read."""
    try:
        value = read(path).plain
    except (FvlaunchError, OSError):
        return {}
    lock = value.get("lock") if isinstance(value, dict) else None
    return lock if isinstance(lock, dict) else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what is not as it was, one line each; what either lock does not know is left out."""
    lines = []
    for part in _COMPARED:
        old, new = dict(_leaves(before.get(part), part)), dict(_leaves(now.get(part), part))
        lines += [f"{key} {_short(old[key])} -> {_short(new[key])}" for key in old if key in new and old[key] != new[key]]
    return lines


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif value is not None:
        yield path, value


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) in (40, 64) else str(value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(name: str) -> str | None:
    """Return a package's version from the first lines of its metadata: parsing eight packages' whole takes as long as asking Slurm."""
    try:
        text = importlib.metadata.distribution(name).read_text("METADATA") or ""
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Version:")), None)


def _site(plan: Plan) -> dict[str, Any]:
    """Return facts of the cluster that numbers can depend on."""
    return {"executor": plan.executor, "machine": platform.machine(), **scheduler(plan.executor).site_facts()}


# --- models and data


def moved_inputs(lock: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys of a train block whose folders moved but hold the same: data by names and sizes, models by digest."""
    moved = []
    old, new = (train.get("data", {}).get("path") for train in (before, after))
    known = (lock.get("data") or {}).get(old) if isinstance(old, str) else None
    if isinstance(new, str) and known and "names_sha256" in known and _folder(Path(new)) == known:
        moved.append("data.path")
    weights_before = _weights(before)
    for key, reference in _weights(after).items():
        kept = (lock.get("models") or {}).get(weights_before.get(key))
        if kept is not None and kept == _model(reference, None):
            moved.append(key)
    return moved


def _weights(train: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted key -> reference for all that a train block's roles, and the experts of a role, start from."""
    weights: dict[str, str] = {}
    for role, model in (train.get("models") or {}).items():
        sections = {f"models.{role}": model}
        sections |= {f"models.{role}.experts.{name}": expert for name, expert in (model.get("experts") or {}).items()}
        weights |= {f"{key}.init_from": section["init_from"] for key, section in sections.items() if section.get("init_from")}
    return weights


def _inputs(plan: Plan) -> dict[str, Any]:
    """Return `models` by reference and `data` by folder, as far as this machine can see them."""
    if in_container(plan.srun_args):
        return {"models": {}, "data": {}}
    recipe = Recipe.model_validate(plan.recipe)
    models = {reference: content for reference, revision in _references(recipe) if (content := _model(reference, revision))}
    folders = {folder: content for folder in _folders(recipe) if (content := _folder(Path(folder)))}
    return {"models": models, "data": folders}


def _references(recipe: Recipe) -> Iterator[tuple[str, str | None]]:
    for section in recipe.train.models.values() if recipe.train is not None else ():
        for one in (section, *getattr(section, "experts", {}).values()):
            if reference := getattr(one, "init_from", None):
                yield reference, getattr(one, "revision", None)
    block: Any = recipe.preprocess
    if block is not None and getattr(block, "model", None):
        yield block.model, getattr(block, "revision", None)


def _model(reference: str, revision: str | None) -> dict[str, str] | None:
    """Return the commit of a downloaded model, or a digest of a folder's weights."""
    try:
        if hub_cache.is_id(reference) and not Path(reference).is_dir():
            name = revision or "main"
            kept = hub_cache.storage("model", reference) / "refs" / name
            return {"commit": kept.read_text().strip() if kept.is_file() else name} if kept.is_file() or revision else None
        return {"sha256": trajectory_metadata.teacher_digest(Path(reference))} if Path(reference).is_dir() else None
    except OSError:
        return None


def _folders(recipe: Recipe) -> Iterator[str]:
    if recipe.train is not None:
        yield from recipe.train.data.folders
    source = getattr(recipe.preprocess, "source", None)
    if source is not None:
        yield source


def _folder(place: Path) -> dict[str, Any] | None:
    """Return a digest of the names and sizes of a data folder's files, or of the one file; of very many (clips to preprocess) only that
    they are many."""
    paths = [place] if place.is_file() else list(itertools.islice(_files(place), _MAX_FILES + 1))
    if len(paths) > _MAX_FILES:
        return {"files": f"more than {_MAX_FILES}"}
    digest, count, size = hashlib.sha256(), 0, 0
    for path in sorted(paths):
        if path.is_file():
            length = path.stat().st_size
            digest.update(f"{path.relative_to(place if place.is_dir() else place.parent)} {length}\n".encode())
            count, size = count + 1, size + length
    return {"files": count, "bytes": size, "names_sha256": digest.hexdigest()} if count else None


def _files(folder: Path) -> Iterator[Path]:
    """Yield what lies below a folder, hidden files too; links to folders are followed, each folder is entered once."""
    seen: set[tuple[int, int]] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(parent) / name for name in names)
