"""Owns making a run's data on first use: a whole folder, published by one rename. Must not overwrite what is already there.

Two runs may do it at once: each works in a folder of its own, the first rename wins, and the other uses what it finds.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.data import DataConfig, ShapesConfig
from ..config.stored_json import read_object
from ..errors import UserError
from ..files import new_folder, publish_folder
from ..models.codecs import shapes
from .clips import Settings
from .video_task import preprocess

MARKER = "prepared.json"
"""The file of a prepared folder with the settings that made it."""
_VERSION = 1
"""Version of the prepared data, to be raised when the same settings come to make other data."""


def ensure(config: DataConfig, *, report: Callable[[str, int], None]) -> None:
    """Make the data at `config.path` if `config.prepare` is set and it is not there yet. `report` gets (what is done, count)."""
    if config.prepare is None:
        return
    if not isinstance(config.path, str):
        raise UserError("data.prepare makes one folder, but data.path names several", "prepare: null, or one path")
    target, required = Path(config.path).resolve(), {"version": _VERSION, **config.prepare.model_dump(mode="json")}
    if _is_there(target, required):
        return
    try:
        _make_and_publish(config.prepare, target, required, report)
    except OSError as error:
        raise UserError(f"cannot make the data at {target}: {error.strerror or error}", "data.path must be on a disk with room") from error


def _is_there(target: Path, required: dict[str, Any]) -> bool:
    try:
        stored = read_object(target / MARKER)
    except ValueError as error:
        raise UserError(f"{target / MARKER} is not JSON", "remove the folder to make it anew") from error
    except NotADirectoryError as error:
        raise UserError(f"data.path {target} is not a folder") from error
    except OSError:
        if target.is_dir() and any(target.iterdir()):
            raise UserError(
                f"{target} exists and was not made by data.prepare", "set data.prepare: null to train on it as it is, or another data.path"
            ) from None
        return False
    if stored != required:
        raise UserError(f"{target} was made with other settings: {_differences(stored, required)}", "use another data.path, or remove it")
    return True


def _differences(stored: Any, required: dict[str, Any]) -> str:
    if not isinstance(stored, dict):
        return "its marker is not a mapping"
    keys = sorted(k for k in {*stored, *required} if stored.get(k) != required.get(k))
    return ", ".join(f"{k} is {stored.get(k)!r}, this run asks for {required.get(k)!r}" for k in keys)


def _make_and_publish(prepare: ShapesConfig, target: Path, required: dict[str, Any], report: Callable[[str, int], None]) -> None:
    with new_folder(target) as temporary:
        _make(prepare, temporary, report)
        (temporary / MARKER).write_text(json.dumps(required))
        _publish(temporary, target, required)


def _make(prepare: ShapesConfig, folder: Path, report: Callable[[str, int], None]) -> None:
    clips = shapes.write_clips(
        folder, repeats=prepare.repeats, upscale=prepare.upscale, report=lambda count: report("writing clips", count)
    )
    settings = Settings(shapes.NUM_FRAMES, shapes.SIZE, shapes.SIZE, shapes.FPS)
    summary = preprocess(
        folder,
        folder,
        shapes.ShapesCodec(),
        settings,
        report=lambda count: report("encoding clips", count),
        validation_prompts=list(dict.fromkeys(mode.caption for mode in shapes.MODES)),
    )
    if summary["written"] != clips:
        first = summary["problems"][0]
        raise UserError(f"{clips - summary['written']} of {clips} clips just written cannot be read: {first['name']}: {first['text']}")


def _publish(temporary: Path, target: Path, required: dict[str, Any]) -> None:
    try:
        publish_folder(temporary, target)  # an empty folder gives way, one with anything in it does not
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not _is_there(target, required):
            raise
