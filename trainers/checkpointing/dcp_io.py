"""Owns what a checkpoint may hold and how torch.distributed.checkpoint (DCP) reads and writes it here.

Must not know about publishing or process groups. DCP by itself loads what it finds, casts types silently, unpickles values without
restriction and hides "no space left" behind its own error; the classes below close these gaps.
"""

from __future__ import annotations

import dataclasses
import enum
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from .keys import is_optional
from .manifest import METADATA

_PLAIN = (int, float, bool, str, type(None))
_SHOWN = 10


class KeyMismatch(Exception):
    """The state's keys, shapes or types are not the checkpoint's; the argument says which, in one line."""


class UnreadableIndex(BaseException):
    """The index of a checkpoint cannot be read, for the reason in `args[0]`. No Exception: DCP catches these, tries on and forgets why."""


def check_state(state: Mapping[str, Any], path: str = "") -> None:
    """Raise TypeError for a value that `weights_only=True` could not load again; the error names its key."""
    for key, value in state.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            check_state(value, where)
        elif not _loadable(value):
            raise TypeError(f"checkpoint state {where}: {type(value).__name__} is not a tensor, number, string or a list or dict of these")


def _loadable(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(_loadable(item) for item in value)
    if isinstance(value, Mapping):
        return all(_loadable(item) for item in value.values())
    return isinstance(value, torch.Tensor) or type(value) in _PLAIN


def mismatches(required: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """Return, in one line, the keys on which `required` (flat state) and `saved` (DCP's metadata of it) differ; "" where none do."""
    both = sorted(required.keys() & saved.keys())
    required_as, saved_as = {key: _describe_required(required[key]) for key in both}, {key: _describe_saved(saved[key]) for key in both}
    groups = {
        "missing in the checkpoint": [key for key in sorted(required.keys() - saved.keys()) if not is_optional(key)],
        "unexpected in the checkpoint": [key for key in sorted(saved.keys() - required.keys()) if not is_optional(key)],
        "different": [
            f"{key} ({saved_as[key]} in the checkpoint, {required_as[key]} here)" for key in both if required_as[key] != saved_as[key]
        ],
    }
    return "; ".join(f"{kind}: {_some(keys)}" for kind, keys in groups.items() if keys)


def _some(keys: list[str]) -> str:
    hidden = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {hidden} more" if hidden > 0 else "")


def _describe_required(value: Any) -> str:
    return _tensor(value.dtype, value.shape) if isinstance(value, torch.Tensor) else "a plain value"


def _describe_saved(entry: Any) -> str:
    return "a plain value" if isinstance(entry, BytesStorageMetadata) else _tensor(entry.properties.dtype, entry.size)


def _tensor(dtype: Any, shape: Any) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


class StrictPlanner(DefaultLoadPlanner):
    """DCP's plan of a load that raises KeyMismatch before anything is read; `absent` then holds the callback keys that the checkpoint
    lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.absent: set[str] = set()

    def create_local_plan(self) -> Any:
        saved = self.metadata.state_dict_metadata
        if text := mismatches(self.state_dict, saved):
            raise KeyMismatch(text)
        self.absent = set(self.state_dict.keys() - saved.keys())
        return create_default_local_load_plan(self.state_dict, self.metadata, False)

    def load_bytes(self, read_item: Any, value: Any) -> None:
        plain = torch.load(value, weights_only=True)
        target = self.original_state_dict
        *parents, last = self.mappings[read_item.dest_index.fqn]
        for part in parents:
            target = target[part]
        target[last] = plain


class SafeReader(FileSystemReader):
    """DCP's reader that reads `.metadata` without running what a pickle may ask for, and with no fallback that only some ranks would
    take."""

    def read_metadata(self) -> Any:
        try:
            return read_metadata(Path(self.path))
        except Exception as error:
            raise UnreadableIndex(error) from None


class ErrorRevealingWriter(FileSystemWriter):
    """DCP's writer that raises the operating system's error of a failed write; torch.save turns it into "unexpected pos"."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=False, overwrite=False)  # the publisher fsyncs
        # filtered here and not around the call, which another thread makes: older versions of torch warn of their own code
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        self.written: set[str] = set()
        """Names of the files that this rank has written."""

    def prepare_local_plan(self, plan: Any) -> Any:
        if not Path(self.path).is_dir():  # DCP would make it anew, after a later attempt has cleared it away
            raise FileNotFoundError(f"{Path(self.path).name} was removed")
        return super().prepare_local_plan(plan)

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            results = super().write_data(plan, planner)
        except Exception as error:
            raise _system_error(error) from None
        self.written = {result.storage_data.relative_path for result in results.wait()}
        return results


def _system_error(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return OSError(cause.errno, cause.strerror) if isinstance(cause, OSError) else error


def one_line(error: BaseException) -> str:
    """Return the cause of an error in one line; the text of DCP's own exception is a traceback of every rank."""
    if isinstance(error, CheckpointException) and error.failures:
        return "; ".join(dict.fromkeys(f"rank {rank}: {one_line(pair[0])}" for rank, pair in error.failures.items()))
    if isinstance(error, UnreadableIndex):
        return one_line(error.args[0])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def read_metadata(folder: Path) -> Any:
    """Read DCP's index of the checkpoint: `state_dict_metadata` maps flat keys to shapes. It is a pickle, so only known types are let
    in."""
    with (folder / METADATA).open("rb") as stream:
        metadata = _MetadataUnpickler(stream).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"{METADATA} holds a {type(metadata).__name__}")
    return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if _permitted(module, name):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"{METADATA} asks for {module}.{name}")


def _member(kind: Any, name: str) -> Any:
    """Return a member of an enum, which Python 3.11.0 to 3.11.3 (Debian 12 has one of these) pickles as getattr(its class, its name)."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"{METADATA} asks for {name} of {kind}")


def _permitted(module: str, name: str) -> bool:
    """Return whether a pickle may name this: DCP's plain record types, and torch's sizes, types and layouts."""
    if module == "torch":
        return name == "Size" or isinstance(getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format))
    if module == "torch.serialization":
        return name == "_get_layout"
    if module in ("pathlib", "pathlib._local"):
        return name in ("PosixPath", "Path", "PurePosixPath")
    if module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"):
        member = getattr(__import__(module, fromlist=[name]), name, None)
        return isinstance(member, type) and (dataclasses.is_dataclass(member) or issubclass(member, enum.Enum))
    return False
