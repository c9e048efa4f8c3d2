"""Which parquet files a data.path means, and what of it is refused or told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trainers.stored import config, latents, part, run, write
from trainers.config import data_folder
from trainers.data.parquet_files import find
from trainers.data.parquet_rows import Rows
from trainers.data.prompt_embeddings import prompts
from trainers.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def output(folder: Path, *, holdout: bool = False) -> Path:
    """What preprocessing leaves."""
    touch(folder, ".preprocess/settings.json", "combined_parquet_dataset/worker_0000/part-00000000.parquet", "prompts.safetensors")
    return touch(folder, "holdout/combined_parquet_dataset/worker_0000/part-00000000.parquet") if holdout else folder


def test_of_an_output_the_samples_are_meant_and_its_holdout_only_where_it_is_named(tmp_path: Path) -> None:
    whole = output(tmp_path / "out", holdout=True)
    assert find(whole) == [whole / "combined_parquet_dataset/worker_0000/part-00000000.parquet"]
    assert find(whole / "holdout") == [whole / "holdout/combined_parquet_dataset/worker_0000/part-00000000.parquet"]


@pytest.mark.parametrize("above", ["", "far/above"])
def test_a_path_too_high_never_trains_on_a_holdout(tmp_path: Path, above: str) -> None:
    whole = output(tmp_path / above / "out", holdout=True)
    with pytest.raises(UserError, match=f"holds clips that were held out.*out/holdout\nhint: name the data in it: {whole}$"):
        find(tmp_path)
    output(tmp_path / "second")
    with pytest.raises(UserError, match=f"{tmp_path / 'second'}: 1"):
        find(tmp_path)


def test_a_holdout_beside_others_files_is_none_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held out from training, in holdout"):
        find(touch(tmp_path, "train/a.parquet", "holdout/b.parquet"))


def test_several_data_sets_in_one_path_are_told_and_test_splits_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        output(tmp_path / name)
    assert len(find(tmp_path)) == 2
    assert data_folder.remarks(tmp_path, find(tmp_path)) == [f"{tmp_path} holds 2 data sets, and all are trained on: one, two"]
    theirs = touch(tmp_path / "theirs", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "val/x.parquet")
    assert data_folder.remarks(theirs, find(theirs)) == [f"{theirs}: files of test, val are trained on, too"]
    assert data_folder.remarks(theirs / "val", find(theirs / "val")) == []
    assert data_folder.remarks(tmp_path / "one", find(tmp_path / "one")) == []


def test_a_parquet_file_is_a_path_and_has_its_folders_prompts(tmp_path: Path) -> None:
    file = part(write(tmp_path), 1)
    rows = Rows({file: 1}, "latents", 2**20)
    assert len(rows) == 4 and (rows[0].latents == latents(4)).all()
    assert prompts(config(file)) is not None
    with pytest.raises(UserError, match="is not a folder, nor a file called"):
        find(tmp_path / "prompts.safetensors")


def test_links_to_training_data_are_followed(tmp_path: Path) -> None:
    whole = run(config(write(tmp_path / "there")))
    here = tmp_path / "here"
    here.mkdir()
    (here / "linked").symlink_to(tmp_path / "there/combined_parquet_dataset")
    (here / "again").symlink_to(".")
    assert len(run(config(here))) == len(whole)
    assert [path.name for path in find(here)] == [path.name for path in find(tmp_path / "there")]


def test_hidden_and_half_written_files_are_no_data(tmp_path: Path) -> None:
    found = find(touch(tmp_path, "b.PARQUET", "a.parquet", "._a.parquet", ".part.parquet.tmp", ".hidden/c.parquet", "@eaDir/a.parquet"))
    assert [path.name for path in found] == ["a.parquet", "b.PARQUET"]
