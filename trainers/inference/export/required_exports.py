"""Owns what a job needs of another run before it starts: that run's weights, exported once. Must not import torch.

Rank 0 runs `python -m trainers.export`, which publishes the folder by rename; the others wait for it. A job that is stopped meanwhile,
or killed, does it again at its next start; once the folder is there it is never made again.
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
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ...control import Control, die_with_parent
from ...errors import UserError

_POLL_S = 0.5


class Input(BaseModel):
    """Weights of `role` in the newest checkpoint of `run`, wanted as the folder `to`."""

    model_config = ConfigDict(extra="forbid")
    run: Path
    to: Path
    weights: Literal["live", "ema"] = "live"
    role: str = "student"
    merge: bool = False
    """Of a LoRA run: whole weights with the adapter in them."""

    @property
    def argv(self) -> list[str]:
        options = ["--to", str(self.to), "--weights", self.weights, "--role", self.role, *(["--merge"] if self.merge else [])]
        return [sys.executable, "-m", "trainers.export", str(self.run), *options]


def ensure(wanted: Sequence[Input], control: Control) -> bool:
    """Wait until all are there; False where a stop was asked for before they were. UserError says why one cannot be made."""
    return all(_make(one, control) if control.rank == 0 else _await(one, control) for one in wanted)


def _make(wanted: Input, control: Control) -> bool:
    if _is_there(wanted.to):
        return True
    for left_over in wanted.to.parent.glob(f".{wanted.to.name}.*"):  # of a rank that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    child = subprocess.Popen(
        wanted.argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    )
    while True:
        try:
            _, said = child.communicate(timeout=_POLL_S)
            break
        except subprocess.TimeoutExpired:
            _tell(wanted, control)
            if control.stop_requested:
                child.kill()
                child.communicate()
                return False
    sys.stderr.write(said)
    if _is_there(wanted.to):
        return True
    if child.returncode == 1:
        raise UserError(f"the weights of {wanted.run} cannot be exported: {said.strip().removeprefix('error: ')}")
    raise RuntimeError(f"the export of {wanted.run} ended with {child.returncode}: {said[-1000:]}")


def _await(wanted: Input, control: Control) -> bool:
    while not _is_there(wanted.to):
        if control.stop_requested:
            return False
        _tell(wanted, control)
        time.sleep(_POLL_S)
    return True


def _is_there(folder: Path) -> bool:
    """By listing, since a file system between nodes remembers for a while that a name was missing."""
    with contextlib.suppress(OSError):
        return folder.name in os.listdir(folder.parent)  # noqa: PTH208
    return False


def _tell(wanted: Input, control: Control) -> None:
    """The heartbeat: bytes written so far. An export that stands still counts as hung, like any other work."""
    written = 0
    for path in wanted.to.parent.glob(f".{wanted.to.name}.*/**/*"):
        with contextlib.suppress(OSError):
            written += path.stat().st_size
    control.progress("preparing", written, what="exporting weights")
