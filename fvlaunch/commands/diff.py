"""Owns `fvlaunch diff`: two runs or recipes, resolved, key by key. Must not judge which is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import own_files
from ..config.compose import compose
from ..config.lookup import candidates, is_path
from ..config.strict_yaml import read
from ..errors import NotFound
from ..planning.planner import named_cluster
from ..runs import code_snapshot
from ..runs.directory import Run
from . import output as printing
from . import selection

_IGNORED = ("lock.submitted", "lock.resumed", "lock.asked")
"""What differs between any two runs."""


def diff(words: Sequence[str], cluster: str | None, *, json_: bool, runs_dir: Path | None) -> None:
    """Print every key that is not the same in both."""
    first, second = (leaves_of(word, cluster, runs_dir) for word in words)
    differing = differences(first, second)
    if json_:
        return printing.as_json([{"key": key, "a": a, "b": b} for key, a, b in differing])
    if not differing:
        return printing.say(f"{words[0]} and {words[1]} say the same")
    return printing.table(["KEY", words[0], words[1]], [[key, _shown(a), _shown(b)] for key, a, b in differing])


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, value in the first, value in the second) where they differ, in the first's order; None where a key is missing."""
    keys = list(dict.fromkeys([*first, *second]))
    compared = [key for key in keys if not key.startswith(_IGNORED)]
    return [(key, first.get(key), second.get(key)) for key in compared if first.get(key) != second.get(key)]


def leaves_of(word: str, cluster: str | None, runs_dir: Path | None) -> dict[str, Any]:
    """Return by dotted key all that a run was submitted with, or what a recipe resolves to on a cluster."""
    data = _data(word, cluster, runs_dir)
    return {".".join(map(str, path)): value for path, value in printing.leaves(data).items()}


def _data(word: str, cluster: str | None, runs_dir: Path | None) -> dict[str, Any]:
    if is_path(word) and Path(word).is_file():
        content = read(Path(word), word).plain
        if isinstance(content, dict) and isinstance(content.get("recipe"), dict):
            parts = {key: content[key] for key in ("cluster", "lock") if key in content}
            return {**content["recipe"], **parts, **_own_code(Path(word), content)}
        return _recipe(word, cluster)
    if not is_path(word) and candidates("recipe", word, Path.cwd()):
        return _recipe(word, cluster)
    try:
        run = selection.find(word, runs_dir)
    except NotFound as error:
        raise NotFound(
            f"{word!r} is neither a recipe nor a run: {error.message}", hint="fvlaunch list recipes, fvlaunch list runs"
        ) from None
    return _data(str(run.config_file), cluster, runs_dir)


def _recipe(word: str, cluster: str | None) -> dict[str, Any]:
    composed = compose(word, named_cluster(word, cluster))
    own = own_files.all_copies(composed.recipe_data.get("train") or {}, composed.own_copies)
    return {**composed.recipe_data, "cluster": composed.cluster_data, **({"lock": {"code": own_files.digests(own)}} if own else {})}


def _own_code(config_file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the lock with the digests of what the run has now of the user's own files: a copy can be changed, too."""
    lock: Any = content.get("lock") if isinstance(content.get("lock"), dict) else {}
    copies = code_snapshot.own_copies(Run(config_file.parent))
    return {"lock": {**lock, "code": {**(lock.get("code") or {}), **own_files.digests(copies)}}} if copies else {}


def _shown(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
