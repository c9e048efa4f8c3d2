"""Owns where recipes, pipelines and clusters are found by name. Must not read more of them than the description.

Three layers, the first that has a name wins: the working directory, the user's folder (~/.config/fvlaunch), what came with fvlaunch.
Each has the same shape: templates/recipes, templates/pipelines, templates/job, clusters. Recipes and pipelines share one namespace.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, FvlaunchError, NotFound

Kind = Literal["recipe", "cluster", "pipeline"]
FOLDERS: dict[Kind, str] = {"recipe": "templates/recipes", "cluster": "clusters", "pipeline": "templates/pipelines"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,4}")
_SUFFIXES = (".yaml", ".yml")
_SUBMITTED: tuple[Kind, Kind] = ("recipe", "pipeline")


@dataclass(frozen=True)
class Entry:
    """Something that can be named."""

    name: str
    path: Path
    description: str
    layer: str


def layers(cwd: Path | None = None) -> list[tuple[str, Path]]:
    """(name, root) of each layer, in lookup order."""
    config = Path(os.path.expanduser(os.environ.get("XDG_CONFIG_HOME") or "~/.config"))  # noqa: PTH111  it leaves ~ where there is no home
    return [("working directory", cwd or Path.cwd()), ("user", config / "fvlaunch"), ("packaged", packaged())]


def packaged() -> Path:
    """Return the folder of what came with fvlaunch: inside the package in a wheel, the repository's root in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "data" if (package / "data" / "templates").is_dir() else package.parent


def find(kind: Kind, name: str, cwd: Path | None = None) -> Path:
    """Return the file of a name or an explicit path; NotFound says where it was looked for and what was probably meant."""
    cwd = cwd or Path.cwd()
    if is_path(name):
        path = cwd / Path(name).expanduser()
        if not path.is_file():
            raise NotFound(f"{kind} file {name} does not exist", hint="fvlaunch list says which there are")
        return path
    files = candidates(kind, name, cwd)
    if not files:
        raise _unknown(kind, name, cwd)
    return files[0]


def is_packaged(kind: Kind, name: str, cwd: Path | None = None) -> bool:
    """Return whether a name means what came with fvlaunch."""
    files = candidates(kind, name, cwd)
    return bool(files) and _layer(files[0], "", cwd) == "packaged"


def kind_of(name: str, cwd: Path | None = None) -> Kind:
    """Return whether a name is a recipe or a pipeline; it must not be both. A file is a pipeline where it has stages."""
    if is_path(name):
        return "pipeline" if _has_stages((cwd or Path.cwd()) / Path(name).expanduser()) else "recipe"
    recipes, pipelines = (candidates(kind, name, cwd) for kind in _SUBMITTED)
    if recipes and pipelines:
        hint = "recipes and pipelines share one namespace: rename one, or give the file itself"
        raise NotFound(f"{name} is both a recipe ({recipes[0]}) and a pipeline ({pipelines[0]})", hint=hint)
    return "pipeline" if pipelines else "recipe"


def _has_stages(path: Path) -> bool:
    from . import strict_yaml

    try:
        return "stages" in strict_yaml.read(path).value
    except ConfigError:  # whoever reads it as a recipe will say what is wrong
        return False


def is_path(name: str) -> bool:
    """Return whether a name is meant as a file rather than looked up."""
    return name.endswith(_SUFFIXES) or name.startswith(("./", "../", "/", "~"))


def candidates(kind: Kind, name: str, cwd: Path | None = None) -> list[Path]:
    """Return every layer's file of that name, in lookup order; the same file reached twice counts once."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise NotFound(f"{name[:100]!r} cannot name a {kind}", hint="letters, digits, `.`, `_`, `-`; a file is given as ./name.yaml")
    files: dict[Path, Path] = {}
    for _, root in layers(cwd):
        path = _file(root, kind, name)
        if path is not None:
            files.setdefault(path.resolve(), path)
    return list(files.values())


def listing(kind: Kind, cwd: Path | None = None) -> list[Entry]:
    """Return all that can be named, each once, with the layer that wins; what lies in `base/` is not listed."""
    entries: dict[str, Entry] = {}
    for layer, root in reversed(layers(cwd)):
        for path in sorted((root / FOLDERS[kind]).glob("*.y*ml")):
            if path.suffix in _SUFFIXES and path.is_file():
                entries[path.stem] = Entry(path.stem, path, _description(path), _layer(path, layer, cwd))
    return [entries[name] for name in sorted(entries)]


def template(name: str, cwd: Path | None = None) -> Path:
    """Return a job template, templates/job/NAME, by the same layers."""
    for _, root in layers(cwd):
        if (root / "templates" / "job" / name).is_file():
            return root / "templates" / "job" / name
    raise NotFound(f"no job template {name}", hint="fvlaunch may be installed incompletely")


def template_folders(cwd: Path | None = None) -> list[Path]:
    """Return every templates/job folder there is, in lookup order."""
    return [folder for _, root in layers(cwd) if (folder := root / "templates" / "job").is_dir()]


def _layer(path: Path, layer: str, cwd: Path | None) -> str:
    """In a checkout the working directory can be where the packaged files are."""
    root = packaged().resolve()
    return "packaged" if any(path.resolve().is_relative_to(root / folder) for folder in FOLDERS.values()) else layer


def _file(root: Path, kind: Kind, name: str) -> Path | None:
    folder = root / FOLDERS[kind]
    for suffix in _SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise NotFound(f"{path} is a link that leads out of {folder}", hint=f"give the file itself: {path.resolve()}")
            return path
    return None


def _description(path: Path) -> str:
    from . import strict_yaml

    try:
        value = strict_yaml.read(path).value.get("description")
    except ConfigError as error:
        return f"({error.message})"
    return " ".join(str(value.value).split()) if value is not None and value.value else ""


def _unknown(kind: Kind, name: str, cwd: Path) -> FvlaunchError:
    from .suggestions import closest

    other: Kind | None = "pipeline" if kind == "recipe" else "recipe" if kind == "pipeline" else None
    if other and candidates(other, name, cwd):
        return NotFound(f"{name} is a {other}, not a {kind}")
    kinds = _SUBMITTED if kind in _SUBMITTED else (kind,)
    known = [entry.name for one in kinds for entry in listing(one, cwd)]
    near = closest(name, known)
    meant = f"did you mean {near}? " if near else f"known: {', '.join(known) or 'none'}. "
    looked = ", ".join(str(root / FOLDERS[kind]) for _, root in layers(cwd))
    return NotFound(f"no {kind} is called {name!r}", hint=f"{meant}Looked in {looked}; a file is given as ./name.yaml")
