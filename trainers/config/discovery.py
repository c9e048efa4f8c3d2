"""Owns finding a configuration class by its `kind` or `family`: the module of that name in a package of this folder.

A new method or model family is one new file here; there is no list to edit. A name with a colon, ./file.py:ClassName, is a class of
the user's own: its block is described by the module `custom`. Must not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from .section import Section

_NO_NAMES = ("base", "custom")
"""Modules of such a package that no file can name: what all have in common, and what is said of a user's own class."""


def is_own(name: str) -> bool:
    """Return whether a `kind` or `family` names a class of the user's own file, as in ./file.py:ClassName."""
    return ":" in name


def available(package: str) -> list[str]:
    """Return the names that can be written in a file, e.g. ["dmd2", "self-forcing"], for a package such as `trainers.config.methods`."""
    found = importlib.import_module(package)
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(found.__path__) if m.name not in _NO_NAMES)


def config_class(package: str, name: str) -> type[Section]:
    """Return the section class of `name`: the one that the module of that name itself defines as `Config`."""
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    found: type[Section] = module.Config
    return found


def chooser(package: str, key: str, default: str | None = None) -> Callable[[Any], Any]:
    """Return a pydantic before-validator that picks the class by `value[key]`; errors list what is known."""

    def choose(value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping with {key!r}")
        name = value.get(key, default)
        if name is None:
            raise ValueError(f"{key!r} is missing; known: {', '.join(available(package))}")
        if isinstance(name, str) and is_own(name):
            return config_class(package, "custom").model_validate(value)
        if name not in available(package):
            raise ValueError(f"unknown {key} {name!r}; known: {', '.join(available(package))}")
        return config_class(package, name).model_validate({key: name, **value})

    return choose
