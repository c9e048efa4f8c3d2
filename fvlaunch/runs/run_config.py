"""Owns run.yaml as the agent reads it: validated again before anything is run by it, since files get edited.

Must not take a command's arguments from disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import own_files
from ..config.schema import Cluster, Recipe
from ..config.strict_yaml import Node, read
from ..config.validate import validate
from ..config.values import control_problems
from ..errors import ConfigError, FvlaunchError
from . import pipeline_directory
from .directory import Run


@dataclass(frozen=True)
class World:
    """How the ranks of an attempt find each other."""

    size: int
    per_node: int
    node: int
    master_address: str
    master_port: int
    threads: int
    gpus: int | None = None
    """How many GPUs the ranks of this node must see. 0: they compute on the CPU; None: none were asked for."""


@dataclass(frozen=True)
class RunConfig:
    recipe: Recipe
    cluster: Cluster
    nodes: int
    inputs: tuple[dict[str, Any], ...] = ()
    """A pipeline's stage: weights of an earlier stage, exported before the ranks start."""
    run: Path = Path()
    """The run's directory, in which the ranks work."""

    @property
    def program(self) -> dict[str, Any]:
        """The config of `python -m trainers`: {program: its block}, and its inputs. How many failed saves end it is the cluster's word, and
        a user's own file is its copy in the run."""
        block = self.recipe.block.resolved()
        if self.recipe.train is not None:
            block["failed_saves"] = self.cluster.limits.failed_saves
            block = own_files.by_copies(block, self.run)
        return {self.recipe.program: block, **({"inputs": list(self.inputs)} if self.inputs else {})}

    def world(self, node: int, address: str, port: int, gpus: int | None = None) -> World:
        """Return the ranks' world as a node sees it. `gpus`: how many of its GPUs the job was given, where the scheduler says so."""
        ranks, threads = self.recipe.resources.ranks, self.recipe.resources.threads_per_rank or 1
        per_node = ranks // self.nodes
        return World(ranks, per_node, node, address, port, threads, self.cluster.gpus_of_a_node(gpus, per_node))


def load(run: Run) -> RunConfig:
    """Read the configuration of a run; ConfigError with run.yaml's lines where it no longer holds."""
    file = read(run.config_file, str(run.config_file))
    parts = file.value if isinstance(file.value, dict) else {}
    if not {"recipe", "cluster"} <= parts.keys():
        raise FvlaunchError(f"{run.config_file} has no recipe and cluster", hint="it is written at submission; submit the recipe again")
    recipe = _checked(Recipe, parts["recipe"], "recipe", ("description",))
    cluster = _checked(Cluster, parts["cluster"], "cluster", ("description",), ("setup",))
    return RunConfig(recipe, cluster, run.record().nodes, tuple(pipeline_directory.inputs(run)), run.path)


def _checked(model: Any, node: Node, root: str, *multiline: tuple[str, ...]) -> Any:
    problems = control_problems(node, root, lambda path: path in multiline)
    if problems:
        raise ConfigError(problems)
    return validate(model, node, root)[0]
