"""Owns telling wandb and trackio what metrics.jsonl records: one run of theirs for all attempts of one run here. Must not end a training
run.

The id of their run is kept in the run's folder. Steps that are made again after a resume are logged again, with the step as a value, so
that the dashboards accept them. What a disk refuses is logged again later; after any other failure a dashboard is told of once and not
called again, because a network that does not answer holds up the training at each attempt.
"""

from __future__ import annotations

import importlib
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.os_errors import is_site_fault
from ..config.tracking import TrackingConfig
from ..errors import UserError
from ..files import publish_json
from .outlived import reason

RETRY_S = 60.0
"""Seconds between two attempts at a disk: starting a dashboard takes some of them."""
_MOST_KEPT = 100_000
_FILE = "tracking.json"
_NOT_SHOWN = ("step", "attempt")
"""Keys of a record that are no measurement."""


class Dashboard:
    """One of the two packages, together with the run that `start` opens in it at the first `write`."""

    def __init__(self, name: str, start: Callable[[Any], Any], tell: Callable[[str], None]) -> None:
        self.name, self._start, self._tell = name, start, tell
        self._module: Any = None
        self._run: Any = None
        self._left_alone = False
        self._kept: deque[tuple[int, Callable[[], dict[str, Any]]]] = deque()  # (step, what makes its values): files are read when sent
        self._given_up: list[int] = []
        try:
            self._import()
        except UserError:
            raise
        except Exception as error:  # some make folders as they are imported
            if not is_site_fault(error):
                self._leave_alone(error)

    def record(self, values: dict[str, Any]) -> None:
        """Take the numbers of a step's record."""
        shown = {f"train/{name}": value for name, value in values.items() if name not in _NOT_SHOWN and value is not None}
        self._keep(values["step"], lambda: shown)

    def show(self, step: int, sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Take a validation's contact sheet, and its videos as (prompt, file)."""

        def shown() -> dict[str, Any]:
            options = {"format": "mp4"} if self.name == "wandb" else {}
            pictures = {} if sheet is None else {"samples/sheet": self._module.Image(str(sheet))}
            made = [self._module.Video(str(path), caption=prompt, **options) for prompt, path in videos]
            return {**pictures, **{f"samples/{number:03d}": video for number, video in enumerate(made)}}

        if sheet is not None or videos:
            self._keep(step, shown)

    def write(self) -> None:
        """Log what was taken. Raises what a disk refuses; anything else is told, and the dashboard left alone."""
        if self._left_alone:
            self._kept.clear()
            return
        try:
            if self._module is None:
                self._import()
            if self._run is None:
                self._run = self._start(self._module)
            while self._kept:
                step, values = self._kept[0]
                self._log(values(), step)
                self._kept.popleft()
        except Exception as error:
            if is_site_fault(error):
                raise
            self._leave_alone(error)

    def sync(self) -> None:
        """Do what `write` does: what the packages do with a disk is their own."""
        self.write()

    def close(self) -> None:
        if self._run is None or self._left_alone:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._leave_alone(error)

    def lacking(self) -> list[int]:
        """Return the steps that were not logged."""
        return [step for step, _ in self._kept]

    def given_up(self) -> list[int]:
        """Return the first and the last step that were more than could be kept, if any."""
        return self._given_up

    def _import(self) -> None:
        try:
            self._module = importlib.import_module(self.name)
        except ImportError:
            raise UserError(
                f"tracking.{self.name}: the package {self.name} is not installed",
                f"pip install {self.name}, or remove tracking.{self.name}",
            ) from None

    def _keep(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        self._kept.append((step, values))
        if len(self._kept) > _MOST_KEPT:
            self._given_up = [*self._given_up[:1], self._kept.popleft()[0]]

    def _log(self, values: dict[str, Any], step: int) -> None:
        if self.name == "wandb":  # it drops a step that it has seen before, so it gets the step as a value
            self._run.log({"step": step, **values})
        else:
            self._run.log(values, step=step)

    def _leave_alone(self, error: Exception) -> None:
        self._left_alone = True
        self._kept.clear()
        self._tell(f"{self.name} is left alone from now on: {reason(error)}")


def dashboards(run_dir: Path, config: TrackingConfig, recipe: dict[str, Any], tell: Callable[[str], None]) -> list[Dashboard]:
    """Return the configured dashboards. `recipe` is the run's configuration, which they show. UserError where a package is missing."""
    started = []
    if config.wandb is not None:
        started.append(Dashboard("wandb", lambda wandb: _start_wandb(wandb, run_dir, config.wandb, recipe), tell))
    if config.trackio is not None:
        started.append(Dashboard("trackio", lambda trackio: _start_trackio(trackio, run_dir, config.trackio, recipe), tell))
    return started


def _start_wandb(wandb: Any, run_dir: Path, config: Any, recipe: dict[str, Any]) -> Any:
    run = wandb.init(
        project=config.project, entity=config.entity, mode=config.mode, tags=config.tags or None, id=run_id(run_dir), name=run_dir.name,
        resume="allow", dir=str(run_dir), config=recipe,
    )  # fmt: skip
    run.define_metric("*", step_metric="step")
    return run


def _start_trackio(trackio: Any, run_dir: Path, config: Any, recipe: dict[str, Any]) -> Any:
    name = f"{run_dir.name}-{run_id(run_dir)}"
    return trackio.init(project=config.project, space_id=config.space_id, name=name, resume="allow", config=recipe, embed=False)


def run_id(run_dir: Path) -> str:
    """Return the id of the dashboards' run, which the first attempt draws and all others read from the run's folder."""
    path = run_dir / _FILE
    try:
        return str(json.loads(path.read_text())["id"])
    except (OSError, ValueError, KeyError, TypeError):
        drawn = secrets.token_hex(4)
    publish_json(path, {"id": drawn})
    return drawn
