"""Owns the tables of what comes with fvlaunch: recipes, pipelines and profiles, from their files. Must not depend on this machine.

Recipes are composed in an empty folder, so that nothing is told of models and data that happen to be here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvlaunch.config import lookup, pipeline_file
from fvlaunch.config.compose import Composed, compose
from fvlaunch.planning.gpu_memory import needed
from tests.support.pages.markdown import table
from trainers.config.memory_estimate import estimate

_TRAINING = ("recipe", "what it does", "method", "clips", "batch", "steps", "ranks", "memory of a GPU", "needs")
_LAPTOP = ("recipe", "what it does", "method", "batch", "steps", "needs")
_OTHERS = ("recipe", "what it does", "ranks", "needs")


def recipes() -> str:
    """Return the tables of the recipes: those that train at full size, those of a laptop's size, and those that do not train."""
    found = list(_composed())
    train = [(name, one) for name, one in found if one.recipe.train is not None]
    full = [_training(name, one) for name, one in train if not name.startswith("shapes-")]
    laptop = [_laptop(name, one) for name, one in train if name.startswith("shapes-")]
    others = [_other(name, one) for name, one in found if one.recipe.train is None]
    parts = (("Training", _TRAINING, full), ("Training at a laptop's size", _LAPTOP, laptop), ("Everything else", _OTHERS, others))
    return "\n\n".join(f"#### {title}\n\n{table(head, rows)}" for title, head, rows in parts)


def pipelines() -> str:
    """Return the table of the pipelines."""
    files = [pipeline_file.read(str(entry.path)) for entry in _packaged("pipeline")]
    rows = [
        (f"[`{file.name}`](pipelines/{file.name}.yaml)", file.description, " → ".join(f"{s.name} (`{s.recipe}`)" for s in file.stages))
        for file in files
    ]
    return table(("pipeline", "what it does", "stages"), rows)


def profiles() -> str:
    """Return the table of the cluster profiles."""
    return table(("profile", "what for"), [(f"[`{e.name}`]({e.path.name})", e.description) for e in _packaged("cluster")])


def _packaged(kind: lookup.Kind) -> list[lookup.Entry]:
    return [entry for entry in lookup.listing(kind, lookup.packaged()) if entry.layer == "packaged"]


def _composed() -> Iterator[tuple[str, Composed]]:
    """Each recipe that comes with fvlaunch, on the local cluster."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in _packaged("recipe"):
            yield entry.name, compose(str(entry.path), "local", cwd=Path(folder))


def _training(name: str, one: Composed) -> tuple[str, ...]:
    train, ranks = one.recipe.train, one.recipe.resources.ranks
    assert train is not None
    data, memory = train.data, estimate(train, ranks)
    clips = f"{data.num_frames} x {data.height} x {data.width}"
    size = "not known" if memory.unknown else f"{needed(memory) / 1e9:.0f} GB"
    numbers = (clips, str(data.global_batch_size), str(train.max_steps), str(ranks), size)
    return _link(name), one.recipe.description, train.method.kind, *numbers, _needs(one)


def _laptop(name: str, one: Composed) -> tuple[str, ...]:
    train = one.recipe.train
    assert train is not None
    numbers = (str(train.data.global_batch_size), str(train.max_steps))
    return _link(name), one.recipe.description, train.method.kind, *numbers, _needs(one)


def _other(name: str, one: Composed) -> tuple[str, ...]:
    return _link(name), one.recipe.description, str(one.recipe.resources.ranks), _needs(one)


def _link(name: str) -> str:
    return f"[`{name}`](recipes/{name}.yaml)"


def _needs(one: Composed) -> str:
    """Models and folders that must be there, as the recipe writes them; nothing where it makes them itself."""
    block: dict[str, Any] = one.recipe_asked[one.recipe.program]
    names = [role.get("init_from") for role in block.get("models", {}).values()] if one.recipe.train else [block.get("model")]
    train = one.recipe.train
    if train is not None and train.data.prepare is None:
        names.append(block["data"]["path"])
    names += [block.get("source"), block.get("run"), *(row["source"] for row in block.get("rows", {}).values())]
    return ", ".join(dict.fromkeys(f"`{name}`" for name in names if isinstance(name, str))) or "nothing"
