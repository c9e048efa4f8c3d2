"""Owns which values of a recipe and a cluster are folders, and makes them absolute. Must not look whether they exist."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import Problem
from .strict_yaml import Node
from .values import Substitution


def environment() -> dict[str, str]:
    """Return the shell's environment, with USER and HOME even where a daemon or a container has not set them."""
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:  # an account that only exists outside the container
        return dict(os.environ)
    return {"USER": user.pw_name, "HOME": user.pw_dir, **os.environ}


def named(cluster: Node, cwd: Path, environment: Mapping[str, str]) -> tuple[Node, dict[str, str], list[Problem]]:
    """Resolve `paths`, the named folders: absolute; they may hold environment variables, but not each other."""
    block = cluster.value.get("paths")
    if block is None or not isinstance(block.value, dict):
        return cluster, {}, []
    substitution = Substitution({}, environment, "cluster")
    kept = {key: item for key, item in block.value.items() if item.value is not None}
    block = substitution.apply(replace(block, value=kept), ("paths",))
    block = replace(block, value={key: _absolute(item, cwd) for key, item in block.value.items()})
    found = {key: item.value for key, item in block.value.items() if isinstance(item.value, str)}
    return replace(cluster, value={**cluster.value, "paths": block}), found, substitution.problems


def cluster_folders(cluster: Node, cwd: Path) -> Node:
    """Put runs_dir, and an interpreter that is not just a name, under the working directory; notify's program beside its profile."""
    values = dict(cluster.value)
    if "notify" in values and isinstance(values["notify"].value, dict) and "command" in values["notify"].value:
        notify = values["notify"]
        values["notify"] = replace(notify, value={**notify.value, "command": _beside_profile(notify.value["command"], cwd)})
    for key in ("runs_dir", "python"):
        if key in values and isinstance(values[key].value, str) and (key == "runs_dir" or "/" in values[key].value):
            values[key] = _absolute(values[key], cwd)
    return replace(cluster, value=values)


def _beside_profile(command: Node, cwd: Path) -> Node:
    """Return notify's command with its program, and the files among its arguments, as absolute paths: it runs in the run directory.

    What begins with ./, ../ or ~/ lies relative to the file that the command is written in; --set has the working directory.
    """
    if isinstance(command.value, str):
        try:
            words = shlex.split(command.value)
        except ValueError:  # told when it is typed
            return command
        command = replace(command, value=[replace(command, value=word) for word in words])
    if not isinstance(command.value, list):
        return command
    folder = (cwd / command.place.file).parent if command.place.line else cwd
    made = []
    for number, word in enumerate(command.value):
        text = word.value if isinstance(word.value, str) else ""
        meant = "/" in text if number == 0 else text.startswith(("./", "../", "~/")) and _absolute_text(text, folder).exists()
        made.append(replace(word, value=str(_absolute_text(text, folder))) if meant else word)
    return replace(command, value=made)


def _absolute_text(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / os.path.expanduser(text)))  # noqa: PTH111


def recipe_folders(recipe: Node, cwd: Path) -> Node:
    """Put data and local weights under the working directory: a rank works somewhere else."""
    recipe = _changed(recipe, ("train", "data", "path"), cwd, always=True)
    recipe = _changed(recipe, ("train", "data", "source"), cwd, own=True)
    recipe = _changed(recipe, ("train", "method", "kind"), cwd, own=True)
    recipe = _changed(recipe, ("train", "method", "cache"), cwd, always=True)
    recipe = _changed(recipe, ("preprocess", "output"), cwd, always=True)
    for key in ("source", "model"):
        recipe = _changed(recipe, ("preprocess", key), cwd, if_there=True)
    for role in _names(recipe, "train", "models"):
        recipe = _changed(recipe, ("train", "models", role, "family"), cwd, own=True)
        recipe = _changed(recipe, ("train", "models", role, "init_from"), cwd)
        for expert in ("transformer", "transformer_2"):
            recipe = _changed(recipe, ("train", "models", role, "experts", expert, "init_from"), cwd)
    recipe = _changed(recipe, ("train", "callbacks", "validation", "loss", "path"), cwd, always=True)
    recipe = _changed(recipe, ("train", "callbacks", "validation", "model"), cwd)
    for key in ("run", "to"):
        recipe = _changed(recipe, ("export", key), cwd, always=True)
    for row in _names(recipe, "evaluate", "rows"):
        recipe = _changed(recipe, ("evaluate", "rows", row, "source"), cwd, always=True)
    return recipe


def _names(recipe: Node, block: str, mapping: str) -> list[str]:
    found = recipe.value.get(block)
    items = found.value.get(mapping) if found is not None and isinstance(found.value, dict) else None
    return list(items.value) if items is not None and isinstance(items.value, dict) else []


def _changed(node: Node, path: tuple[str, ...], cwd: Path, *, always: bool = False, if_there: bool = False, own: bool = False) -> Node:
    """Return the tree with a file's name made absolute; what is not plainly a path (a Hub id) stays, unless `always` or it is there.

    `own`: it is one where it names a class of a user's file, file.py:ClassName.
    """
    if not path:
        if always and isinstance(node.value, dict):  # {folder: how often}
            return replace(node, value={str(_absolute(replace(node, value=key), cwd).value): item for key, item in node.value.items()})
        text = node.value if isinstance(node.value, str) else ""
        is_path = (
            always or text.startswith(("./", "../", "~/")) or (own and ":" in text) or (if_there and bool(text) and (cwd / text).exists())
        )
        return _absolute(node, cwd) if is_path else node
    if not isinstance(node.value, dict) or path[0] not in node.value:
        return node
    changed = _changed(node.value[path[0]], path[1:], cwd, always=always, if_there=if_there, own=own)
    return replace(node, value={**node.value, path[0]: changed})


def _absolute(node: Node, cwd: Path) -> Node:
    """Put a relative path under the working directory; `~` is the user's home."""
    if not isinstance(node.value, str) or not node.value or "${" in node.value:
        return node
    return replace(node, value=os.path.normpath(cwd / os.path.expanduser(node.value)))  # noqa: PTH111
