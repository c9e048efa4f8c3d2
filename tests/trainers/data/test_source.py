"""Promises about data that a user's own source reads: the same batches as from parquet, and mistakes told by sample."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.trainers.trainer_ranks import tiny, write_data
from trainers.config import TrainConfig, check
from trainers.config.data import DataConfig
from trainers.data.batches import batches
from trainers.errors import UserError

SOURCE = '''
import numpy as np

from trainers.data.source import DataSource


class Npz(DataSource):
    def __init__(self, path, needs):
        super().__init__(path, needs)
        self.files = sorted(path.glob("*.npz"))

    def __len__(self):
        return len(self.files)

    def read(self, index):
        with np.load(self.files[index]) as stored:
            return dict(stored)


class Counted(Npz):
    """Leaves a file for each process that opens it; cannot be pickled."""

    def __init__(self, path, needs):
        import os

        super().__init__(path, needs)
        (path / f"{os.getpid()}.opened").touch()
        self.unpicklable = lambda: 0


class Closed(Npz):
    def __init__(self, path, needs):
        raise OSError("the door is shut")


class Unsure(Npz):
    def __len__(self):
        raise RuntimeError("nobody counted them")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of `write_data`, a file each, beside the source that reads them."""
    root = tmp_path_factory.mktemp("own")
    random = np.random.RandomState(0)
    for number in range(24):
        latents = random.standard_normal((4, 2, 4, 4)).astype("float32")
        text = random.standard_normal((1 + number % 6, 16)).astype("float32")
        np.savez(root / f"{number:02d}.npz", latents=latents, text=text, caption=f"clip {number}")
    (root / "mine.py").write_text(SOURCE)
    write_data(root / "parquet")
    return root


def config(folder: Path, **changes: Any) -> DataConfig:
    return DataConfig.model_validate({**tiny(folder)["data"], **changes})


def own(folder: Path, name: str = "Npz", **changes: Any) -> DataConfig:
    return config(folder, source=f"{folder}/mine.py:{name}", **changes)


def read(data: DataConfig, needs: Any = "latents", warn: Any = print) -> list[list[dict[str, torch.Tensor]]]:
    options: dict[str, Any] = {"rank": 0, "data_parallel": 1, "accumulation": 2, "micro": 4, "start_step": 0, "max_steps": 4}
    return list(batches(data, 7, needs=needs, warn=warn, **options))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("needs", ["latents", "text"])
def test_a_source_gives_the_batches_of_the_same_samples_in_parquet(folder: Path, needs: str, workers: int) -> None:
    left, right = read(own(folder, workers=workers), needs), read(config(folder / "parquet"), needs)
    assert len(left) == len(right) == 4
    for rounds, others in zip(left, right, strict=True):
        for batch, other in zip(rounds, others, strict=True):
            assert batch.keys() == other.keys()
            assert all(torch.equal(batch[key], other[key]) for key in batch)


def test_each_loader_process_opens_a_source_of_its_own(folder: Path) -> None:
    found = read(own(folder, "Counted", workers=2))
    deadline = time.monotonic() + 10
    while len(opened := {int(path.stem) for path in folder.glob("*.opened")}) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(opened) == 3 and os.getpid() in opened and len(found) == 4


def test_a_folder_that_is_read_twice_has_twice_the_samples(folder: Path) -> None:
    data = own(folder, path={str(folder): 2})
    seen = [index for rounds in read(data) for batch in rounds for index in batch["index"].tolist()]
    assert max(seen) >= 24 and len(seen) == len(set(seen)) == 32


def test_a_bad_sample_is_told_by_its_number_and_replaced(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "03.npz").write_bytes(b"not a zip")
    np.savez(tmp_path / "05.npz", latents=np.full((4, 2, 4, 4), np.nan, "float32"), text=np.zeros((1, 16), "float32"))
    np.savez(tmp_path / "07.npz", latents=np.zeros((4, 2, 4, 4), "float32"))
    np.savez(tmp_path / "09.npz", latents=np.zeros((4, 2, 5, 4), "float32"), text=np.zeros((1, 16), "float32"))
    told: list[str] = []
    data = config(tmp_path, source=f"{folder}/mine.py:Npz", max_bad_share=0.5)
    assert len(read(data, warn=told.append)) == 4
    said = "\n".join(told)
    for part in ("sample 3 cannot be read", "sample 5 cannot be read: ValueError: its latents hold", "sample 7", "sample 9: latents are"):
        assert part in said, said
    assert "it has no 'text'" in said


def test_a_source_that_is_of_no_use_is_told_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    for data, said in [
        (own(folder, "None"), "data.source: .* has no class None"),
        (own(folder, "Closed"), "mine.py:Closed cannot open .*: OSError: the door is shut"),
        (own(folder, "Unsure"), "cannot count the samples of .*: RuntimeError: nobody counted them"),
        (own(folder, path=str(tmp_path)), "finds no samples in"),
        (config(folder, source=f"{folder}/gone.py:Npz"), "data.source: there is no Python file"),
    ]:
        with pytest.raises(UserError, match=said):
            read(data)
    with pytest.raises(UserError, match="a source has no trajectory samples"):
        read(own(folder), "trajectory")


def test_data_that_is_made_on_first_use_has_no_source(tmp_path: Path) -> None:
    train = TrainConfig.model_validate(tiny(tmp_path, data__source="./mine.py:Npz", data__prepare={"kind": "shapes"}))
    (problem,) = check(train, 1)
    assert problem.path == ("data", "source")


def test_a_source_is_written_as_file_and_class() -> None:
    with pytest.raises(ValueError, match="source"):
        config(Path("x"), source="mine.py")
