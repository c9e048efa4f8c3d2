"""Owns which keys of a role's section belong to which of its networks, and in which folder of a model that network lies. Must not build
networks."""

from __future__ import annotations

from typing import Any

from ...config.models.wan_a14b import HIGH, LOW, TwoExperts
from ...errors import UserError
from . import model_folder


def names(section: Any) -> tuple[str, ...]:
    """Return the names of a role's networks, which are those of their folders in a pipeline."""
    return (HIGH, LOW) if isinstance(section, TwoExperts) else (HIGH,)


def section_of(section: Any, network: str) -> Any:
    """Return one network's section in the form for a role of one network: init_from is that network's own folder. UserError where it is
    missing."""
    if not isinstance(section, TwoExperts):
        return section
    own = section.expert(network)
    if own.init_from is None:
        return own
    (candidates, alone), folder = section.folders_of(network), model_folder.resolve(own.init_from, own.revision)
    own_folder = next((folder / name for name in candidates if (folder / name).is_dir()), folder)
    if own_folder == folder and (not alone or (folder / "model_index.json").exists()):
        raise UserError(
            f"init_from: one expert is missing: {folder} has no folder {' or '.join(dict.fromkeys(candidates))}",
            f"a pipeline of two experts, or experts.{network}.init_from for this one",
        )
    return own.model_copy(update={"init_from": str(own_folder), "revision": None})
