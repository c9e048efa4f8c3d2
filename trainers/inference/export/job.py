"""Owns the `export` program: a job that writes a run's weights as a folder, as a pipeline's last stage does; see trainers/export.py."""

from __future__ import annotations

import logging
from pathlib import Path

from ...config.programs.export import Config
from ...control import EXIT_FINISHED, EXIT_SAVED, Control
from .required_exports import RequiredExport, ensure

log = logging.getLogger(__name__)


def run(config: Config, _run_dir: Path, control: Control) -> int:
    """Let rank 0 make the folder, whole or not at all, and return the exit code of this rank.

    A folder of the same weights that is there already, as after a restart, is left as it is; another one is a UserError.
    """
    required = RequiredExport(run=Path(config.run), to=config.folder, weights=config.weights, role=config.role, merge=config.merge)
    if not ensure([required], control):
        return EXIT_SAVED
    log.info("the weights are in %s", config.folder)
    return EXIT_FINISHED
