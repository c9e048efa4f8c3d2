"""Owns which folder runs go to where neither --runs-dir nor $FVLAUNCH_RUNS says so: the default profile's. Must not look into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError, FvlaunchError, Place
from . import lookup

DEFAULT = "runs"
"""Below the working directory."""


def in_force(named: Path | None) -> Path:
    """Return the runs folder of a command: the one that was named, else that of the profile that a submission would take."""
    return named if named is not None else Path(_of_profile() or DEFAULT)


def users_cluster() -> str | None:
    """Return the cluster that the user's config.yaml names."""
    base = os.environ.get("XDG_CONFIG_HOME")
    path = Path(os.path.expanduser(base or "~/.config")) / "fvlaunch" / "config.yaml"  # noqa: PTH111  it leaves ~ where there is no home
    if not os.path.isfile(path):  # noqa: PTH113  a folder that cannot be entered has none
        return None
    from .strict_yaml import read

    file = read(path)
    chosen = file.plain.get("cluster") if isinstance(file.plain, dict) else None
    if chosen is not None and not isinstance(chosen, str):
        raise ConfigError.one("expected the name of a cluster", Place(str(path), 1), "cluster")
    return chosen


def _of_profile() -> str | None:
    """Return `runs_dir` of the default profile; None where it says nothing, or cannot be read: whoever submits is told."""
    cwd = Path.cwd()
    try:
        name = os.environ.get("FVLAUNCH_CLUSTER") or users_cluster() or "local"
        if name == "local" and lookup.is_packaged("cluster", name, cwd):  # nothing is read for that: a status must be quick
            return None
        return _runs_dir(lookup.find("cluster", name, cwd), cwd)
    except FvlaunchError:
        return None


def _runs_dir(path: Path, cwd: Path) -> str | None:
    from . import paths as folders
    from .extends import Files
    from .values import Substitution

    environment: Mapping[str, str] = folders.environment()
    cluster, paths, _ = folders.named(Files("cluster", cwd).load(path), cwd, environment)
    found = folders.cluster_folders(Substitution(paths, environment, "cluster").apply(cluster), cwd).value.get("runs_dir")
    return found.value if found is not None and isinstance(found.value, str) and "${" not in found.value else None
