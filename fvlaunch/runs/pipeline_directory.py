"""Owns a pipeline's folder: pipeline.json and the run directories of its stages in it. Must not ask the scheduler anything.

Agents read it too: what a stage needs of the ones before it stands here by name, so the folder can be copied as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, RunConflict
from ..files import publish_json_somehow, read_json
from . import locks
from .directory import PIPELINE_FILE, Run
from .record_check import NAME, TIME, Shape, list_of, one_of, or_null, why_unreadable


@dataclass(frozen=True)
class Export:
    """Weights that a stage starts from: made of an earlier stage's run when the first stage that needs them starts."""

    stage: str
    weights: str
    """live or ema."""
    role: str
    merge: bool
    """The role was trained with LoRA: what is handed on is whole weights."""
    name: str | None = None
    """The folder's name in the earlier stage's run directory; None in records of before it was recorded."""

    @property
    def folder(self) -> str:
        """Return the folder's name, for a record without one by the rule that made it: then no name told whether weights are merged."""
        return self.name or f"export-{self.weights}" + ("" if self.role == "student" else f"-{self.role}")


@dataclass(frozen=True)
class StageRecord:
    name: str
    exports: tuple[Export, ...] = ()


@dataclass(frozen=True)
class PipelineRecord:
    """pipeline.json."""

    name: str
    pipeline: str
    cluster: str
    executor: str
    stages: tuple[StageRecord, ...]
    submitted_at: float
    driver: str | None = None
    """Local executor: the process that starts the stages one after the other, named like a local job."""
    host: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return what is written. An export without a name stays so: the run's own copy of the code reads it, which may not know names."""
        record = asdict(self)
        for stage in record["stages"]:
            stage["exports"] = [{key: value for key, value in export.items() if value is not None} for export in stage["exports"]]
        return record

    @classmethod
    def parse(cls, value: dict[str, Any]) -> PipelineRecord:
        """Make a record of pipeline.json's object. ValueError says which field is wrong."""
        if mistake := _RECORD.mistake(value) or ("" if value["stages"] else "is wrong: it has no stages"):
            raise ValueError(mistake)
        stages = tuple(StageRecord(s["name"], tuple(Export(**_EXPORT.known(e)) for e in s["exports"])) for s in value["stages"])
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names) or any(export.stage not in names for stage in stages for export in stage.exports):
            raise ValueError("is wrong: its stages do not fit together")
        return cls(**{**_RECORD.known(value), "stages": stages})


_EXPORT = Shape.of(Export, stage=NAME, weights=one_of(("live", "ema")), role=NAME, name=or_null(NAME))
_STAGE = Shape.of(StageRecord, required=("exports",), name=NAME, exports=list_of((_EXPORT.fits, "an export")))
_RECORD = Shape.of(PipelineRecord, stages=list_of((_STAGE.fits, "a stage")), executor=NAME, driver=or_null(NAME), submitted_at=TIME)


class Pipeline:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / PIPELINE_FILE

    def __repr__(self) -> str:
        return f"Pipeline({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.name

    def record(self) -> PipelineRecord:
        try:
            value = read_json(self.file)
            if value is not None:
                return PipelineRecord.parse(value)
            mistake = why_unreadable(self.file)
        except ValueError as error:
            mistake = str(error)
        hint = f"put {PIPELINE_FILE} back from a copy of the folder, or move the folder away; its stages' runs are whole"
        raise FvlaunchError(f"{self.file} {mistake}", hint=hint) from None

    @property
    def stages(self) -> list[Run]:
        """The runs of its stages, in order."""
        return [Run(self.path / stage.name) for stage in self.record().stages]

    def write(self, record: PipelineRecord) -> None:
        publish_json_somehow(self.file, record.plain())

    @contextlib.contextmanager
    def exclusive(self, what: str = ".lock", wait_s: float = 20.0) -> Iterator[None]:
        """One command at a time."""
        busy = RunConflict(f"another command is at work on {self.name}", hint=f"fvlaunch status {self.name}")
        with locks.held(self.path / what, wait_s, busy):
            yield


def of_stage(run: Run) -> Pipeline | None:
    """Return the pipeline that a run is a stage of; None where it is none."""
    pipeline = Pipeline(run.path.parent)
    if not pipeline.file.is_file():
        return None
    return pipeline if run.path.name in [stage.name for stage in pipeline.record().stages] else None


def unfinished_before(run: Run) -> str | None:
    """Return why a stage must not start yet: the earlier one that is not finished, in words."""
    pipeline = of_stage(run)
    for earlier in pipeline.stages if pipeline is not None else ():
        if earlier.path == run.path:
            break
        state = earlier.record().state
        if state != "finished":
            return f"the stage before it, {earlier.name}, is not finished: {state}"
    return None


def inputs(run: Run) -> list[dict[str, Any]]:
    """Return what a stage's ranks export before they start, as `python -m trainers` reads it."""
    pipeline = of_stage(run)
    if pipeline is None:
        return []
    own = next(stage for stage in pipeline.record().stages if stage.name == run.path.name)
    return [
        {
            "run": str(pipeline.path / e.stage),
            "to": str(pipeline.path / e.stage / e.folder),
            "weights": e.weights,
            "role": e.role,
            "merge": e.merge,
        }
        for e in own.exports
    ]
