"""Owns the tables of keys: every key of recipes, pipelines and profiles, from the JSON Schemas, with type, default and meaning.

Each block that a file may hold has a table. Where a block may be of several kinds, each kind has a table of its own; where the same block
may stand in several places, the later places link to the table of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fvlaunch.config.json_schema import What, schema
from tests.support.pages.cells import Schema, allowed, alternatives, default_of, meaning, type_name, unit
from tests.support.pages.links import slug
from tests.support.pages.markdown import table

CHOSEN_NAMES = {"models": "ROLE", "optimizers": "ROLE", "experts": "EXPERT", "set": "KEY"}
"""What a table writes for the names below a mapping's key; NAME for those below the others."""
LISTED_APART = {"slurm": "[options](#options-of-sbatch)"}
"""Blocks whose keys are not fvlaunch's own and have no table here, and where they are listed."""
KINDS = {"kind": None, "family": "wan"}
"""Keys that choose between the kinds of a block, and the kind where they are left out; None: they may not be."""


@dataclass(frozen=True)
class Row:
    """One key, as its table shows it."""

    key: str
    """Its whole path, as --set takes it."""
    type: str
    default: str
    allowed: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """The keys of one block."""

    title: str
    purpose: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Block:
    """A block that a key may hold."""

    title: str
    schema: Schema
    is_new: bool
    """Whether no key before this one may hold it, so that it still needs its table."""


def tables(what: What) -> list[Table]:
    """Return the tables of all keys of a kind of file, outermost block first."""
    root = schema(what)
    title = f"Top level of a {'profile' if what == 'cluster' else what}"
    return list(_Walk(root.get("definitions", {})).tables("", [_Block(title, {**root, "description": ""}, True)]))


def rendered(what: What, level: int = 3) -> str:
    """Return the tables as Markdown, their headings of a level."""
    return "\n\n".join(_markdown(table, level) for table in tables(what))


@dataclass
class _Walk:
    """One pass through a schema."""

    definitions: dict[str, Schema]
    titles: dict[str, str] = field(default_factory=dict)
    """Of each definition that was reached: the title of its table."""

    def tables(self, path: str, kinds: list[_Block]) -> Iterator[Table]:
        """Yield the tables of all kinds of a block, and then those of the blocks inside of these."""
        inside: dict[str, list[_Block]] = {}
        for kind in kinds:
            rows = []
            for name, value in sorted(kind.schema["properties"].items(), key=lambda item: item[0] not in KINDS):
                key = f"{path}.{name}" if path else name
                below, blocks = self._blocks(key, name, value)
                inside.setdefault(below, []).extend(block for block in blocks if block.is_new)
                rows.append(self._row(key, name, value, blocks, is_choice=name in KINDS and len(kinds) > 1))
            yield Table(kind.title, meaning(kind.schema), tuple(rows))
        for below, blocks in inside.items():
            if blocks:
                yield from self.tables(below, blocks)

    def _row(self, key: str, name: str, value: Schema, blocks: list[_Block], *, is_choice: bool) -> Row:
        default = default_of(value, is_block=bool(blocks))
        if is_choice:
            default = f"`{KINDS[name]}`" if KINDS[name] else "required"
        links = LISTED_APART.get(name) or ", ".join(f"[{_short(block.title)}](#{slug(block.title)})" for block in blocks)
        text = type_name(value)
        return Row(key, f"{text}: {links}" if links else text, default, allowed(value), unit(name, value), meaning(value))

    def _blocks(self, key: str, name: str, value: Schema) -> tuple[str, list[_Block]]:
        """The path of what a key holds, and the blocks that may stand there."""
        for one in alternatives(value):
            if one.get("type") == "array" and (blocks := self._of(f"{key}[]", one.get("items", {}))):
                return f"{key}[]", blocks
            if isinstance(items := one.get("additionalProperties"), dict):
                below = f"{key}.{CHOSEN_NAMES.get(name, 'NAME')}"
                if blocks := self._of(below, items):
                    return below, blocks
        return key, [] if name in LISTED_APART else self._of(key, value)

    def _of(self, path: str, value: Schema) -> list[_Block]:
        targets = [(one.get("$ref", ""), self._target(one)) for one in alternatives(value)]
        return [self._block(path, reference, target) for reference, target in targets if "properties" in target and not _is_open(target)]

    def _target(self, one: Schema) -> Schema:
        return self.definitions[one["$ref"].rpartition("/")[2]] if "$ref" in one else one

    def _block(self, path: str, reference: str, target: Schema) -> _Block:
        is_new = reference not in self.titles
        kind = next((value["const"] for name, value in target["properties"].items() if name in KINDS and "const" in value), None)
        title = self.titles.get(reference) or (f"`{path}` of {kind}" if kind else f"`{path}`")
        if reference:
            self.titles[reference] = title
        return _Block(title, target, is_new)


def _is_open(target: Schema) -> bool:
    """Whether it is a block of a person's own code, whose keys only that code knows."""
    return any("pattern" in target["properties"].get(name, ()) for name in KINDS)


def _short(title: str) -> str:
    return title.partition(" of ")[2] or "keys"


def _markdown(made: Table, level: int) -> str:
    rows = [(f"`{row.key}`", row.type, row.default, row.allowed, row.unit, row.meaning) for row in made.rows]
    columns = ("key", "type", "default", "allowed", "unit", "meaning")
    return "\n\n".join(filter(None, ["#" * level + " " + made.title, made.purpose, table(columns, rows)]))
