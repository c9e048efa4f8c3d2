"""Owns classes that a user wrote in a Python file of their own, named in a configuration as ./file.py:ClassName.

Loads such a class with what its file imports from beside it (config/own_imports.py says what that is), and checks the block that names
it by the configuration that the class asks for. Must not know what a method, a model family or a data source does. A mistake in the
user's file is one UserError that says where it is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from . import processes as processes  # whatever processes an own class starts
from .config import Section, TrainConfig, own_imports
from .config.discovery import available, config_class, is_own
from .config.methods.base import MethodConfig
from .config.models.base import ModelConfig
from .errors import UserError

Base = TypeVar("Base")


@dataclass(frozen=True)
class _Kind:
    """What may be a user's own: the key that names it, where its configurations and its classes are, what the former are derived from."""

    chooser: str
    configs: str
    code: str
    base: type[Section]


_METHOD = _Kind("kind", "trainers.config.methods", "trainers.methods.", MethodConfig)
_FAMILY = _Kind("family", "trainers.config.models", "trainers.models.", ModelConfig)


def load_class(reference: str, base: type[Base], key: str) -> type[Base]:
    """Return the class that `reference`, as "./file.py:ClassName", names. A relative path is below the working directory.

    UserError, naming the configuration's `key`, where the file is missing or cannot be imported, or has no such class, or where that is
    not a subclass of `base` or leaves out what `base` demands.
    """
    path, _, name = reference.rpartition(":")
    module = _module(Path(path).expanduser().absolute(), key)
    loaded = getattr(module, name, None)
    if not isinstance(loaded, type):
        raise UserError(f"{key}: {path} has no class {name}", f"its classes: {', '.join(_classes(module)) or 'none'}")
    if not issubclass(loaded, base):
        hint = f"from {base.__module__} import {base.__name__}, then class {name}({base.__name__})"
        raise UserError(f"{key}: the class {name} in {path} is no {base.__name__}", hint)
    if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
        raise UserError(
            f"{key}: the class {name} in {path} does not define {', '.join(missing)}", f"{base.__module__} says what each returns"
        )
    return loaded


def with_own_sections(train: TrainConfig, folder: Path | None = None) -> TrainConfig:
    """Return the train block with the blocks of own classes checked and completed by what these classes ask for.

    Relative paths are below `folder` (default: the working directory) and absolute in what is returned. UserError lists every mistake
    of a block.
    """
    below = Path.cwd() if folder is None else folder
    method, models = train.method, dict(train.models)
    if is_own(method.kind):
        method = _checked(method, _METHOD, below, "method")
    for role, section in models.items():
        if is_own(str(getattr(section, "family", ""))):
            models[role] = _checked(section, _FAMILY, below, f"models.{role}")
    data = train.data if train.data.source is None else train.data.model_copy(update={"source": _below(train.data.source, below)})
    return train.model_copy(update={"method": method, "models": models, "data": data})


def with_built_in_sections(train: TrainConfig) -> TrainConfig:
    """Return the train block with each own class's block as that of the built-in class it is derived from, without the keys of its own.

    It is then read without the user's file, as an exported folder is. A block of a class that is derived from none stays as it is.
    """
    models = {role: _built_in(section, _FAMILY) for role, section in train.models.items()}
    return train.model_copy(update={"method": _built_in(train.method, _METHOD), "models": models})


def _built_in(section: Any, kind: _Kind) -> Any:
    if not is_own(str(getattr(section, kind.chooser, ""))):
        return section
    for base in type(section).__mro__:
        name = base.__module__.removeprefix(f"{kind.configs}.").replace("_", "-")
        if issubclass(base, Section) and base.__module__.startswith(kind.configs) and name in available(kind.configs):
            kept = {key: value for key, value in section.model_dump().items() if key in base.model_fields}
            return base.model_validate({**kept, kind.chooser: name})
    return section


def _below(reference: str, folder: Path) -> str:
    path, _, name = reference.rpartition(":")
    return f"{folder / Path(path).expanduser()}:{name}"


def _checked(section: Any, kind: _Kind, below: Path, key: str) -> Any:
    """Return the block `section`, which is at `key`, by the class's own Config; by that of the class it is derived from
    where it has none."""
    path, _, name = str(getattr(section, kind.chooser)).rpartition(":")
    reference = _below(getattr(section, kind.chooser), below)
    made = load_class(reference, object, f"{key}.{kind.chooser}")
    bases = (made.Config,) if hasattr(made, "Config") else (*_inherited(made, kind), config_class(kind.configs, "custom"))
    if not issubclass(bases[0], kind.base):
        hint = f"from {kind.base.__module__} import {kind.base.__name__}, then class Config({kind.base.__name__})"
        raise UserError(f"{key}.{kind.chooser}: {name}.Config in {path} is no {kind.base.__name__}", hint)
    model: Any = create_model("Config", __base__=bases, __module__=__name__, **{kind.chooser: (str, ...)})  # type: ignore[call-overload]
    try:
        return model.model_validate({**section.model_dump(), kind.chooser: reference})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, (key, *e['loc'])))}: {e['msg']}" for e in error.errors())
        raise UserError(said, f"keys of {name}: {', '.join(model.model_fields)}") from None


def _inherited(made: type, kind: _Kind) -> list[type[Section]]:
    """Return the configuration of the nearest class of this project's that `made` is derived from; empty where that has none."""
    for base in made.__mro__:
        module = base.__module__.removeprefix(kind.code).replace("_", "-")
        if base.__module__.startswith(kind.code) and module in available(kind.configs):
            return [config_class(kind.configs, module)]
    return []


class _Beside(MetaPathFinder):
    """Finds what own files import from beside them, and nothing else that lies there: the folder is on no path."""

    def __init__(self) -> None:
        self.places: dict[str, Path] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(self.places[name].parent)]) if path is None and name in self.places else None

    def add(self, modules: dict[str, Path], file: Path, key: str) -> None:
        """Let modules be found by these names; UserError where one of them is another module already."""
        for name, place in modules.items():
            before: object = self.places.get(name)
            if before is None and name in sys.modules:
                before = getattr(sys.modules[name], "__file__", None) or "another module"
            if before is not None and not _same(before, place):
                raise UserError(
                    f"{key}: {file} imports {name} from {place}, but {name} is {before} in this process", f"rename {place.name}"
                )
            self.places[name] = place
            for file in (place, place.parent.parent / place.name):  # an own file itself; in a run its copies lie in two folders
                if (loaded := sys.modules.get(_module_name(file))) is not None and _same(file, place):
                    sys.modules.setdefault(name, loaded)


_BESIDE = _Beside()


def _same(before: object, place: Path) -> bool:
    return before == place or (isinstance(before, Path) and own_imports.digest(before) == own_imports.digest(place))


def _module_name(path: Path) -> str:
    return f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _module(path: Path, key: str) -> ModuleType:
    """Return the file as a module; each file is imported once a process, so that classes of one file know each other."""
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"{key}: there is no Python file {path}", "write it as ./file.py:ClassName, relative to where the run starts")
    _BESIDE.add(own_imports.imports_of(path).modules, path, key)
    if _BESIDE not in sys.meta_path:
        sys.meta_path.insert(0, _BESIDE)
    try:
        sys.modules[name] = _imported(path, name)
    except Exception as error:
        sys.modules.pop(name, None)
        said = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise UserError(f"{key}: {_place(error, path)} fails when it is imported: {said}", f"python {path} shows it, too") from error
    return sys.modules[name]


def _imported(path: Path, name: str) -> ModuleType:
    """Import the file; where another own file imports it by its own name it is that module, so that its classes exist once."""
    by_name = _BESIDE.places.get(path.stem)
    if by_name is not None and not by_name.is_dir() and own_imports.digest(by_name) == own_imports.digest(path):
        return importlib.import_module(path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _place(error: Exception, path: Path) -> str:
    """Return file:line of what fails: in the file itself, or in what it imports from beside it."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename or path}:{error.lineno}"
    own = {str(path), *(str(file) for place in _BESIDE.places.values() for file in own_imports.files_of(place))}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{path}:1"


def _classes(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
