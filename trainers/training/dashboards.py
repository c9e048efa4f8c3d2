"""Owns telling wandb and trackio what metrics.jsonl records: one run of theirs for all attempts of one run here. Must not end a training
run.

The id of their run is kept in the run's folder. Steps that are made again after a resume are logged again, with the step as a value, so
that the dashboards accept them. Once they have started, any failure of theirs is logged once, and that dashboard is not called again.
"""

from __future__ import annotations

import importlib
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.tracking import TrackingConfig
from ..errors import UserError
from ..files import publish_json

log = logging.getLogger(__name__)

_FILE = "tracking.json"
_NOT_SHOWN = ("step", "attempt")
"""Keys of a record that are no measurement."""


class Dashboard:
    """One of the two packages, together with the run that `start` opens in it."""

    def __init__(self, name: str, start: Callable[[Any], Any]) -> None:
        self._name = name
        try:
            self._module: Any = importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"tracking.{name}: the package {name} is not installed", f"pip install {name}, or remove tracking.{name}"
            ) from None
        self._run: Any = self._module
        self._run = self._attempt(lambda: start(self._module))

    def write(self, values: dict[str, Any]) -> None:
        """Log the numbers of a step's record."""
        shown = {f"train/{name}": value for name, value in values.items() if name not in _NOT_SHOWN and value is not None}
        self._log(shown, values["step"])

    def show(self, step: int, sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Log a validation's contact sheet, and its videos as (prompt, file)."""
        shown: dict[str, Any] = {} if sheet is None else {"samples/sheet": self._module.Image(str(sheet))}
        options = {"format": "mp4"} if self._name == "wandb" else {}
        for number, (prompt, path) in enumerate(videos):
            shown[f"samples/{number:03d}"] = self._module.Video(str(path), caption=prompt, **options)
        if shown:
            self._log(shown, step)

    def close(self) -> None:
        self._attempt(lambda: self._run.finish())

    def _log(self, values: dict[str, Any], step: int) -> None:
        if self._name == "wandb":  # it drops a step that it has seen before, so it gets the step as a value
            self._attempt(lambda: self._run.log({"step": step, **values}))
        else:
            self._attempt(lambda: self._run.log(values, step=step))

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """Return what `action` returns; after its first failure log a warning, and do nothing from then on."""
        if self._run is None:
            return None
        try:
            return action()
        except Exception as error:
            self._run = None
            log.warning("%s is left alone from now on: %s: %s", self._name, type(error).__name__, str(error).strip()[:300])
            return None


def dashboards(run_dir: Path, config: TrackingConfig, recipe: dict[str, Any]) -> list[Dashboard]:
    """Return the configured dashboards. `recipe` is the run's configuration, which they show. UserError where a package is missing."""
    started = []
    if config.wandb is not None:
        started.append(Dashboard("wandb", lambda wandb: _start_wandb(wandb, run_dir, config.wandb, recipe)))
    if config.trackio is not None:
        started.append(Dashboard("trackio", lambda trackio: _start_trackio(trackio, run_dir, config.trackio, recipe)))
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
