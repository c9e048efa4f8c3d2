"""Owns what the fault tests share: a workspace for local runs, and an undisturbed run to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.faults.local import LocalRuns


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRuns:
    return LocalRuns(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def reference(local: LocalRuns) -> Path:
    """An undisturbed run on two ranks."""
    return local.undisturbed("reference")
