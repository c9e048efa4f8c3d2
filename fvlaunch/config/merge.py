"""Owns how one tree is laid over another, and how `--set` becomes a tree. Pure.

Mappings merge, lists and scalars replace, a null resets. Where `kind` or `family` changes, the whole block is replaced:
what was said for one optimizer means nothing to another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import ConfigError, Place, Problem
from . import strict_yaml
from .strict_yaml import Node

CHOOSERS = ("kind", "family")


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`; every value keeps its own place, and a block the last file's that adds to it."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)) or _other_kind(base, over):
        return over
    values = dict(base.value)
    for key, node in over.value.items():
        values[key] = merge(values[key], node) if key in values else node
    return replace(over, value=values, place=over.place if over.place.line else base.place)


def _other_kind(base: Node, over: Node) -> bool:
    pairs = [(base.value[key].value, over.value[key].value) for key in CHOOSERS if key in base.value and key in over.value]
    return any(was != now for was, now in pairs)


def overlay(sets: Iterable[str]) -> Node:
    """Return all `--set a.b=c` as one tree; the last of two for one key wins. Values are YAML scalars or bracketed lists and mappings."""
    root = Node({}, Place("--set"))
    problems: list[Problem] = []
    for text in sets:
        try:
            keys, node = _one_set(text)
            _put(root.value, keys, node)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return root


def _one_set(text: str) -> tuple[list[str], Node]:
    place = Place(f"--set {text}")
    name, equals, raw = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys) or len(keys) > 20:
        raise ConfigError.one("expected KEY=VALUE", place, hint="for example --set train.max_steps=100")
    if "\n" in raw and not raw.lstrip().startswith(("|", ">")):
        raise ConfigError.one(
            "a line break is not allowed in this value", place, name, "write it in one line"
        )  # YAML would make it a space
    try:
        node = strict_yaml.parse(raw, place.file)
    except ConfigError as error:
        raise ConfigError([Problem(p.message, place, name, "quote the value: --set 'key=\"value\"'") for p in error.problems]) from None
    written_as_block = any(isinstance(part.value, (dict, list)) and not part.flow for _, part in node.walk())
    if written_as_block or _lost_comment(raw, node):
        raise ConfigError.one(f"the value {raw!r} is not read as one word", place, name, "quote it: --set 'key=\"value\"'")
    return keys, _placed(node, place)


def _lost_comment(raw: str, node: Node) -> bool:
    """YAML would drop ` # ...` in silence; quoted text and brackets may hold it."""
    return " #" in raw and isinstance(node.value, str) and " #" not in node.value


def _placed(node: Node, place: Place) -> Node:
    if isinstance(node.value, dict):
        return replace(node, place=place, value={key: _placed(item, place) for key, item in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, place=place, value=[_placed(item, place) for item in node.value])
    return replace(node, place=place)


def _put(values: dict[str, Node], keys: list[str], node: Node) -> None:
    first, *rest = keys
    if not rest:
        values[first] = node
        return
    if first not in values or not isinstance(values[first].value, dict):
        values[first] = Node({}, node.place)
    _put(values[first].value, rest, node)
