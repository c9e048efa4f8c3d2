"""Fixtures of the trainer tests: a server that forks ranks, a world of one rank, and small data sets and models on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers import trainer_ranks
from tests.support.trainers.one_rank import one_rank
from tests.support.trainers.shapes_runs import write_shapes
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


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips of the moving shapes, with prompts."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan pipeline as diffusers saves one."""
    from trainers.models.loading.tiny_wan import build  # here, and below: most tests do without what these load

    return build(tmp_path_factory.mktemp("base") / "wan")


@pytest.fixture(scope="module")
def wan_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 clips for that pipeline."""
    from tests.support.trainers.exports import write_wan_data

    return write_wan_data(tmp_path_factory.mktemp("wan-data"))
