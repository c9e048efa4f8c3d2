"""Fixtures of the trainer tests: one server that forks ranks, and one small data set, for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers import trainer_ranks


@pytest.fixture(scope="session")
def runs() -> Iterator[Any]:
    """Starts whole runs."""
    server = trainer_ranks.Ranks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = trainer_ranks.write_data(tmp_path_factory.mktemp("data"))
    return folder
