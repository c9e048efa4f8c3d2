"""Owns what a job needs of another run before it starts: that run's weights, exported once. Must not import torch.

Rank 0 runs `python -m trainers.export`, which publishes the folder by rename; the others wait for it. A job that is stopped meanwhile,
or killed, does it again at its next start; once the folder is there it is never made again, only checked against what is required.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ...config.export_folder import LORA_FILE, TRAINING, WeightsKind
from ...config.stored_json import read_object
from ...control import Control, die_with_parent
from ...errors import UserError
from ...processes import module_command

_POLL_S = 0.5
_HINT = "move that folder away and it is made again; or name another one"


class RequiredExport(BaseModel):
    """Weights of `role` in the newest checkpoint of `run`, required as the folder `to`."""

    model_config = ConfigDict(extra="forbid")
    run: Path
    to: Path
    weights: WeightsKind = "live"
    role: str = "student"
    merge: bool = False
    """Whether a LoRA run's adapter is merged into whole weights."""

    @property
    def argv(self) -> list[str]:
        """Return the command that makes the folder."""
        options = ["--to", str(self.to), "--weights", self.weights, "--role", self.role, *(["--merge"] if self.merge else [])]
        return module_command("trainers.export", str(self.run), *options)


def ensure(required: Sequence[RequiredExport], control: Control) -> bool:
    """Wait until all folders are there; return False where a stop was requested before they were.

    UserError says why one cannot be made, or that other weights than the required ones are in its place.
    """
    return all(_make(export, control) if control.rank == 0 else _await(export, control) for export in required)


def _make(export: RequiredExport, control: Control) -> bool:
    if _is_there(export.to):
        _refuse_other_weights(export)
        return True
    for leftover in export.to.parent.glob(f".{export.to.name}.*"):  # of a rank that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    child = subprocess.Popen(
        export.argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    )
    messages = _messages_of(child, export, control)
    if messages is None:
        return False
    sys.stderr.write(messages)
    if _is_there(export.to):
        return True
    if child.returncode == 1:
        raise UserError(f"the weights of {export.run} cannot be exported: {messages.strip().removeprefix('error: ')}")
    raise RuntimeError(f"the export of {export.run} ended with {child.returncode}: {messages[-1000:]}")


def _messages_of(child: subprocess.Popen[str], export: RequiredExport, control: Control) -> str | None:
    """Wait for the child and return what it wrote to stderr; None where a stop was requested, which kills it."""
    while True:
        try:
            return child.communicate(timeout=_POLL_S)[1]
        except subprocess.TimeoutExpired:
            _report_progress(export, control)
            if control.stop_requested:
                child.kill()
                child.communicate()
                return None


def _await(export: RequiredExport, control: Control) -> bool:
    while not _is_there(export.to):
        if control.stop_requested:
            return False
        _report_progress(export, control)
        time.sleep(_POLL_S)
    return True


def _is_there(folder: Path) -> bool:
    """Look the folder up by listing: a file system between nodes remembers for a while that a name was missing."""
    with contextlib.suppress(OSError):
        return folder.name in os.listdir(folder.parent)  # noqa: PTH208
    return False


def _refuse_other_weights(export: RequiredExport) -> None:
    """Raise UserError unless the folder that is there holds the weights that are required."""
    try:
        facts = read_object(export.to / TRAINING)
        there = facts["weights"], facts["role"]
        trained_adapter = _has_adapter(facts["train"]["models"][facts["role"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{export.to} is there, but is no exported folder: {TRAINING}: {type(error).__name__}", _HINT) from None
    merged = trained_adapter and not (export.to / LORA_FILE).is_file()
    required = _described(export.weights, export.role, merged=export.merge and trained_adapter)
    if (found := _described(*there, merged=merged)) != required:
        raise UserError(f"{export.to} holds {found}, but {required} are required", _HINT)


def _has_adapter(section: dict[str, Any]) -> bool:
    """Return whether a role's section of the configuration trains adapters, its own or its experts'."""
    experts = section.get("experts") or {}
    return bool(section.get("lora")) or any(expert.get("lora") for expert in experts.values())


def _described(weights: str, role: str, *, merged: bool) -> str:
    return f"the {weights} weights of {role!r}" + (" with the adapter merged into them" if merged else "")


def _report_progress(export: RequiredExport, control: Control) -> None:
    """Report the bytes written so far. An export that stands still counts as hung, like any other work."""
    written = 0
    for path in export.to.parent.glob(f".{export.to.name}.*/**/*"):
        with contextlib.suppress(OSError):
            written += path.stat().st_size
    control.progress("preparing", written, what="exporting weights")
