"""The training algorithms: one file a method, named as its configuration in trainers/config/methods; and finding a method by its name.

May import: optim, models, data, diffusion, distributed, config.
Must not know: the loop, checkpoints, or other methods than the one it extends.
"""

from __future__ import annotations

import importlib

from ..config.discovery import is_own
from ..models import only_subclass
from ..own_code import load_class
from .base import TrainingMethod


def method_class(kind: str) -> type[TrainingMethod]:
    """Return the class of a method: for a name, the TrainingMethod that the module of that name defines; for ./file.py:Class, that class of
    the user's file."""
    if is_own(kind):
        return load_class(kind, TrainingMethod, "method.kind")  # type: ignore[type-abstract]
    module = importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
    return only_subclass(module, TrainingMethod)
