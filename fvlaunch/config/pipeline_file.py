"""Owns a pipeline's file: its stages in order, what each lays over its recipe, and which earlier stage's output it names.

Must not compose a recipe, and must not know where runs are: what a reference stands for is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Place, Problem
from . import lookup, strict_yaml
from .merge import merge, overlay
from .strict_yaml import KeyPath, Node
from .suggestions import closest
from .values import check_run_name, dotted

FOR_ALL = ("cluster", "tiny")
"""First words of --set that mean every stage; they cannot name one."""
EXPORTS = ("live", "ema")
OUTPUTS = ("data", "run")
CHECKPOINTS = ("last",)
"""The newest checkpoint's weights, as they were trained: another word for export live."""
_TOP, _STAGE, _REFERENCE = ("description", "stages"), ("name", "recipe", "set"), ("stage", "export", "checkpoint", "output", "role")


@dataclass(frozen=True)
class Reference:
    """A value that is an earlier stage's output."""

    stage: str
    export: str | None
    """One of EXPORTS: the folder of its weights."""
    output: str | None
    """One of OUTPUTS: the folder that a preprocess stage fills, or the run directory itself."""
    role: str
    place: Place
    key: str
    """The key as it would be given to --set, without the stage that it stands in."""


@dataclass(frozen=True)
class Stage:
    name: str
    recipe: str
    recipe_place: Place
    over: Node
    """What is laid over the recipe, the references still in it."""


@dataclass(frozen=True)
class PipelineFile:
    name: str
    description: str
    stages: tuple[Stage, ...]


def read(pipeline: str, sets: Sequence[str] = (), cwd: Path | None = None) -> PipelineFile:
    """Read a pipeline by name or file, with --set STAGE.key=value laid over its stages; ConfigError holds all that is wrong."""
    cwd = cwd or Path.cwd()
    path = lookup.find("pipeline", pipeline, cwd)
    file = strict_yaml.read(path, str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path))
    problems = [_unknown(key, node.place, key, _TOP) for key, node in file.value.items() if key not in _TOP]
    nodes = file.value.get("stages")
    if nodes is None or not isinstance(nodes.value, list) or not nodes.value:
        hint = "stages: a list of {name, recipe, set}"
        raise ConfigError([*problems, Problem("a pipeline needs a list of stages", nodes.place if nodes else file.place, "stages", hint)])
    stages: list[Stage] = []
    for index, node in enumerate(nodes.value):
        stage, found = _stage(node, f"stages[{index}]", stages)
        problems += found
        stages += [stage] if stage is not None else []
    stages, wrong = _with_sets(stages, overlay(sets))
    problems += wrong
    for index, stage in enumerate(stages):
        problems += _reference_problems(stage, [s.name for s in stages], index)
    if problems:
        raise ConfigError(problems)
    text = file.value.get("description")
    return PipelineFile(path.stem if lookup.is_path(pipeline) else pipeline, str(text.value or "") if text else "", tuple(stages))


def resolved(node: Node, value_of: Callable[[Reference], str], path: KeyPath = ()) -> Node:
    """Return the tree with every reference replaced by what it stands for."""
    if is_reference(node):
        return replace(node, value=value_of(_reference(node, path)))
    if isinstance(node.value, dict):
        return replace(node, value={key: resolved(item, value_of, (*path, key)) for key, item in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[resolved(item, value_of, (*path, i)) for i, item in enumerate(node.value)])
    return node


def is_reference(node: Node) -> bool:
    return isinstance(node.value, dict) and "stage" in node.value


# --- one stage


def _stage(node: Node, key: str, before: Sequence[Stage]) -> tuple[Stage | None, list[Problem]]:
    if not isinstance(node.value, dict):
        return None, [Problem("a stage is a mapping", node.place, key, "- name: teacher, and its recipe below it")]
    problems = [_unknown(name, item.place, f"{key}.{name}", _STAGE) for name, item in node.value.items() if name not in _STAGE]
    texts: dict[str, str] = {}
    for name in ("name", "recipe"):
        item = node.value.get(name)
        if item is not None and isinstance(item.value, str) and item.value:
            texts[name] = item.value
        else:
            problems.append(Problem(f"{name!r} must be a word" if item else f"{name!r} is missing", (item or node).place, f"{key}.{name}"))
    if len(texts) < 2:
        return None, problems
    name_place = node.value["name"].place
    problems += [replace_key(p, f"{key}.name", name_place) for p in _name_problems(texts["name"], [s.name for s in before])]
    over, wrong = _overlay(node.value.get("set"), f"{key}.set")
    return Stage(texts["name"], texts["recipe"], node.value["recipe"].place, over), problems + wrong


def replace_key(problem: Problem, key: str, place: Place) -> Problem:
    return problem._replace(key=key, where=problem.where or place)


def _name_problems(name: str, before: Sequence[str]) -> list[Problem]:
    if name in before:
        return [Problem(f"two stages are called {name!r}", hint="each needs a name of its own")]
    if name in FOR_ALL or "." in name:
        return [Problem(f"{name!r} cannot name a stage", hint=f"--set STAGE.key=value reads it; {' and '.join(FOR_ALL)} mean all stages")]
    try:
        check_run_name(name)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        return [Problem(message, hint=hint)]
    return []


def _overlay(node: Node | None, key: str) -> tuple[Node, list[Problem]]:
    """Return the tree of `set`, whose keys are dotted."""
    tree = Node({}, node.place if node is not None else Place(""))
    if node is None or node.value is None:
        return tree, []
    if not isinstance(node.value, dict):
        return tree, [Problem("set is a mapping of dotted keys", node.place, key, "for example set: {train.max_steps: 400}")]
    problems = []
    for name, item in node.value.items():
        parts = name.split(".")
        if not all(parts):
            problems.append(Problem(f"{name!r} is not a dotted key", item.place, key, "for example train.max_steps"))
            continue
        for part in reversed(parts):
            item = Node({part: item}, item.place)
        tree = merge(tree, item)
    return tree, problems


def _with_sets(stages: Sequence[Stage], overrides: Node) -> tuple[list[Stage], list[Problem]]:
    """Lay --set over the stages it names; `cluster` and `tiny` over all."""
    names = [stage.name for stage in stages]
    problems = []
    for word, node in overrides.value.items():
        if word not in (*names, *FOR_ALL):
            near = closest(word, names)
            hint = f"did you mean {near}? " if near else ""
            problems.append(
                Problem(f"no stage is called {word!r}", node.place, word, f"{hint}--set STAGE.key=value; stages: {', '.join(names)}")
            )
        elif word in names and not isinstance(node.value, dict):
            problems.append(Problem(f"{word} is a stage, not a value", node.place, word, f"for example --set {word}.train.max_steps=100"))
    shared = replace(overrides, value={word: node for word, node in overrides.value.items() if word in FOR_ALL})
    made = []
    for stage in stages:
        own = overrides.value.get(stage.name)
        over = merge(stage.over, own) if own is not None and isinstance(own.value, dict) else stage.over
        made.append(replace(stage, over=merge(over, shared) if shared.value else over))
    return made, problems


# --- references


def _reference(node: Node, path: KeyPath) -> Reference:
    value: dict[str, Any] = node.plain
    export = "live" if "checkpoint" in value else value.get("export")
    return Reference(str(value["stage"]), export, value.get("output"), str(value.get("role", "student")), node.place, dotted(path))


def _reference_problems(stage: Stage, names: Sequence[str], index: int) -> list[Problem]:
    return [
        problem
        for path, node in stage.over.walk()
        if is_reference(node)
        for problem in _wrong_reference(node, f"{stage.name}.{dotted(path)}", stage.name, names, index)
    ]


def _wrong_reference(node: Node, key: str, own: str, names: Sequence[str], index: int) -> list[Problem]:
    value, place = node.plain, node.place
    stage_name = value["stage"]
    problems = [_unknown(name, item.place, f"{key}.{name}", _REFERENCE) for name, item in node.value.items() if name not in _REFERENCE]
    if stage_name not in names:
        near = closest(str(stage_name), names)
        hint = f"did you mean {near}?" if near else f"stages: {', '.join(names)}"
        problems.append(Problem(f"no stage is called {stage_name!r}", place, key, hint))
    elif stage_name == own:
        problems.append(Problem(f"{own} names itself", place, key, "a stage can only use what a stage before it made"))
    elif names.index(stage_name) >= index:
        problems.append(Problem(f"{stage_name} comes after {own}", place, key, "a stage can only use what a stage before it made"))
    for name, known in (("export", EXPORTS), ("checkpoint", CHECKPOINTS), ("output", OUTPUTS)):
        if name in value and value[name] not in known:
            problems.append(Problem(f"{name} must be {' or '.join(known)}, not {value[name]!r}", place, f"{key}.{name}"))
    if len({"export", "checkpoint", "output"} & value.keys()) != 1 and not problems:
        hint = "{stage: NAME, export: live} for its weights, {stage: NAME, output: data} for the data it made"
        problems.append(Problem("name one of export, checkpoint and output", place, key, hint))
    return problems


def _unknown(name: str, place: Place, key: str, known: Sequence[str]) -> Problem:
    near = closest(name, known)
    return Problem(f"unknown key {name!r}", place, key, f"did you mean {near}?" if near else f"known here: {', '.join(known)}")
