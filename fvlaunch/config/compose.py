"""Owns putting a recipe, a cluster and `--set` together: what wins, what extends what, where each value came from.

Must not touch anything but the files it reads. Precedence: --set > cluster > recipe > its bases (the command line comes in plan.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Place, Problem
from . import lookup, own_files, relocation, tiny_preset
from . import paths as folders
from .extends import Files
from .merge import merge, overlay
from .schema import Cluster, Recipe
from .strict_yaml import KeyPath, Node
from .validate import cross_check, place, validate
from .values import Substitution, control_problems

RUN_KEYS = {"recipe", "cluster", "lock"}


@dataclass(frozen=True)
class Composed:
    """A recipe on a cluster, resolved: typed, as plain data, and each value's origin."""

    recipe: Recipe
    cluster: Cluster
    recipe_data: dict[str, Any]
    """Complete, with defaults; parses back to an equal recipe."""
    cluster_data: dict[str, Any]
    recipe_asked: dict[str, Any]
    """The recipe as written and merged, before `${paths.x}`: what another cluster can resolve its own way."""
    origins: dict[KeyPath, str]
    """Origin of every leaf: "file:line", "--set" or "default"; paths as ("train", "seed") and ("cluster", "slurm", "time")."""
    recipe_name: str
    cluster_name: str
    recipe_path: Path
    cluster_path: Path
    recipe_node: Node = field(repr=False)
    cluster_node: Node = field(repr=False)
    lock: dict[str, Any] = field(default_factory=dict)
    """The lock of the run.yaml that was given as the recipe."""
    own_copies: dict[Path, Path] = field(default_factory=dict)
    """By own Python file (./file.py:ClassName) the copy to take in its place: that of the run whose run.yaml was given as the recipe."""

    def place(self, path: KeyPath) -> Place:
        """Return where a value, or else the block it would stand in, was written."""
        return place(self.cluster_node, path[1:]) if path[:1] == ("cluster",) else place(self.recipe_node, path)

    def cross_check(self, world_size: int) -> list[Problem]:
        """Contradictions inside the train block at a world size."""
        return [] if self.recipe.train is None else cross_check(self.recipe.train, world_size, self.recipe_node)


def compose(
    recipe: str,
    cluster: str | None = None,
    *,
    sets: Sequence[str] = (),
    over: Node | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Composed:
    """Resolve a recipe (a name, a file or a run.yaml) on a cluster; without one, run.yaml's own, else local. All errors at once.

    `over` is laid on the recipe below --set: what a pipeline says of a stage.
    """
    cwd = (cwd or Path.cwd()).absolute()
    overrides = overlay(sets) if over is None else merge(over, overlay(sets))
    recipe_path = lookup.find("recipe", recipe, cwd)
    file = Files("recipe", cwd).load(recipe_path)
    run, recipe_node = _is_run(file), file
    if run:
        recipe_node, name = file.value["recipe"], _remembered(file, "recipe") or recipe_path.resolve().parent.name
    else:
        name = recipe_path.stem if lookup.is_path(recipe) else recipe
    if cluster is None and run and "cluster" in file.value:
        cluster_name, cluster_path = _remembered(file, "cluster") or "run.yaml", recipe_path
        cluster_node = file.value["cluster"]
    else:
        cluster_name = cluster or "local"
        cluster_path = lookup.find("cluster", cluster_name, cwd)
        cluster_name = cluster_path.stem if lookup.is_path(cluster_name) else cluster_name
        cluster_node = Files("cluster", cwd).load(cluster_path)
    lock = file.value["lock"].plain if run and "lock" in file.value else {}
    if run and cluster is not None:
        recipe_node = relocation.put_back(recipe_node, lock, file.value["lock"].place) if "lock" in file.value else recipe_node
    recipe_node, cluster_node = _with_sets(recipe_node, cluster_node, overrides)
    parts = _resolve(recipe_node, cluster_node, cwd, folders.environment() if environment is None else environment)
    return Composed(
        **parts,
        recipe_name=name,
        cluster_name=cluster_name,
        recipe_path=recipe_path,
        cluster_path=cluster_path,
        lock=lock if isinstance(lock, dict) else {},
        own_copies=_own_copies(file, recipe_path, parts) if run else {},
    )


def _own_copies(file: Node, path: Path, parts: Mapping[str, Any]) -> dict[Path, Path]:
    """Return the copies that the run of this run.yaml has, without those of what --set names: that is the file as it is now."""
    kept = own_files.kept_by(path.parent, file.value["recipe"].plain.get("train") or {})
    named = own_files.references(parts["recipe_data"].get("train") or {}) if kept else ()
    as_they_are = {own for key, own, _ in named if parts["origins"].get(("train", *key)) == "--set"}
    return {own: copy for own, copy in kept.items() if own not in as_they_are}


def compose_cluster(cluster: str) -> Cluster:
    """Resolve a cluster profile alone; as a profile is resolved together with a recipe, one is taken that resolves everywhere."""
    return compose("shapes-finetune", cluster).cluster


def _is_run(file: Node) -> bool:
    """Say whether this is a run.yaml, as a run directory holds it."""
    return isinstance(file.value.get("recipe", Node(None, file.place)).value, dict) and not file.value.keys() - RUN_KEYS


def _remembered(file: Node, what: str) -> str | None:
    """Return the name of the recipe or cluster that the lock of a run.yaml remembers."""
    lock = file.value["lock"].plain if "lock" in file.value else None
    name = lock.get(what) if isinstance(lock, dict) else None
    return name if isinstance(name, str) and name else None


def _with_sets(recipe: Node, cluster: Node, overrides: Node) -> tuple[Node, Node]:
    """Lay --set over both, then the cluster's defaults for resources under what --set says of them."""
    for_cluster = overrides.value.get("cluster")
    if for_cluster is not None:
        cluster = replace(merge(cluster, for_cluster), place=cluster.place)
    if not isinstance(cluster.value, dict):
        raise ConfigError.one("expected a mapping", (for_cluster or cluster).place, "cluster", "for example --set cluster.slurm.time=60")
    for_recipe = replace(overrides, value={key: node for key, node in overrides.value.items() if key != "cluster"})
    defaults = cluster.value.get("resources")
    if defaults is not None and isinstance(defaults.value, dict):
        known = {key: node for key, node in defaults.value.items() if key in ("time", "threads_per_rank") and node.value is not None}
        recipe = merge(recipe, replace(defaults, value={"resources": replace(defaults, value=known)})) if known else recipe
    merged = merge(recipe, for_recipe)
    if tiny_preset.is_asked_for(merged):  # below --set: what a person says of a size wins
        merged = merge(tiny_preset.shrink(recipe), for_recipe)
    return replace(merged, place=recipe.place), cluster


def _resolve(recipe: Node, cluster: Node, cwd: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    as_written = recipe.plain
    cluster, paths, problems = folders.named(cluster, cwd, environment)
    here, there = Substitution(paths, None, ""), Substitution(paths, environment, "cluster")
    recipe, cluster = folders.recipe_folders(here.apply(recipe), cwd), folders.cluster_folders(_outside_paths(there, cluster), cwd)
    problems += here.problems + there.problems
    problems += control_problems(recipe, "", lambda path: path == ("description",))
    problems += control_problems(cluster, "cluster", lambda path: path in (("description",), ("setup",)))
    made: dict[str, Any] = {"recipe_asked": as_written}
    for key, model, node, root in (("recipe", Recipe, recipe, ""), ("cluster", Cluster, cluster, "cluster")):
        try:
            made[key], made[f"{key}_node"] = validate(model, node, root)
            made[f"{key}_data"] = made[key].resolved()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    origins = _origins(made["recipe_data"], made["recipe_node"], ())
    made["origins"] = origins | _origins(made["cluster_data"], made["cluster_node"], ("cluster",))
    return made


def _outside_paths(substitution: Substitution, cluster: Node) -> Node:
    """Substitute everywhere but in `paths`, where it is done: what was put in is never read again."""
    rest = substitution.apply(replace(cluster, value={key: node for key, node in cluster.value.items() if key != "paths"}))
    return replace(rest, value={key: rest.value.get(key, node) for key, node in cluster.value.items()})


def _origins(data: Any, node: Node | None, path: KeyPath) -> dict[KeyPath, str]:
    """Return the origin of every leaf of `data`; a list is one leaf."""
    if isinstance(data, dict) and data:
        value = node.value if node is not None and isinstance(node.value, dict) else {}
        found: dict[KeyPath, str] = {}
        for key, item in data.items():
            found.update(_origins(item, value.get(key), (*path, key)))
        return found
    return {path: node.place.origin if node is not None else "default"}
