"""Owns reading a file together with all that it extends. Must not know what the keys mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError, FvlaunchError, Place
from . import lookup, strict_yaml
from .merge import merge
from .strict_yaml import Node

MAX_FILES = 50


class Files:
    """One file and all that it extends."""

    def __init__(self, kind: lookup.Kind, cwd: Path) -> None:
        self.kind, self.cwd, self.num_read = kind, cwd, 0

    def load(self, path: Path, chain: tuple[Path, ...] = (), asked_at: Place | None = None) -> Node:
        """Return the merged tree of a file; `chain` is what led here."""
        real = path.resolve()
        if real in chain:
            names = " -> ".join(self._shown(p) for p in (*chain[chain.index(real) :], real))
            raise ConfigError.one(f"extends goes in a circle: {names}", asked_at, "extends", "remove one of them")
        self.num_read += 1
        if self.num_read > MAX_FILES:
            raise ConfigError.one(f"extends reads more than {MAX_FILES} files", asked_at, "extends")
        node = strict_yaml.read(path, self._shown(path))
        if "extends" not in node.value:
            return node
        own = replace(node, value={key: item for key, item in node.value.items() if key != "extends"})
        merged: Node | None = None
        for reference in self._names(node.value["extends"]):
            base = self.load(self._base(reference, path), (*chain, real), reference.place)
            merged = base if merged is None else merge(merged, base)
        return own if merged is None else merge(merged, own)

    def _names(self, node: Node) -> list[Node]:
        items = node.value if isinstance(node.value, list) else [] if node.value is None else [node]
        if not all(isinstance(item.value, str) for item in items):
            raise ConfigError.one("extends takes a name or a list of names", node.place, "extends", "for example extends: base/shapes")
        return items

    def _base(self, reference: Node, path: Path) -> Path:
        """Return the file that is extended: a path beside this one, or a name; its own name means the next one in the lookup order."""
        name: str = reference.value
        if lookup.is_path(name):
            base = path.parent / name
            if not base.resolve().is_relative_to(path.parent.resolve()):
                hint = "extend a file in the same folder or below, or a name"
                raise ConfigError.one(f"{name!r} leads out of {path.parent}", reference.place, "extends", hint)
            if not base.is_file():
                raise ConfigError.one(f"{name!r} does not exist beside this file", reference.place, "extends")
            return base
        try:
            found = lookup.candidates(self.kind, name, self.cwd)
            if not found:
                return lookup.find(self.kind, name, self.cwd)
        except FvlaunchError as error:
            raise ConfigError.one(error.message, reference.place, "extends", error.hint) from None
        real = [candidate.resolve() for candidate in found]
        following = found[real.index(path.resolve()) + 1 :] if path.resolve() in real else found
        if not following:
            raise ConfigError.one(f"{name!r} extends itself, and there is no other {self.kind} of that name", reference.place, "extends")
        return following[0]

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.cwd)) if path.is_relative_to(self.cwd) else str(path)
