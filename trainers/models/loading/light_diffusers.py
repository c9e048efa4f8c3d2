"""Owns importing diffusers' Wan network without peft and transformers, which its modules load too: a quarter of the time a rank takes to
start.

Must leave everything as a plain import would have left it: whatever imports diffusers' pipelines or adapters later in this process gets
them whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers.loaders  # it decides on import what it offers, so it is imported while all packages can be seen
from diffusers.utils import import_utils

_MADE_WITHOUT = ("lora_base", "lora_pipeline", "single_file_utils")
"""Modules of diffusers.loaders that leave out what they can do only with the two packages: whatever imports them next gets them anew."""


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Make these packages look as though they were not installed, inside."""
    flags = {f"_{name}_available": getattr(import_utils, f"_{name}_available", False) for name in packages}
    absent = [name for name in packages if name not in sys.modules]
    vars(import_utils).update(dict.fromkeys(flags, False))
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import an ImportError
    try:
        yield
    finally:
        vars(import_utils).update(flags)
        for name in absent:
            del sys.modules[name]


_before = {name for name in _MADE_WITHOUT if f"diffusers.loaders.{name}" in sys.modules}
with _hidden("peft", "transformers"):
    from diffusers import WanTransformer3DModel
for _name in set(_MADE_WITHOUT) - _before:
    if sys.modules.pop(f"diffusers.loaders.{_name}", None) is not None:
        vars(diffusers.loaders).pop(_name, None)

__all__ = ["WanTransformer3DModel"]
