"""Owns the lists of sbatch's options for the profiles' page: those that may be given, and those that may not, each with the reason."""

from __future__ import annotations

from collections.abc import Iterable

from fvlaunch.config import sbatch_options as sbatch
from tests.support.pages.markdown import table


def rendered() -> str:
    """Return the options by whether they take a value, then the table of those that fvlaunch sets itself."""
    parts = [
        f"With a value: {_listed(sbatch.WITH_VALUE - sbatch.REFUSED.keys())}.",
        f"With or without a value (`true`): {_listed(sbatch.MAYBE_FLAGS)}.",
        f"Without a value (`true`): {_listed(sbatch.FLAGS)}.",
        "These are refused, because fvlaunch sets them itself:",
        table(("option", "instead"), [(f"`{name}`", reason) for name, reason in sorted(sbatch.REFUSED.items())]),
    ]
    return "\n\n".join(parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
