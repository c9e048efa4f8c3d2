"""Owns what of a role's section is which network's, and in which folder of a model it lies. Must not build networks."""

from __future__ import annotations

from typing import Any

from ...config.models.wan_a14b import HIGH, LOW, TwoExperts
from ...errors import UserError
from . import model_folder


def names(section: Any) -> tuple[str, ...]:
    """The networks of a role, by their folders in a pipeline."""
    return (HIGH, LOW) if isinstance(section, TwoExperts) else (HIGH,)


def section_of(section: Any, network: str) -> Any:
    """The section of one of a role's networks as of a role of one: init_from is then that network's own folder."""
    if not isinstance(section, TwoExperts):
        return section
    own = section.expert(network)
    if own.init_from is None:
        return own
    (wanted, alone), folder = section.folders_of(network), model_folder.resolve(own.init_from, own.revision)
    found = next((folder / name for name in wanted if (folder / name).is_dir()), folder)
    if found == folder and (not alone or (folder / "model_index.json").exists()):
        raise UserError(
            f"init_from: one expert is missing: {folder} has no folder {' or '.join(dict.fromkeys(wanted))}",
            f"a pipeline of two experts, or experts.{network}.init_from for this one",
        )
    return own.model_copy(update={"init_from": str(found), "revision": None})
