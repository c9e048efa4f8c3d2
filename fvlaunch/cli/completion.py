"""Owns what the shell completes: names of recipes, clusters and runs. Must be quick, and never print an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ..errors import FvlaunchError, NotFound

VARIABLE = "_FVLAUNCH_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> None:
    """Print what the shell has to evaluate."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from ..commands import output as printing

    if shell not in SHELLS:
        raise NotFound(f"no completion for {shell!r}", hint=", ".join(SHELLS))
    printing.out(get_completion_script(prog_name="fvlaunch", complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Have typer answer where it is the shell that asks."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def recipes(incomplete: str) -> list[str]:
    """Return the names of recipes and pipelines: both can be submitted."""
    return _from(lambda: [*_listed("recipe"), *_listed("pipeline")], incomplete)


def clusters(incomplete: str) -> list[str]:
    return _from(lambda: _listed("cluster"), incomplete)


def runs(incomplete: str) -> list[str]:
    """Return `last` and the names of runs and pipelines, the newest first."""
    return _from(lambda: ["last", *_known()], incomplete)


def _listed(kind: str) -> Iterator[str]:
    from ..config import lookup

    for _, root in lookup.layers():
        for path in (root / lookup.FOLDERS[kind]).glob("*.y*ml"):  # type: ignore[index]
            yield path.stem


def _known() -> Iterator[str]:
    from ..config.runs_folder import in_force
    from ..runs import registry

    for one in reversed(registry.known_whole([in_force(registry.runs_dir_option(None))])):
        yield one.name


def _from(names: Callable[[], Iterator[str] | list[str]], incomplete: str) -> list[str]:
    try:
        return [name for name in dict.fromkeys(names()) if name.startswith(incomplete)][:200]
    except (FvlaunchError, OSError):
        return []
