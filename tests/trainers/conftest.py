"""Fixtures of the trainer tests: a server that forks ranks and a small data set for all of them, a world of one rank for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers import trainer_ranks
from tests.support.trainers.one_rank import one_rank
from trainers.distributed.mesh import ParallelContext


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


@pytest.fixture(scope="module")
def parallel() -> Iterator[ParallelContext]:
    with one_rank() as context:
        yield context
