"""Owns being somebody else for a while: an account without rights, so that permissions bite where root runs the tests, too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

NOBODY = 65534


@contextlib.contextmanager
def another_account() -> Iterator[None]:
    """Make this process an account without rights; skip where it is an ordinary one, which cannot become another.

    What is to be used meanwhile must be imported before: the interpreter may lie where that account may not look.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
