"""What a run reads: values, order and draws that depend on nothing but (seed, step), and bad rows that are replaced and told."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from tests.support.paths import ROOT
from tests.support.rows import Figures, fault
from tests.support.trainers.stored import ONE_RANK, Row, config, indices, latents, part, rewrite, run, same, sample, write
from trainers.data import parquet_rows, samples
from trainers.data.batches import batches
from trainers.data.dataset import ParquetDataset
from trainers.data.parquet_schema import FOLDER, PROMPTS, T2V, PartWriter, TextSample, TrajectorySample
from trainers.data.sampler import permutation
from trainers.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path)


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


def test_a_loader_process_gives_and_tells_the_same_and_close_ends_it(data: Path) -> None:
    rewrite(data, lambda row: {**row, "vae_latent_bytes": None})
    wanted, told = config(data, text_dropout=0.5), []
    stream = batches(wanted.model_copy(update={"workers": 1}), 3, **ONE_RANK, start_step=0, max_steps=100, warn=told.append)
    (worker,) = multiprocessing.active_children()
    here: list[str] = []
    assert same([next(stream) for _ in range(5)], run(wanted, warn=here.append))
    assert told == here and len(told) == 1
    assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()  # seconds to load, and hundreds of megabytes
    stream.close()
    assert not worker.is_alive()


def test_batches_leave_the_global_generator_alone(data: Path) -> None:
    before = torch.random.get_rng_state()
    run(config(data))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_repeated_folders_are_read_so_often_an_epoch(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with PartWriter(other, rows_per_file=2) as writer:
        writer.write(sample(10))
        writer.write(sample(11))
    wanted = config({str(data / FOLDER): 1, str(other): 3})
    dataset = ParquetDataset(wanted, seed=0)
    captions = [dataset[0, index]["caption"] for index in range(len(dataset))]
    assert captions == [f"caption {index}" for index in (*range(10), *[10, 11] * 3)]
    assert sorted(indices(run(wanted, max_steps=4))) == list(range(16))


# --- text dropout


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


def test_text_dropout_without_an_empty_prompt_is_refused(data: Path) -> None:
    (data / PROMPTS).unlink()
    with pytest.raises(UserError, match=r"data.text_dropout needs .*no prompts.safetensors in"):
        ParquetDataset(config(data, text_dropout=0.1), 0)


def test_prompts_of_another_text_encoder_are_refused(data: Path) -> None:
    safetensors.torch.save_file({"empty": torch.ones(1, 5)}, data / PROMPTS)
    with pytest.raises(UserError, match=r"has 5 channels, the samples' text in .* has 4"):
        ParquetDataset(config(data, text_dropout=0.1), 0)


# --- methods that need something else than clips


def test_a_method_that_needs_text_reads_prompts_alone_of_any_schema(data: Path, tmp_path: Path) -> None:
    with PartWriter(tmp_path / "texts", rows_per_file=4) as writer:
        for index in range(10):
            writer.write(TextSample(f"s{index}", sample(index).text, f"caption {index}"))
    of_clips, of_texts = (run(config(path), needs="text") for path in (data, tmp_path / "texts"))
    assert same(of_clips, of_texts) and set(of_texts[0][0]) == {"prompt", "prompt_mask", "index"}
    with pytest.raises(UserError, match=r"no column 'vae_latent_bytes'\nhint: .*t2v"):
        run(config(tmp_path / "texts"))


def test_trajectories_are_read_as_stored_and_checked(tmp_path: Path) -> None:
    states = np.random.RandomState(0).standard_normal((5, 3, 2, 1, 2)).astype("f4")  # [S, T, C, H, W]
    with PartWriter(tmp_path, rows_per_file=4) as writer:
        for index in range(4):
            timesteps = np.array([1000, 937, 833, 625, 0], np.float32) + index
            writer.write(TrajectorySample(f"s{index}", states + index, timesteps, sample(index).text, ""))
    ((batch,),) = run(config(tmp_path), needs="trajectory", accumulation=1, max_steps=1)
    first = batch["index"][0].item()
    assert torch.equal(batch["trajectory_latents"][0], torch.from_numpy(states + first))
    assert batch["trajectory_timesteps"][0].tolist() == [1000 + first, 937 + first, 833 + first, 625 + first, first]
    with pytest.raises(UserError, match=r"trajectory_latents are \[5, 3, 2, 1, 2\].* asks for \[5, 2, 2, 1, 2\] \[steps, T, C, H, W\]"):
        run(config(tmp_path, num_frames=2), needs="trajectory")


# --- bad rows

BAD = [
    ({"vae_latent_dtype": "int8"}, "vae_latent has the unknown dtype 'int8'; known: float32, float16, float64, bfloat16"),
    ({"vae_latent_bytes": np.full(12, np.nan, "<f4").tobytes()}, "vae_latent holds values that are not finite"),
    ({"text_embedding_bytes": np.full(4, np.inf, "<f4").tobytes()}, "text_embedding holds values that are not finite"),
    ({"vae_latent_bytes": b"1234567"}, "vae_latent has 7 bytes, but its shape [2, 3, 1, 2] of float32 takes 48"),
    ({"vae_latent_shape": [3, 2, 1, 2]}, "latents are [3, 2, 1, 2], but the config asks for [2, 3, 1, 2]"),
    ({"vae_latent_shape": []}, "vae_latent has 48 bytes"),
    ({"vae_latent_shape": [2, -3, -1, 2]}, "vae_latent has the shape [2, -3, -1, 2]"),
    ({"vae_latent_bytes": None}, "vae_latent is missing"),
    ({"text_embedding_shape": [2, 2]}, "text_embedding is [2, 2], other rows have [tokens, 4]"),
    ({"text_embedding_shape": [1, 1, 4]}, "text_embedding is [1, 1, 4]"),
]


@fault("22", "rows of training data that are bad in each way")
@pytest.mark.parametrize(("columns", "message"), BAD)
def test_a_bad_row_is_replaced_by_another_one_and_told_once(data: Path, columns: Row, message: str) -> None:
    whole = run(config(data))
    path, told = rewrite(data, lambda row: {**row, **columns}), []
    found = run(config(data), warn=told.append)  # two epochs
    (text,) = told
    assert text.startswith(f"{path}: row 2: {message}") and text.endswith(" was read in its place (1 bad row so far)")
    before, after = indices(whole), indices(found)
    assert 6 in before and 6 not in after and len(after) == len(before)
    assert [a for a, b in zip(after, before, strict=True) if b != 6] == [b for b in before if b != 6]  # nothing else moved


def test_the_replacement_depends_on_nothing_but_seed_and_place(data: Path) -> None:
    rewrite(data, lambda row: {**row, "vae_latent_bytes": None})
    one = run(config(data), max_steps=50)
    two = [run(config(data), rank=rank, data_parallel=2, accumulation=1, start_step=20, max_steps=50) for rank in (0, 1)]
    assert indices(one)[20 * 4 :] == indices([[two[0][step][0], two[1][step][0]] for step in range(30)])
    found = ParquetDataset(config(data), seed=3).samples
    assert len({found.usable((epoch, 6))[1] for epoch in range(20)}) > 3  # not always the same one


@fault("22", "more bad rows than max_bad_share")
def test_too_many_bad_rows_end_the_run(data: Path) -> None:
    path = rewrite(data, lambda row: {**row, "vae_latent_bytes": None})
    with pytest.raises(UserError, match=rf"1 of the \d+ rows read is bad, more than data.max_bad_share 0 .*{path}: row 2"):
        run(config(data, max_bad_share=0))
    many = [sample(index) for index in range(40)]
    with PartWriter(data / "many", rows_per_file=40) as writer:
        for index, one in enumerate(many):
            writer.write(one if index % 3 else type(one)(**{**vars(one), "latents": one.latents[:, :2]}))
    told: list[str] = []
    with pytest.raises(UserError, match=r"9 of the \d+ rows read are bad, more than data.max_bad_share 0.05 allows"):
        run(config(data / "many", max_bad_share=0.05), max_steps=10, warn=told.append)
    assert len(told) == 9


def test_data_that_are_mostly_bad_are_refused_before_the_first_step(data: Path) -> None:
    with pytest.raises(UserError, match=r"part-00000.parquet: row 0: latents are \[2, 3, 1, 2\].*\[2, 5, 1, 2\]"):
        batches(config(data, num_frames=5), 0, **ONE_RANK, start_step=0, max_steps=1)


def test_damage_inside_a_file_is_told_by_row_and_the_rest_is_trained_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = part(data), []
    content = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(1).column(1)
    start = group.data_page_offset
    content[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(content)
    monkeypatch.setattr(parquet_rows, "WHOLE_FILE_BYTES", 0)
    found = run(config(data), warn=told.append)
    assert len(told) == 1 and told[0].startswith(f"{path}: row 1 cannot be read: ") and 5 not in indices(found)


@fault("H7", "parquet files with flipped bytes")
@pytest.mark.parametrize("count", [pytest.param(60), pytest.param(1000, marks=pytest.mark.long)])
def test_files_with_flipped_bytes_are_read_or_refused_in_words(
    data: Path, count: int, figure: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, which such bytes could end: pyarrow reads them in C++."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [
        sys.executable,
        "-c",
        "import sys; from tests.support.trainers.stored import mutate; mutate(*sys.argv[1:])",
        str(data),
        str(count),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == count and outcomes.keys() == {"whole", "rows replaced", "refused"}, outcomes
    figure.count("read, or refused in words", sum(outcomes.values()), count)


ODD_TYPES = [
    pa.string(),
    pa.large_binary(),
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.null(),
    pa.list_(pa.int32()),
    pa.struct([("a", pa.int64())]),
]
ODD_SHAPES = [[], [0], [-1, 2], [2**62, 2**62], [2**40], [12], [1] * 40, [3, 2, 1, 2], [None, 3], [2**63 - 1, 1]]


@fault("H7", "parquet columns doubled, renamed, null, of other types and shapes")
@pytest.mark.parametrize("name", T2V.names)
def test_a_column_that_is_not_what_it_should_be_is_refused_or_its_rows_replaced(data: Path, name: str, figure: Figures) -> None:
    path = part(data)
    table = pq.read_table(path)
    place, column = table.column_names.index(name), table.column(name)
    tables = [
        table.append_column(name, column),
        table.drop_columns([name]),
        table.rename_columns([f"{one}x" if one == name else one for one in table.column_names]),
        table.set_column(place, name, pa.nulls(len(table), column.type)),
        table.slice(0, 0),
        *(table.set_column(place, name, pa.nulls(len(table), kind)) for kind in ODD_TYPES),
        *(table.set_column(place, name, pa.array([shape] * len(table), column.type)) for shape in ODD_SHAPES if name.endswith("_shape")),
        *(
            table.set_column(place, name, pa.array([text] * len(table)))
            for text in ("", "object", "<f4", "\0")
            if column.type == pa.string()
        ),
    ]
    for changed in tables:
        pq.write_table(changed, path, row_group_size=1)
        with contextlib.suppress(UserError):
            run(config(data), warn=lambda _line: None)
    figure.count("tables read or refused", len(tables), len(tables))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_the_stored_dtype_is_honoured(data: Path, dtype: str) -> None:
    values = torch.from_numpy(latents(6))
    raw = values.to(getattr(torch, dtype)).view(torch.uint8).numpy().tobytes()
    rewrite(data, lambda row: {**row, "vae_latent_bytes": raw, "vae_latent_dtype": dtype})
    assert torch.equal(ParquetDataset(config(data), 0)[0, 6]["latents"], values)


def test_fewer_samples_than_a_global_batch_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match="10 samples, less than one global batch of 12"):
        run(config(data), accumulation=6)


def test_the_default_statistics_are_the_wan_vaes() -> None:
    defaults = _defaults("models/autoencoders/autoencoder_kl_wan.py", "AutoencoderKLWan")
    assert list(samples.WAN_LATENTS_MEAN) == defaults["latents_mean"]
    assert list(samples.WAN_LATENTS_STD) == defaults["latents_std"]


def _defaults(file: str, name: str) -> dict[str, Any]:
    """Of a diffusers class's constructor, read from its source: importing it takes seconds."""
    found = importlib.util.find_spec("diffusers")
    assert found is not None and found.origin is not None
    tree = ast.parse((Path(found.origin).parent / file).read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name).body
    arguments = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__").args
    named = zip(arguments.args[-len(arguments.defaults) :], arguments.defaults, strict=True)
    return {argument.arg: ast.literal_eval(value) for argument, value in named if argument.arg.startswith("latents_")}
