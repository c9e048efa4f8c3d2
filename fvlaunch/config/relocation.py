"""Owns what lets a run go on at another cluster: which of its values were written with `${paths.x}`, so that they resolve there. Pure.

run.yaml holds what they resolved to; its lock's `paths` remembers how they were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import Place
from .strict_yaml import Node

_MARK = "${paths."


def written(values: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Dotted key -> text with `${paths.x}` in it, or the whole mapping whose keys are such texts."""
    if isinstance(values, str):
        return {".".join(path): values} if _MARK in values else {}
    if not isinstance(values, dict):
        return {}
    if any(_MARK in str(key) for key in values):
        return {".".join(path): values}
    return {k: v for key, item in values.items() if "." not in str(key) for k, v in written(item, (*path, str(key))).items()}


def inherited(values: Any, lock: Mapping[str, Any], origins: Mapping[tuple[Any, ...], str]) -> dict[str, Any]:
    """Return what `written` does, and what a run.yaml remembers and nobody has --set to something else."""
    known = lock.get("paths")
    kept = {key: text for key, text in known.items() if _origin(key, origins) != "--set"} if isinstance(known, dict) else {}
    return {**kept, **written(values)}


def _origin(key: str, origins: Mapping[tuple[Any, ...], str]) -> str:
    path = tuple(key.split("."))
    return next((origin for at, origin in origins.items() if at[: len(path)] == path), "")


def put_back(recipe: Node, lock: Any, place: Place) -> Node:
    """Return the recipe of a run.yaml as it was written: for a cluster other than the one it was resolved on."""
    known = lock.get("paths") if isinstance(lock, dict) else None
    for key, text in known.items() if isinstance(known, dict) else ():
        recipe = _with(recipe, str(key).split("."), text, place)
    return recipe


def _with(node: Node, path: list[str], value: Any, place: Place) -> Node:
    if not isinstance(node.value, dict) or path[0] not in node.value:
        return node
    below = _node(value, place) if len(path) == 1 else _with(node.value[path[0]], path[1:], value, place)
    return replace(node, value={**node.value, path[0]: below})


def _node(value: Any, place: Place) -> Node:
    return Node({key: _node(item, place) for key, item in value.items()} if isinstance(value, dict) else value, place)


def agreeing(before: Any, after: Any, keys: Iterable[str]) -> Any:
    """Return `before` with the values of `after` at these dotted keys: what may differ, since the folders moved."""
    for key in keys:
        before = _taken(before, after, key.split("."))
    return before


def _taken(before: Any, after: Any, path: list[str]) -> Any:
    if not isinstance(before, dict) or not isinstance(after, dict) or path[0] not in before or path[0] not in after:
        return before
    value = after[path[0]] if len(path) == 1 else _taken(before[path[0]], after[path[0]], path[1:])
    return {**before, path[0]: value}
