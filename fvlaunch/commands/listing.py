"""Owns `fvlaunch list` and `fvlaunch show`: what there is to submit, and a recipe resolved with each value's origin.

Must not change anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import NotFound
from . import output as printing


def list_(what: str, *, json_: bool, runs_dir: Path | None) -> int:
    if what == "runs":
        from .status import status

        return status([], all_=True, attempts=False, json_=json_, runs_dir=runs_dir)
    from ..config.lookup import listing

    kinds: dict[str, Literal["recipe", "cluster", "pipeline"]] = {"recipes": "recipe", "clusters": "cluster", "pipelines": "pipeline"}
    if what not in kinds:
        raise NotFound(f"cannot list {what!r}", hint="recipes, clusters, pipelines or runs")
    entries = listing(kinds[what])
    if json_:
        printing.as_json([{"name": e.name, "description": e.description, "path": str(e.path), "layer": e.layer} for e in entries])
    else:
        printing.table([what.upper(), "DESCRIPTION", "FOUND IN"], [[e.name, e.description, e.layer] for e in entries])
    return 0


def show(recipe: str, cluster: str | None, sets: list[str], *, json_: bool) -> None:
    from ..config.compose import compose
    from ..planning import planner

    composed = planner.with_auto_resolved(compose(recipe, planner.named_cluster(recipe, cluster), sets=sets))
    data = {**composed.recipe_data, "cluster": composed.cluster_data}
    if json_:
        printing.as_json(
            {
                "recipe": composed.recipe_data,
                "cluster": composed.cluster_data,
                "origins": {".".join(map(str, k)): v for k, v in composed.origins.items()},
            }
        )
    else:
        printing.origins(printing.leaves(data), composed.origins)
