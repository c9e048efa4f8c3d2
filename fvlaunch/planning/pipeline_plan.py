"""Owns what submitting a pipeline would do: every stage composed, checked and planned, its references made paths. Must not submit.

All that is wrong with any stage is told at once, with keys as --set STAGE.key=value takes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.config.export_folder import WeightsKind, folder_name

from ..config import pipeline_file
from ..config.compose import Composed, compose
from ..config.pipeline_file import FOR_ALL, PipelineFile, Reference, Stage
from ..config.strict_yaml import Node
from ..config.values import check_run_name
from ..errors import ConfigError, FvlaunchError, NameTaken, Problem, counted
from ..runs import registry
from ..runs.pipeline_directory import Export, StageRecord
from .input_contents import check_contents
from .job_options import COMMAND_LINE
from .plan import Plan, default_name, free_name
from .planner import cluster_for, plan_of
from .preflight import check_inputs

FIRST_ONLY = ("dependency", "begin")
"""sbatch options that say when the pipeline begins."""


@dataclass(frozen=True)
class PipelinePlan:
    name: str
    path: Path
    """The pipeline's folder."""
    pipeline: str
    stages: tuple[Plan, ...]
    records: tuple[StageRecord, ...]

    @property
    def summary(self) -> str:
        return f"{counted(len(self.stages), 'stage')}: {' -> '.join(plan.name for plan in self.stages)}"


def plan_pipeline(
    pipeline: str, cluster: str | None, *, sets: Sequence[str], name: str | None, sbatch: Mapping[str, Any], runs_dir: Path | None
) -> PipelinePlan:
    """Return everything that submitting a pipeline needs; ConfigError holds what is wrong with any stage."""
    file = pipeline_file.read(pipeline, sets)
    wanted = _checked_name(name or default_name(file.name, datetime.now()))
    planner = _Planner(file, cluster_for(pipeline, cluster), wanted, sbatch, registry.runs_dir_option(runs_dir), any_name=name is None)
    for stage in file.stages:
        planner.add(stage)
    if planner.problems:
        raise ConfigError(dict.fromkeys(planner.problems))
    if os.path.lexists(planner.folder):
        raise NameTaken(
            f"a run or pipeline named {wanted!r} exists already: {planner.folder}",
            hint=f"choose another --name, or fvlaunch resume {planner.folder}",
        )
    return PipelinePlan(planner.name, planner.folder, file.name, tuple(planner.plans), tuple(planner.records))


def _checked_name(name: str) -> str:
    try:
        check_run_name(name)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        raise ConfigError.one(message, COMMAND_LINE, "--name", hint) from None
    return name


class _Planner:
    """Plans stage after stage; a stage that is wrong does not keep the ones after it from being looked at."""

    def __init__(
        self, file: PipelineFile, cluster: str | None, name: str, sbatch: Mapping[str, Any], runs_dir: Path | None, *,
        any_name: bool,
    ) -> None:  # fmt: skip
        self.any_name = any_name
        self.file, self.cluster, self.name, self.sbatch, self.runs_dir = file, cluster, name, dict(sbatch), runs_dir
        self.problems: list[Problem] = []
        self.composed: dict[str, Composed] = {}
        self.plans: list[Plan] = []
        self.records: list[StageRecord] = []
        self.folder = Path.cwd() / (runs_dir or "runs") / name  # until a cluster says otherwise
        self._exports: list[Export] = []
        self._stage: Stage = file.stages[0]
        self._made: set[str] = set()

    def add(self, stage: Stage) -> None:
        self._stage, self._exports = stage, []
        wrong = len(self.problems)
        over = pipeline_file.resolved(stage.over, self._value_of)
        if len(self.problems) > wrong:
            return
        try:
            self._plan(stage, over)
        except ConfigError as error:
            self.problems += [self._of_stage(problem) for problem in error.problems]
        except FvlaunchError as error:  # no such recipe
            self.problems.append(Problem(error.message, stage.recipe_place, f"{stage.name}.recipe", error.hint))

    def _plan(self, stage: Stage, over: Node) -> None:
        composed = compose(stage.recipe, self.cluster, over=over)
        self.composed[stage.name] = composed
        if not self.plans:
            runs_dir = Path(os.path.abspath(self.runs_dir or composed.cluster.runs_dir or "runs"))  # noqa: PTH100
            self.name = free_name(self.name, runs_dir) if self.any_name else self.name
            self.folder = runs_dir / self.name
        options = self.sbatch if stage is self.file.stages[0] else {k: v for k, v in self.sbatch.items() if k not in FIRST_ONLY}
        plan = plan_of(composed, name=stage.name, ranks=None, nodes=None, sbatch=options, runs_dir=self.folder)
        if len({one.executor for one in (*self.plans[:1], plan)}) > 1:
            raise ConfigError.one(f"{stage.name} is {plan.executor}, the stages before it {self.plans[0].executor}", stage.recipe_place)
        if self.plans and composed.cluster.continue_by == "resubmit":
            hint = "submit its stages one by one, or use a cluster with continue_by: requeue"
            message = "a pipeline's jobs wait for each other by number, and this cluster goes on with new jobs (continue_by: resubmit)"
            raise ConfigError.one(message, stage.recipe_place, "cluster.continue_by", hint)
        made_before = frozenset(self._made)
        self._made.update(_outputs(composed))  # whatever is wrong with this stage is not told of the next ones, too
        check_inputs(composed, made_before)
        plan = replace(plan, notes=(*plan.notes, *check_contents(composed, made_before, plan.ranks)))
        self.plans.append(replace(plan, pipeline=self.name))
        self.records.append(StageRecord(stage.name, tuple(self._exports)))

    def _of_stage(self, problem: Problem) -> Problem:
        """Name a problem's key with its stage, as --set takes it; what the cluster's file or the command line says concerns every stage."""
        for_all = problem.key.startswith(("--", *FOR_ALL))
        return problem if for_all else problem._replace(key=f"{self._stage.name}.{problem.key}".rstrip("."))

    def _value_of(self, reference: Reference) -> str:
        """Return the path that a reference stands for, and note where it has to be made."""
        composed = self.composed.get(reference.stage)
        if composed is None:  # that stage is wrong itself, which is told already
            return str(self.folder / reference.stage)
        run = self.folder / reference.stage
        if reference.output == "run":
            self._made.add(str(run))
            return str(run)
        if reference.output == "data":
            return self._data(reference, composed)
        train = composed.recipe.train
        if train is None:
            return self._wrong(reference, f"{reference.stage} trains nothing: it is a {composed.recipe.program} recipe", "output: data")
        model = train.models.get(reference.role)
        if model is None:
            return self._wrong(reference, f"{reference.stage} has no role {reference.role!r}", f"role: {' or '.join(train.models)}")
        if reference.export == "ema" and train.callbacks.ema is None:
            return self._wrong(
                reference, f"{reference.stage} keeps no averaged weights", f"export: live, or set {reference.stage}.train.callbacks.ema"
            )
        merge = getattr(model, "lora", None) is not None
        weights: WeightsKind = "ema" if reference.export == "ema" else "live"
        export = Export(reference.stage, weights, reference.role, merge, folder_name(weights, reference.role, merge=merge))
        if export not in self._exports:
            self._exports.append(export)
        self._made.add(str(run / export.folder))
        return str(run / export.folder)

    def _data(self, reference: Reference, composed: Composed) -> str:
        block: Any = composed.recipe.preprocess
        if block is None:
            return self._wrong(reference, f"{reference.stage} makes no data: it is a {composed.recipe.program} recipe", "export: live")
        return str(block.output)

    def _wrong(self, reference: Reference, message: str, hint: str) -> str:
        self.problems.append(Problem(message, reference.place, f"{self._stage.name}.{reference.key}", hint))
        return ""


def _outputs(composed: Composed) -> list[str]:
    """Return the folders that a stage fills, whether or not a later one names it."""
    block: Any = composed.recipe.preprocess
    train = composed.recipe.train
    made_on_first_use = list(train.data.folders) if train is not None and train.data.prepare is not None else []
    return [*([str(block.output)] if block is not None else []), *made_on_first_use]
