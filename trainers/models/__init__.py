"""Networks, codecs, attention, LoRA, loading of weights; one file a family, named as in trainers/config/models.

Also builds the network that plays a role of a method. A family may also be a class of the user's own file.

May import: diffusion, distributed, config.
Must not know: training methods, or what a role is for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config.discovery import is_own
from ..own_code import load_class

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..distributed.mesh import ParallelContext
    from .base import ModelBase


def model_class(family: str) -> Callable[..., ModelBase]:
    """Return the class of a model family: for a name, the ModelBase that the module of that name defines; for ./file.py:Class, that class
    of the user's file."""
    from .base import ModelBase

    if is_own(family):
        return load_class(family, ModelBase, "family")  # type: ignore[type-abstract]
    module = importlib.import_module(f"{__name__}.{family.replace('-', '_')}")
    return only_subclass(module, ModelBase)


def build_role(train: TrainConfig, role: str, parallel: ParallelContext, *, load_weights: bool) -> ModelBase:
    """Build a role's network as the configuration says. Collective."""
    section = train.models[role]
    return model_class(getattr(section, "family", "wan"))(
        section,
        role,
        trainable=role in train.optimizers,
        precision=train.precision,
        seed=train.seed,
        parallel=parallel,
        load_weights=load_weights,
    )


def only_subclass(module: Any, base: type[Any]) -> type[Any]:
    """Return the one subclass of `base` that `module` itself defines, not one that it imports."""
    defined = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and issubclass(c, base) and c is not base
    ]
    assert len(defined) == 1, f"{module.__name__} defines {len(defined)} subclasses of {base.__name__}, not one"
    return defined[0]
