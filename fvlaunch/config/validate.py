"""Owns turning a tree into a typed section, and pydantic's complaints into problems with places. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import trainers.config as trainers_config

from ..errors import ConfigError, Place, Problem
from . import suggestions
from .strict_yaml import KeyPath, Node
from .values import BOOLEAN_HINT, dotted

Model = TypeVar("Model", bound=BaseModel)
_EXAMPLES = {"int": "for example 8", "float": "for example 1.0e-4", "bool": BOOLEAN_HINT}


def validate(model: type[Model], node: Node, root: str = "") -> tuple[Model, Node]:
    """Return the section, and the tree without the nulls that only meant "the default"; ConfigError holds all that is wrong."""
    for _ in range(10):
        try:
            made = model.model_validate(node.plain)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            resets = {path for path in (_path(e["loc"], node) for e in errors) if path and _is_null(node, path)}
            if not resets:
                raise ConfigError(_ordered(_problem(model, node, e, root) for e in errors)) from None
            for path in resets:
                node = _without(node, path)
            continue
        if switched := _switches_for_numbers(made, node, root):
            raise ConfigError(switched)
        return made, node
    raise AssertionError("nulls below nulls")  # each round removes one level, and sections are not ten deep


def cross_check(train: trainers_config.TrainConfig, world_size: int, node: Node) -> list[Problem]:
    """Return what trainers.config.check finds at a world size, with places; `node` is the recipe's tree."""
    return _ordered(
        Problem(problem.message, place(node, path), dotted(path), problem.hint)
        for problem in trainers_config.check(train, world_size)
        for path in [("train", *problem.path)]
    )


def place(node: Node, path: KeyPath) -> Place:
    """Return where a key is written, or else the block that it would stand in."""
    for key in path:
        below = _child(node, key)
        if below is None:
            break
        node = below
    return node.place


def _child(node: Node, key: str | int) -> Node | None:
    """Return what a mapping or list holds under a key or index."""
    child: Node | None = None
    if isinstance(node.value, dict):
        child = node.value.get(key)
    elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
        child = node.value[key]
    return child


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda p: (p.where.file, p.where.line, p.where.column) if p.where else ("", 0, 0))


def _path(loc: tuple[str | int, ...], node: Node) -> KeyPath:
    """Pydantic's location without the names that it adds for members of unions and for keys."""
    path: list[str | int] = []
    for number, key in enumerate(loc):
        below = _child(node, key)
        if below is None and (number < len(loc) - 1 or not isinstance(node.value, dict)):
            continue
        node = below or node
        path.append(key)
    return tuple(path)


def _is_null(node: Node, path: KeyPath) -> bool:
    part: Node | None = node
    for key in path:
        part = _child(part, key) if part is not None else None
    return part is not None and part.value is None


def _without(node: Node, path: KeyPath) -> Node:
    first, *rest = path
    if isinstance(node.value, list):
        return node if not rest else replace(node, value=[_without(n, tuple(rest)) if i == first else n for i, n in enumerate(node.value)])
    if not rest:
        return replace(node, value={key: item for key, item in node.value.items() if key != first})
    return replace(node, value={key: _without(item, tuple(rest)) if key == first else item for key, item in node.value.items()})


def _problem(model: type[BaseModel], node: Node, error: Any, root: str) -> Problem:
    path, kind, value = _path(error["loc"], node), error["type"], error["input"]
    where, key = place(node, path), dotted(path, root)
    if kind == "extra_forbidden":
        data = node.plain
        hint = suggestions.unknown_key(str(path[-1]), value, model, suggestions.section_at(model, data, path[:-1]), data)
        return Problem(f"unknown key {path[-1]!r}", where, key, hint)
    if kind in ("missing", "union_tag_not_found"):
        missing_key = str(path[-1]) if kind == "missing" else "kind"
        return Problem(f"{missing_key!r} is missing", where, key, _missing_hint(model, node, path, kind))
    if kind == "fvlaunch":
        return Problem(error["ctx"]["message"], where, key, error["ctx"]["hint"])
    if kind == "union_tag_invalid":
        path, ctx = (*path, "kind"), error["ctx"]
        return Problem(f"unknown kind {ctx['tag']!r}", place(node, path), dotted(path, root), f"known: {ctx['expected_tags']}")
    if kind == "value_error":
        return _own_words(error["msg"].removeprefix("Value error, "), path, node, root)
    return Problem(f"{_sentence(error)}, not {_shown(value)}", where, key, _type_hint(kind, value))


def _own_words(text: str, path: KeyPath, node: Node, root: str) -> Problem:
    """A validator's own sentence; an unknown kind or family is told at that key, with what it was probably meant to be."""
    message, _, known = text.partition("; known: ")
    unknown = re.match(r"unknown (kind|family) (.*)", message)
    path = (*path, unknown[1]) if unknown else path
    near = suggestions.closest(unknown[2].strip("'\""), known.split(", ")) if unknown else None
    hint = f"did you mean {near}?" if near else f"known: {known}" if known else ""
    return Problem(message, place(node, path), dotted(path, root), hint)


def _missing_hint(model: type[BaseModel], node: Node, path: KeyPath, kind: str) -> str:
    if kind != "missing":
        return "add kind: adamw or kind: muon"
    section = suggestions.section_at(model, node.plain, path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    extra = field.json_schema_extra if field else None
    choices: Any = (
        extra["enum"] if isinstance(extra, dict) and "enum" in extra else getattr(field.annotation, "__args__", ()) if field else ()
    )
    named = " or ".join(str(c) for c in choices if isinstance(c, str))
    return f"add {dotted(path)}: {named}" if named else f"add {dotted(path)}"


def _sentence(error: Any) -> str:
    text = str(error["msg"]).removeprefix("Input ")
    if text.startswith("should be a valid "):
        text = text.split(", unable")[0]
        return (
            text.replace("should be a valid", "must be a")
            .replace("must be a integer", "must be a whole number")
            .replace("dictionary", "mapping")
            .replace("must be a boolean", "must be true or false")
        )
    return text.replace("should", "must", 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'quote it: "{value}"'
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "write its keys below it, indented"
    if kind in ("list_type", "tuple_type"):
        return "write it in brackets: [a, b]"
    return _EXAMPLES.get(kind.partition("_")[0], "")


def _switches_for_numbers(made: BaseModel, node: Node, root: str) -> list[Problem]:
    """`true` where a number belongs: pydantic would read 1."""
    dump, problems = made.model_dump(), []
    for path, part in node.walk():
        if isinstance(part.value, bool):
            value: Any = dump
            for key in path:
                value = value.get(key) if isinstance(value, dict) else value[int(key)] if isinstance(value, (list, tuple)) else None
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                problems.append(Problem(f"must be a number, not {part.value}", part.place, dotted(path, root)))
    return problems
