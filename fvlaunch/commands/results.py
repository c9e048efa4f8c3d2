"""Owns what is made of a run's weights: `export` and `sample` start the trainers' own programs. Must not import torch.

They run here, with the interpreter that the run's cluster names, or where --cluster says: with a local profile's interpreter and setup,
or as a Slurm job of one process that is waited for. The programs check what they are asked for and tell what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..lifecycle.tool_job import Value, make
from .selection import find


def export(word: str, options: Mapping[str, Value], cluster: str | None, runs_dir: Path | None) -> int:
    """Write a run's weights as a folder for stock diffusers; return the program's exit code."""
    return make("export", find(word, runs_dir, to="export").path, options, cluster)


def sample(word: str, options: Mapping[str, Value], cluster: str | None, runs_dir: Path | None) -> int:
    """Make videos with a run, or a folder that was exported or downloaded; return the program's exit code."""
    folder = Path(word)
    is_model = folder.is_dir() and not (folder / "run.json").is_file()
    return make("sample", folder if is_model else find(word, runs_dir, to="sample").path, options, cluster)
