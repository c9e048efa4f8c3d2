"""Owns importing diffusers' Wan network without what its modules load beside it: peft and transformers, a quarter of a rank's start.

Must leave all as it would have been: who wants diffusers' pipelines or adapters later, in this process, gets them whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers.loaders  # what it offers is decided here, while all is to be seen
from diffusers.utils import import_utils

_MADE_WITHOUT = ("lora_base", "lora_pipeline", "single_file_utils")
"""Of diffusers.loaders. They skip what they can do only with the two: whoever imports them next gets them anew."""


@contextmanager
def _unseen(*packages: str) -> Iterator[None]:
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
with _unseen("peft", "transformers"):
    from diffusers import WanTransformer3DModel
for _name in set(_MADE_WITHOUT) - _before:
    if sys.modules.pop(f"diffusers.loaders.{_name}", None) is not None:
        vars(diffusers.loaders).pop(_name, None)

__all__ = ["WanTransformer3DModel"]
