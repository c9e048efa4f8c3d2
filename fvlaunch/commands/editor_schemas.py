"""Owns `fvlaunch schema`: prints the JSON Schemas, or puts them beside a person's own files. Must not change those files."""

from __future__ import annotations

from pathlib import Path

from ..config import lookup
from ..config.json_schema import KINDS, text
from ..errors import NotFound
from ..files import publish_text
from . import output as printing

MODELINE = "# yaml-language-server: $schema="
_PLACES = {"recipe": "../schema/recipe.json", "pipeline": "../schema/pipeline.json", "cluster": "../templates/schema/cluster.json"}


def schema(what: str, *, install: bool) -> None:
    found = next((kind for kind in KINDS if kind == what), None)
    if found is None:
        raise NotFound(f"there is no schema of {what!r}", hint=", ".join(KINDS))
    if not install:
        return printing.out(text(found).rstrip())
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        publish_text(folder / f"{kind}.json", text(kind), mode=0o644)
    printing.out(str(folder))
    return printing.say(f"first line of a {found} in {folder.parents[1]}: {MODELINE}{_PLACES[found]}")


def user_folder() -> Path:
    """Return the folder in the user's layer to which the modeline of a file that was copied there points."""
    [root] = [root for layer, root in lookup.layers() if layer == "user"]
    return root / "templates" / "schema"
