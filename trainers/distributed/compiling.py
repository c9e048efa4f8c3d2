"""Owns how code is compiled: by torch.compile, into a cache of this node that may be refused by its disk at any time. Must not know what
is compiled."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from .. import temporary_folders

log = logging.getLogger(__name__)


def compiled(function: Any, **how: Any) -> Any:
    """Return torch.compile(function, **how), which also on a disk that fills up while the run goes on finds a place for what it makes."""
    _look_before_each()
    return torch.compile(function, **how)


@cache
def _look_before_each() -> None:
    """Have the cache's folder looked at before each compilation, also those of backward passes that come later: a compiler that cannot
    write raises the disk's error, which would end the rank."""
    from torch._dynamo import callback  # importing it takes a second, which ranks that compile nothing do without

    callback.on_compile_start(_keep_writable)


def _keep_writable(*_about: Any) -> None:
    for text in temporary_folders.ensure():
        log.warning(text, extra={"reported": True})
