"""Owns what every method's configuration says: its kind and which roles it trains or only reads. Must not import torch."""

from __future__ import annotations

from typing import ClassVar

from ..section import Section


class MethodConfig(Section):
    kind: str
    """Name of the method: its file in trainers/methods, or ./file.py:ClassName."""

    trainable_roles: ClassVar[tuple[str, ...]] = ("student",)
    """Roles with an optimizer."""
    frozen_roles: ClassVar[tuple[str, ...]] = ()
    """Roles that are only evaluated."""
