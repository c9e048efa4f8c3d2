"""What a run reads: values, order and draws that depend on nothing but (seed, step), and one clear error for each bad input."""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from trainers.config.data import DataConfig
from trainers.data import dataset as module
from trainers.data import files
from trainers.data.dataset import ParquetDataset, batches, pad, prompts
from trainers.data.sampler import permutation
from trainers.data.schema import FOLDER, PROMPTS, T2V, PartWriter, Sample, decode_array
from trainers.errors import UserError

Row = dict[str, Any]
ONE_RANK = {"rank": 0, "data_parallel": 1, "accumulation": 2, "micro": 2}


def latents(index: int) -> np.ndarray[Any, Any]:
    """[2, 3, 1, 2] of different numbers, none of them rounded in half precision."""
    return np.arange(12, dtype=np.float32).reshape(2, 3, 1, 2) + 16 * index


def sample(index: int) -> Sample:
    text = np.full((1 + index % 3, 4), index + 1, np.float32)
    return Sample(f"s{index}", latents(index), text, f"{index}.mp4", f"caption {index}", 16, 8, 1.0, 8.0)


def config(path: Path, **changes: Any) -> DataConfig:
    sizes = {"num_frames": 3, "height": 2, "width": 4, "vae_stride": (1, 2, 2), "text_len": 2, "global_batch_size": 4, "workers": 0}
    return DataConfig.model_validate({"path": str(path), "latents_mean": [1.0, 2.0], "latents_std": [0.5, 4.0], **sizes, **changes})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """10 samples in files of 4, and prompts."""
    with PartWriter(tmp_path / FOLDER / "worker_0", rows_per_file=4) as writer:
        for index in range(10):
            writer.write(sample(index))
    found = {"empty": torch.full((1, 4), -1.0), "negative": torch.full((3, 4), -2.0)}
    safetensors.torch.save_file(found, tmp_path / PROMPTS)
    return tmp_path


def rewrite(data: Path, change: Callable[[Row], Row], schema: pa.Schema = T2V) -> Path:
    """Applies `change` to the third row of the second file, the 7th of all; the file."""
    path = data / FOLDER / "worker_0" / "part-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[2] = change(rows[2])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def run(wanted: DataConfig, seed: int = 3, **changes: Any) -> list[list[dict[str, torch.Tensor]]]:
    return list(batches(wanted, seed, **{**ONE_RANK, "start_step": 0, "max_steps": 5, **changes}))


def same(first: Any, second: Any) -> bool:
    flat = [[(k, v) for step in steps for batch in step for k, v in sorted(batch.items())] for steps in (first, second)]
    return len(flat[0]) == len(flat[1]) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(*flat, strict=True))


def test_an_item_is_the_stored_sample(data: Path) -> None:
    dataset = ParquetDataset(config(data), seed=0)
    assert len(dataset) == 10
    item = dataset[0, 7]
    np.testing.assert_array_equal(item["latents"], latents(7))
    assert item["prompt"].tolist() == [[8.0] * 4] * 2 and item["prompt_mask"].tolist() == [1, 1]
    assert (item["caption"], item["index"]) == ("caption 7", 7)
    assert dataset[0, 6]["prompt_mask"].tolist() == [1, 0]  # one token, then padding
    assert dataset[0, 6]["prompt"].tolist() == [[7.0] * 4, [0.0] * 4]
    assert dataset[0, 8]["prompt"].tolist() == [[9.0] * 4] * 2  # three tokens, cut


def test_changing_an_item_does_not_change_the_data(data: Path) -> None:
    dataset = ParquetDataset(config(data), seed=0)
    item = dataset[0, 1]
    item["latents"].zero_()
    item["prompt"].zero_()
    np.testing.assert_array_equal(dataset[0, 1]["latents"], latents(1))
    assert dataset[0, 1]["prompt"].tolist() == [[2.0] * 4] * 2


def test_a_batch_is_normalised_and_in_the_order_of_method_code(data: Path) -> None:
    (first, second), *_ = run(config(data))
    order = permutation(10, 3, 0).tolist()
    assert first["index"].tolist() == order[:2] and second["index"].tolist() == order[2:4]
    assert first["latents"].shape == (2, 3, 2, 1, 2) and first["latents"].is_contiguous()
    x = torch.from_numpy(latents(order[1]))
    torch.testing.assert_close(first["latents"][1, :, 0], (x[0] - 1) / 0.5)
    torch.testing.assert_close(first["latents"][1, :, 1], (x[1] - 2) / 4)
    assert first["prompt"].shape == (2, 2, 4) and first["prompt_mask"].shape == (2, 2)


def test_a_resumed_run_reads_what_the_uninterrupted_one_would(data: Path) -> None:
    wanted = config(data, text_dropout=0.5)
    assert same(run(wanted)[3:], run(wanted, start_step=3))
    assert not same(run(wanted), run(wanted, seed=4))


def test_two_ranks_read_the_micro_batches_that_one_would(data: Path) -> None:
    wanted = config(data, text_dropout=0.5)
    one = run(wanted)
    two = [run(wanted, rank=rank, data_parallel=2, accumulation=1) for rank in (0, 1)]
    assert same(one, [[two[0][step][0], two[1][step][0]] for step in range(5)])


def test_a_loader_process_gives_the_same_and_close_ends_it(data: Path) -> None:
    wanted = config(data, text_dropout=0.5)
    stream = batches(wanted.model_copy(update={"workers": 1}), 3, **ONE_RANK, start_step=0, max_steps=100)
    (worker,) = multiprocessing.active_children()
    assert same([next(stream) for _ in range(5)], run(wanted))
    stream.close()
    assert not worker.is_alive()


def test_batches_leave_the_global_generator_alone(data: Path) -> None:
    before = torch.random.get_rng_state()
    run(config(data))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_big_files_read_by_row_group_give_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(config(data))
    monkeypatch.setattr(files, "WHOLE_FILE_BYTES", 0)
    monkeypatch.setattr(files, "OPEN_FILES", 1)
    assert same(run(config(data)), whole)


def test_row_groups_of_several_rows_and_a_small_cache_give_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(config(data))
    path = data / FOLDER / "worker_0" / "part-00001.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    monkeypatch.setattr(files, "WHOLE_FILE_BYTES", 0)
    monkeypatch.setattr(files, "CACHE_BYTES", 200)
    assert same(run(config(data)), whole)


def test_text_dropout_gives_the_empty_prompt_to_its_share_anew_each_epoch(data: Path) -> None:
    dataset = ParquetDataset(config(data, text_dropout=0.3), seed=1)
    dropped = [[dataset[epoch, i]["prompt"][0, 0].item() == -1 for i in range(10)] for epoch in range(100)]
    assert 0.25 < np.mean(dropped) < 0.35
    assert len({tuple(epoch) for epoch in dropped}) > 80  # of 100 epochs, some alike by chance
    item = next(dataset[0, i] for i in range(10) if dropped[0][i])
    assert item["prompt"].tolist() == [[-1.0] * 4, [0.0] * 4] and item["prompt_mask"].tolist() == [1, 0]


def test_no_text_is_dropped_unless_asked_for(data: Path) -> None:
    (data / PROMPTS).unlink()
    dataset = ParquetDataset(config(data), seed=1)
    assert all(dataset[epoch, i]["prompt"][0, 0] == i + 1 for epoch in range(20) for i in range(10))


def test_prompts_are_found_from_either_folder(data: Path) -> None:
    for path in (data, data / FOLDER):
        found = prompts(config(path))
        assert found is not None
        assert pad(found.negative, 2)[0].tolist() == [[-2.0] * 4] * 2 and pad(found.empty, 2)[1].tolist() == [1, 0]
    assert prompts(config(data / FOLDER / "worker_0")) is None


def test_the_default_statistics_are_the_wan_vaes() -> None:
    from diffusers import AutoencoderKLWan

    defaults = inspect.signature(AutoencoderKLWan.__init__).parameters
    assert list(module.WAN_LATENTS_MEAN) == list(defaults["latents_mean"].default)
    assert list(module.WAN_LATENTS_STD) == list(defaults["latents_std"].default)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_the_stored_dtype_is_honoured(data: Path, dtype: str) -> None:
    values = torch.from_numpy(latents(6))
    stored = values.to(getattr(torch, dtype))
    raw = stored.view(torch.uint8).numpy().tobytes()
    rewrite(data, lambda row: {**row, "vae_latent_bytes": raw, "vae_latent_dtype": dtype})
    assert torch.equal(ParquetDataset(config(data), 0)[0, 6]["latents"], values)


def test_float64_that_does_not_fit_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decode_array(np.array([1e300]).tobytes(), [1], "float64")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"vae_latent_dtype": "int8"}, "vae_latent has the unknown dtype 'int8'; known: float32, float16, float64, bfloat16"),
        ({"vae_latent_bytes": np.full(12, np.nan, "<f4").tobytes()}, "vae_latent holds values that are not finite"),
        ({"text_embedding_bytes": np.full(4, np.inf, "<f4").tobytes()}, "text_embedding holds values that are not finite"),
        ({"vae_latent_bytes": b"1234567"}, r"vae_latent has 7 bytes, but its shape \[2, 3, 1, 2\] of float32 takes 48"),
        ({"vae_latent_shape": [3, 2, 1, 2]}, r"latents are \[3, 2, 1, 2\], but the config asks for \[2, 3, 1, 2\]"),
        ({"vae_latent_shape": []}, "vae_latent has 48 bytes"),
        ({"vae_latent_shape": [2, -3, -1, 2]}, r"vae_latent has the shape \[2, -3, -1, 2\]"),
        ({"vae_latent_bytes": None}, "vae_latent is missing"),
        ({"text_embedding_shape": [2, 2]}, r"text_embedding is \[2, 2\], other rows have \[tokens, 4\]"),
        ({"text_embedding_shape": [1, 1, 4]}, r"text_embedding is \[1, 1, 4\]"),
    ],
)
def test_a_bad_row_is_named_by_file_and_row(data: Path, columns: Row, message: str) -> None:
    path = rewrite(data, lambda row: {**row, **columns})
    with pytest.raises(UserError, match=f"^{path}: row 2: {message}"):
        run(config(data))


def test_a_latent_shape_other_than_the_configs_is_told_before_the_first_step(data: Path) -> None:
    with pytest.raises(UserError, match=r"part-00000.parquet: row 0: latents are \[2, 3, 1, 2\].*\[2, 5, 1, 2\]"):
        ParquetDataset(config(data, num_frames=5), seed=0)


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_half_written_file_is_named(data: Path, size: int) -> None:
    path = data / FOLDER / "worker_0" / "part-00002.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=f"^{path} is not a whole parquet file: .*\nhint: .*write it again") as caught:
        ParquetDataset(config(data), seed=0)
    assert len(str(caught.value).splitlines()) == 2


def test_damage_inside_a_file_is_named_when_it_is_read(data: Path) -> None:
    path = data / FOLDER / "worker_0" / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^(cannot read )?{path}"):
        run(config(data))


def test_files_of_another_schema_are_named(data: Path) -> None:
    path = data / FOLDER / "worker_0" / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=f"{path} has no column 'vae_latent_bytes'"):
        ParquetDataset(config(data), seed=0)
    path.unlink()
    path = rewrite(data, lambda row: row, T2V.set(3, pa.field("vae_latent_dtype", pa.binary())))
    with pytest.raises(UserError, match=f"{path}: the column 'vae_latent_dtype' is binary, not string"):
        ParquetDataset(config(data), seed=0)


def test_other_writers_wide_types_are_read(data: Path) -> None:
    wide = {"binary": pa.large_binary(), "string": pa.large_string(), "list<item: int64>": pa.large_list(pa.int64())}
    rewrite(data, lambda row: row, pa.schema([(f.name, wide.get(str(f.type), f.type)) for f in T2V]))
    np.testing.assert_array_equal(ParquetDataset(config(data), 0)[0, 6]["latents"], latents(6))


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
    with pytest.raises(UserError, match="hold no rows"):
        ParquetDataset(config(data / "none"), 0)


def test_text_dropout_without_an_empty_prompt_is_refused(data: Path) -> None:
    (data / PROMPTS).unlink()
    with pytest.raises(UserError, match="text_dropout needs the empty prompt"):
        ParquetDataset(config(data, text_dropout=0.1), 0)


@pytest.mark.parametrize("broken", [b"junk", safetensors.torch.save({"empty": torch.ones(1, 4)})])
def test_unusable_prompts_are_named(data: Path, broken: bytes) -> None:
    (data / PROMPTS).write_bytes(broken)
    with pytest.raises(UserError, match=PROMPTS):
        ParquetDataset(config(data, text_dropout=0.1), 0)


def test_prompts_of_another_text_encoder_are_refused(data: Path) -> None:
    other = {"empty": torch.ones(1, 5), "negative": torch.ones(1, 5)}
    safetensors.torch.save_file(other, data / PROMPTS)
    with pytest.raises(UserError, match="has 5 channels, the samples' text has 4"):
        ParquetDataset(config(data, text_dropout=0.1), 0)


def test_fewer_samples_than_a_global_batch_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match="10 samples, less than one global batch of 12"):
        run(config(data), accumulation=6)
