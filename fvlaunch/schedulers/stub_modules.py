"""Owns leaving out what a library imports for parts of it that are not used here. Must know nothing else of the library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, `import name` gives a module in which every name is there and is nothing; one that is loaded already stays itself."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _Nothing(name)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(name), _Nothing):
            del sys.modules[name]


class _Nothing(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object
