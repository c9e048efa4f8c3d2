"""Owns YAML: text to a tree in which every value has its place, and back. Reading raises nothing but ConfigError, whatever it is given.

Scalars follow the YAML 1.2 core schema: `12:30:00`, `no` and `on` are strings, `1e-5` is a float. Duplicate keys, tags, merge
keys, control characters, several documents and whatever is too large or too deep are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml as pyyaml

from ..errors import ConfigError, Place

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_VALUES = 20_000
MAX_ALIASES = 100

_Loader: Any = getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + inf: float(f"{sign}inf") for sign in ("", "+", "-") for inf in (".inf", ".Inf", ".INF")},
}

KeyPath = tuple[str | int, ...]
Places = dict[KeyPath, Place]


@dataclass(frozen=True)
class Node:
    """A value and its place: a scalar, a list of nodes or a mapping of nodes. Below a mapping the place is the key's."""

    value: Any
    place: Place
    size: int = 1
    """How many values it holds, counted through aliases."""
    flow: bool = True
    """Whether a list or mapping was written in brackets."""

    @property
    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """Return every node below and including this one, with its path."""
        yield path, self
        items = self.value.items() if isinstance(self.value, dict) else enumerate(self.value) if isinstance(self.value, list) else ()
        for key, node in items:
            yield from node.walk((*path, key))

    @property
    def places(self) -> Places:
        return {path: node.place for path, node in self.walk()}


def load(path: Path) -> tuple[Any, Places]:
    """Plain data of a file and where each value stands."""
    node = read(path)
    return node.plain, node.places


def read(path: Path, name: str | None = None) -> Node:
    """Return the tree of a file that holds a mapping; `name` is how messages call it."""
    name = name or str(path)
    node = parse(_text(path, name), name)
    if not isinstance(node.value, dict):
        raise ConfigError.one(
            "expected a mapping of keys at the top level", Place(name, 1, 1), hint="write lines such as `description: ...`"
        )
    return node


def parse(text: str, file: str) -> Node:
    """Return the tree of a text; an empty text is a null."""
    bad = _CONTROL.search(text.removeprefix("\ufeff"))
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError.one(f"control character U+{ord(bad[0]):04X}", Place(file, line, 1), hint="remove it")
    if len(text) > MAX_BYTES:
        raise ConfigError.one(f"larger than {MAX_BYTES} bytes", Place(file))
    try:
        return _Builder(file).build(text)
    except pyyaml.YAMLError as error:
        raise _syntax(error, file) from None


def scalar(text: str) -> Any:
    """Return the value of an unquoted scalar by YAML 1.2's core schema."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if len(text) <= 400 and _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


_FastDumper: Any = getattr(pyyaml, "CSafeDumper", pyyaml.SafeDumper)


class _Dumper(_FastDumper):  # type: ignore[misc]
    """Writes what `parse` reads back as the same, and what other readers of YAML do too."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: pyyaml.SafeDumper, text: str) -> pyyaml.ScalarNode:
    block = "\n" in text and not any(line.endswith(" ") for line in text.split("\n"))
    misread = not isinstance(scalar(text), str) or text == "<<"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else '"' if misread else None)


_Dumper.add_representer(str, _quoted)


def dump(data: Any) -> str:
    """YAML text of plain data, in its order; PyYAML's own dumper would leave "1e-5" unquoted, which is a number here."""
    text: str = pyyaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=False)
    return text


def _text(path: Path, name: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError.one("not a file", Place(name))
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError.one(f"cannot be read: {getattr(error, 'strerror', None) or error}", Place(name)) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError.one(f"larger than {MAX_BYTES} bytes", Place(name), hint="a recipe or cluster file holds settings, not data")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError.one("not UTF-8 text", Place(name, line, 1), hint="save the file as UTF-8") from None


@dataclass
class _Open:
    """A list or mapping that is being read."""

    place: Place
    anchor: str | None
    flow: bool
    value: Any
    key: tuple[str, Place] | None = None
    size: int = 1
    keys: dict[str, Place] = field(default_factory=dict)


class _Builder:
    """One text's events to one tree, without recursion: the depth is the text's to choose."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.open: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.num_aliases = self.num_values = 0
        self.root: Node | None = None

    def build(self, text: str) -> Node:
        for event in pyyaml.parse(text, Loader=_Loader):
            if isinstance(event, pyyaml.DocumentStartEvent) and self.root is not None:
                self.fail("a second document in one file", event, "remove the `---`")
            elif isinstance(event, pyyaml.NodeEvent):
                self.on_node(event)
            elif isinstance(event, pyyaml.CollectionEndEvent):
                done = self.open.pop()
                self.add(Node(done.value, done.place, done.size, done.flow), done.anchor, event)
        return self.root if self.root is not None else Node(None, Place(self.file, 1, 1))

    def on_node(self, event: Any) -> None:
        if isinstance(event, pyyaml.AliasEvent):
            return self.add(self.alias(event), None, event)
        if event.tag is not None and event.tag != "!":
            self.fail(f"tags such as {event.tag} are not allowed", event, "write the plain value")
        if isinstance(event, pyyaml.ScalarEvent):
            return self.on_scalar(event)
        if len(self.open) >= MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH} levels", event)
        if self.wants_key():
            self.fail("a key must be a plain word", event, "quote it, or put a value after a colon")
        value: Any = {} if isinstance(event, pyyaml.MappingStartEvent) else []
        self.open.append(_Open(self.place(event), event.anchor, bool(event.flow_style), value))
        return None

    def on_scalar(self, event: Any) -> None:
        if bad := _CONTROL.search(event.value):
            self.fail(f"control character U+{ord(bad[0]):04X} in a value", event, "remove it")
        if self.wants_key():
            return self.on_key(event)
        value = scalar(event.value) if not event.style and event.implicit[0] else event.value
        return self.add(Node(value, self.place(event)), event.anchor, event)

    def on_key(self, event: Any) -> None:
        mapping, key = self.open[-1], event.value
        if key == "<<" and not event.style:
            self.fail("merge keys (<<) are not allowed", event, "use `extends`, or write the keys out")
        if key in mapping.keys:
            first = mapping.keys[key]
            self.fail(f"the key {key!r} stands twice, first in line {first.line}", event, "keep one")
        mapping.key = (key, self.place(event))
        mapping.keys[key] = self.place(event)

    def alias(self, event: Any) -> Node:
        self.num_aliases += 1
        if self.wants_key():
            self.fail("an alias cannot be a key", event)
        if self.num_aliases > MAX_ALIASES:
            self.fail(f"more than {MAX_ALIASES} aliases", event, "write the values out")
        if event.anchor not in self.anchors:
            self.fail(f"the alias *{event.anchor} stands before its anchor", event)
        return self.anchors[event.anchor]

    def add(self, node: Node, anchor: str | None, event: Any) -> None:
        self.num_values += 1
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        parent.size += node.size
        if max(parent.size, self.num_values) > MAX_VALUES:
            self.fail(f"more than {MAX_VALUES} values", event)
        if isinstance(parent.value, list):
            parent.value.append(node)
        else:
            assert parent.key is not None  # wants_key was false
            key, place = parent.key
            parent.value[key] = Node(node.value, place, node.size, node.flow)
            parent.key = None

    def wants_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, dict) and self.open[-1].key is None

    def place(self, event: Any) -> Place:
        return Place(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def fail(self, message: str, event: Any, hint: str = "") -> NoReturn:
        raise ConfigError.one(message, self.place(event), hint=hint)


def _syntax(error: pyyaml.YAMLError, file: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
    if "\\t" in what or "tab" in what:
        hint = "indent with spaces, not tabs"
    elif "mapping values are not allowed" in what:
        hint = "quote a value that holds `: `, or mend the indentation"
    else:
        hint = "mend the indentation, a bracket or a quote near this line"
    return ConfigError.one(f"not YAML: {what}", place, hint=hint)
