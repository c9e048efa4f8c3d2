"""Owns the grammar of a checkpoint's flat keys. Must not read files.

`roles.ROLE.NETWORK.PARAMETER` are weights; `callbacks.ema.PART.PARAMETER` their moving averages, where PART is ROLE, or ROLE.NETWORK in
a role of several networks. Keys of callbacks may be missing or left over: callbacks may change between attempts.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..config.export_folder import WeightsKind

_ROLES, _CALLBACKS = "roles.", "callbacks."
_AVERAGES = f"{_CALLBACKS}ema."


class CheckpointKeys:
    """The flat keys of one checkpoint, read by what they mean."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)

    @property
    def roles(self) -> set[str]:
        """Return the roles whose weights the checkpoint holds."""
        return {key.split(".")[1] for key in self._keys if key.startswith(_ROLES)}

    def networks(self, role: str) -> list[str]:
        """Return the networks of a role by their folders in a pipeline, sorted; empty for a role that was not trained."""
        return sorted({".".join(key.split(".")[2:3]) for key in self._keys if key.startswith(f"{_ROLES}{role}.")})

    def prefix(self, role: str, network: str, weights: WeightsKind) -> str:
        """Return what the keys of a network's parameters begin with."""
        if weights == "live":
            return f"{_ROLES}{role}.{network}."
        part = role if len(self.networks(role)) == 1 else f"{role}.{network}"
        return f"{_AVERAGES}{part}."


def is_optional(key: str) -> bool:
    """Return whether a checkpoint may lack the key, or hold it without need."""
    return key.startswith(_CALLBACKS)


def is_average(key: str) -> bool:
    """Return whether the key belongs to a moving average of weights."""
    return key.startswith(_AVERAGES)
