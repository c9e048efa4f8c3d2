"""Files: found, whole, of the right columns; row groups read once, whatever their size; prompts beside the samples."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from tests.support.trainers.stored import ONE_RANK, config, indices, latents, part, rewrite, run, same, write
from trainers.data import parquet_files, parquet_rows
from trainers.data.batches import batches
from trainers.data.dataset import ParquetDataset, pad
from trainers.data.parquet_rows import Rows
from trainers.data.parquet_schema import FOLDER, PROMPTS, T2V, decode_array
from trainers.data.prompt_embeddings import prompts, required
from trainers.errors import UserError

NO_CACHE = 1e-9


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """(file, row group or None for all) of each read."""
    seen: list[tuple[int, int | None]] = []
    read = Rows._table

    def counted(self: Rows, block: Any) -> Any:
        seen.append((block.file, block.group))
        return read(self, block)

    monkeypatch.setattr(Rows, "_table", counted)
    return seen


def regroup(data: Path, size: int) -> None:
    """As others write: row groups of several rows."""
    for number in range(3):
        pq.write_table(pq.read_table(part(data, number)), part(data, number), row_group_size=size)


# --- reading


def test_data_that_fit_the_cache_are_read_once_and_small_files_whole(data: Path, reads: list[tuple[int, int | None]]) -> None:
    found = Rows({data: 2}, "latents", 2**20)
    for index in [*range(20), *range(20)]:
        np.testing.assert_array_equal(found[index].latents, latents(index % 10))
    assert reads == [(0, None), (1, None), (2, None)] and found.block_sizes is None


def test_of_bigger_data_each_sample_costs_its_own_row_group(data: Path, reads: list[tuple[int, int | None]]) -> None:
    whole = run(config(data))
    reads.clear()
    assert same(run(config(data, cache_gb=NO_CACHE)), whole)  # one row a row group: the order is the same
    assert set(reads) == {(index // 4, index % 4) for index in range(10)}


def test_only_so_many_files_are_open(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(config(data))
    monkeypatch.setattr(parquet_rows, "OPEN_FILES", 1)
    assert same(run(config(data, cache_gb=NO_CACHE)), whole)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_others_row_groups_are_read_once_an_epoch_at_any_world_size(data: Path, reads: list[tuple[int, int | None]], ranks: int) -> None:
    rows_of_two = pa.concat_tables([pq.read_table(part(data, number)) for number in range(3)] * 4).slice(0, 32)
    for number in range(3):  # 64 rows in 8 row groups
        pq.write_table(rows_of_two.slice(0, 32 if number < 2 else 0), part(data, number), row_group_size=8)
    one = run(config(data, cache_gb=NO_CACHE), max_steps=16, micro=1, accumulation=4)
    assert sorted(indices(one)) == list(range(64))  # an epoch
    room_for_five = config(data, cache_gb=5 * Rows({data: 1}, "latents", 1).largest_block_bytes / 2**30)
    per_rank = []
    for rank in range(ranks):
        cut, told = {"rank": rank, "data_parallel": ranks, "accumulation": 4 // ranks, "micro": 1}, []
        stream = batches(room_for_five, 3, **cut, start_step=0, max_steps=16, warn=told.append)
        reads.clear()  # of the look at the data
        per_rank.append(list(stream))
        assert len(reads) == len(set(reads)) == 8 // ranks and not told
    rounds = [[per_rank[m % ranks][step][m // ranks] for m in range(4)] for step in range(16)]
    assert same(one, rounds)


def test_a_cache_too_small_for_others_row_groups_is_told_before_the_first_step(data: Path) -> None:
    regroup(data, 4)
    told: list[str] = []
    batches(config(data, cache_gb=NO_CACHE), 3, **ONE_RANK, start_step=0, max_steps=1, warn=told.append)
    (text,) = told
    assert text.startswith("2 row groups of up to") and "kind: rewrite" in text


def test_a_read_that_fails_once_is_tried_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, failing = Rows._table, iter([True])

    def flaky(self: Rows, block: Any) -> Any:
        if next(failing, False):
            raise OSError("stale file handle")
        return read(self, block)

    monkeypatch.setattr(Rows, "_table", flaky)
    np.testing.assert_array_equal(Rows({data: 1}, "latents", 2**20)[7].latents, latents(7))


def test_nothing_that_is_open_or_kept_travels_to_a_loader_process(data: Path) -> None:
    found = Rows({data: 1}, "latents", 2**20)
    before = len(pickle.dumps(found))
    found[0]
    assert len(pickle.dumps(found)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[3].latents, latents(3))


def test_other_writers_wide_types_are_read(data: Path) -> None:
    wide = {"binary": pa.large_binary(), "string": pa.large_string(), "list<item: int64>": pa.large_list(pa.int64())}
    rewrite(data, lambda row: row, pa.schema([(f.name, wide.get(str(f.type), f.type)) for f in T2V]))
    np.testing.assert_array_equal(ParquetDataset(config(data), 0)[0, 6]["latents"], latents(6))


def test_columns_that_training_does_not_need_may_be_absent(data: Path) -> None:
    for number in range(3):
        table = pq.read_table(part(data, number))
        pq.write_table(table.select([n for n in table.column_names if n.startswith(("vae_latent", "text_emb"))]), part(data, number))
    item = ParquetDataset(config(data), 0)[0, 7]
    assert item["caption"] == "" and item["latents"].shape == (2, 3, 1, 2)


def test_float64_that_does_not_fit_is_not_finite_but_big_sums_are() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decode_array(np.array([1e300]).tobytes(), [1], "float64")
    with pytest.raises(ValueError, match="not finite"):
        decode_array(np.array([np.inf, -np.inf], "<f4").tobytes(), [2], "float32")
    assert decode_array(np.array([3e38, 3e38], "<f4").tobytes(), [2], "float32").max() > 2e38


# --- what is refused when the data are opened


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_half_written_file_is_named(data: Path, size: int) -> None:
    path = part(data, 2)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=f"^{path} is not a whole parquet file: .*\nhint: .*write it again") as caught:
        ParquetDataset(config(data), seed=0)
    assert len(str(caught.value).splitlines()) == 2


def test_files_of_another_schema_are_named(data: Path) -> None:
    path = data / FOLDER / "worker_0" / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=f"{path} has no column 'vae_latent_bytes'"):
        ParquetDataset(config(data), seed=0)
    path.unlink()
    path = rewrite(data, lambda row: row, T2V.set(3, pa.field("vae_latent_dtype", pa.binary())))
    with pytest.raises(UserError, match=f"{path}: the column 'vae_latent_dtype' is binary, not string"):
        ParquetDataset(config(data), seed=0)


def test_a_folder_without_data_is_one_clear_error(data: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ParquetDataset(config(data / "nowhere"), 0)
    with pytest.raises(UserError, match="not a folder"):
        ParquetDataset(config(data / PROMPTS), 0)
    (data / "none").mkdir()
    (data / "none" / ".part-00000.parquet").touch()
    with pytest.raises(UserError, match="no parquet files in"):
        ParquetDataset(config(data / "none"), 0)
    pq.write_table(pa.Table.from_pylist([], T2V), data / "none" / "a.parquet")
    with pytest.raises(UserError, match="and no rows"):
        ParquetDataset(config(data / "none"), 0)


def test_a_holdout_beside_the_samples_is_not_trained_on(data: Path) -> None:
    write(data / "holdout")
    assert len(parquet_files.find(data)) == 3 and len(parquet_files.find(data / "holdout")) == 3


# --- prompts


def test_prompts_are_found_from_either_folder(data: Path) -> None:
    for path in (data, data / FOLDER):
        found = required(config(path), "a test")
        assert pad(found.negative, 2)[0].tolist() == [[-2.0] * 4] * 2 and pad(found.empty, 2)[1].tolist() == [1, 0]
    assert prompts(config(data / FOLDER / "worker_0")) is None


def test_named_prompts_their_texts_and_encoder_are_read(data: Path) -> None:
    held = {name: torch.full((1, 4), number) for number, name in enumerate(("empty", "validation.001", "validation.000"))}
    safetensors.torch.save_file(held, data / PROMPTS, {"texts": json.dumps({"validation.000": "a cat"}), "encoder": "abc"})
    found = required(config(data), "validation")
    assert found.validation == ["validation.000", "validation.001"]
    assert found["validation.000"].tolist() == [[2.0] * 4] and found.texts["validation.000"] == "a cat"
    assert found.encoder == "abc"
    with pytest.raises(UserError, match=r"has no prompt 'negative'; it has empty, validation.000, validation.001"):
        found.negative


@pytest.fixture
def broken(data: Path) -> Iterator[Path]:
    yield data
    with pytest.raises(UserError, match=f"{data / PROMPTS}.*\nhint: preprocess again"):
        prompts(config(data))


def test_a_file_that_holds_no_prompts_is_named(broken: Path) -> None:
    (broken / PROMPTS).write_bytes(b"junk")


def test_prompts_that_are_not_finite_are_named(broken: Path) -> None:
    safetensors.torch.save_file({"empty": torch.full((1, 4), torch.nan)}, broken / PROMPTS)


def test_folders_of_different_text_encoders_are_not_mixed(data: Path) -> None:
    other = write(data / "other")
    for folder, encoder in ((data, "a"), (other, "b")):
        safetensors.torch.save_file({"empty": torch.ones(1, 4)}, folder / PROMPTS, {"encoder": encoder})
    with pytest.raises(UserError, match="different text encoders"):
        prompts(config({str(data): 1, str(other): 1}))
