"""Owns where a run's numbers go: metrics.jsonl, TensorBoard, dashboards, and into a checkpoint what metrics.jsonl lacks. Ends no run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.tracking import TrackingConfig
from . import dashboards
from .metrics import Record
from .metrics_file import CARRIED, MetricsFile
from .outlived import RETRY_S, Outlived
from .tensorboard_events import TensorBoardEvents

log = logging.getLogger(__name__)


class Tracker:
    """Everything that rank 0 records; on other ranks it does nothing.

    recipe: the configuration that dashboards show.
    carried: what the checkpoint of `last_step` carries for metrics.jsonl.
    tell: gets a sentence where a place fails, and where it works again.
    is_current: whether no later attempt has taken over.
    """

    def __init__(
        self, run_dir: Path, last_step: int, config: TrackingConfig, recipe: dict[str, Any], *, enabled: bool, carried: bytes = b"",
        tell: Callable[[str], None] = log.warning, is_current: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._tell = tell
        self._metrics: MetricsFile | None = None
        self._sinks: list[Any] = []
        self._files: list[Outlived] = []
        self._places: list[Outlived] = []
        self._carried_at = 0  # the newest step whose checkpoint was given lines to carry
        if not enabled:
            return
        shown = dashboards.dashboards(run_dir, config, recipe, tell)  # first, because a package may be missing
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", last_step, carried, is_current)
        files: list[Any] = [self._metrics, *([TensorBoardEvents(run_dir / "tensorboard", last_step)] if config.tensorboard else [])]
        self._sinks = [*files, *shown]
        self._files = [Outlived(sink, tell, RETRY_S) for sink in files]
        self._places = [*self._files, *(Outlived(sink, tell, dashboards.RETRY_S) for sink in shown)]
        self._attend()

    def write(self, record: Record) -> None:
        """Pass a step's record to all files and dashboards."""
        for sink in self._sinks:
            sink.record(record.values)
        self._attend()

    def amend(self, step: int, values: dict[str, Any], sheet: Path | None, videos: Sequence[tuple[str, Path]]) -> None:
        """Add what was measured at a step after it was recorded, and show what it looks like: (prompt, file) of each video."""
        if self._metrics is not None and not self._metrics.amend(step, values):
            self._tell(f"metrics.jsonl lacks what was measured at step {step}: the step's line cannot be read")
        for sink in self._sinks[1:]:
            sink.record({"step": step, **values})
            sink.show(step, sheet, videos)
        self._attend()

    def before_checkpoint(self, step: int) -> dict[str, bytes]:
        """Make the records up to a step survive a power cut; return the files, by name, with which its checkpoint carries what is refused.

        May be called from any thread.
        """
        for place in self._files:
            place.sync()
        carried = b"" if self._metrics is None else self._metrics.carried(step)
        self._carried_at = step if carried else 0
        return {CARRIED: carried} if carried else {}

    def close(self, last_checkpoint: int | None = None) -> None:
        """Write what can be written, and tell what is missing, and whether the run's last checkpoint carries it."""
        for place in self._places:
            place.close()
        if self._metrics is not None and self._metrics.lacking() and last_checkpoint and self._carried_at == last_checkpoint:
            self._tell(f"the checkpoint of step {last_checkpoint} carries these lines in {CARRIED}; the next start of this run writes them")

    def _attend(self) -> None:
        for place in self._places:
            place.attend()
