"""The parquet formats: columns, types and bytes are those of the published data sets, and files appear whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainers.data.parquet_schema import PartWriter, Sample, TextSample, TrajectorySample, decode_array

TRIPLE = {"bytes": "binary", "shape": "list<element: int64>", "dtype": "string"}


def columns(text: str) -> list[tuple[str, str]]:
    """`name*` is an array's three columns, `name:type` one."""
    found: list[tuple[str, str]] = []
    for word in text.split():
        if word.endswith("*"):
            found += [(f"{word[:-1]}_{part}", kind) for part, kind in TRIPLE.items()]
        else:
            name, _, kind = word.partition(":")
            found.append((name, kind or "string"))
    return found


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


SAMPLES = {
    "t2v": (
        Sample("a", numbers(2, 3, 1, 2), numbers(4, 5), "a.mp4", "words", 640, 480, 2.5, 24.0),
        "id vae_latent* text_embedding* file_name caption media_type width:int64 height:int64 num_frames:int64 "
        "duration_sec:double fps:double",
    ),
    "text_only": (TextSample("a", numbers(4, 5), "words"), "id text_embedding* caption"),
    "ode_trajectory_text_only": (
        TrajectorySample("a", numbers(3, 2, 4, 1, 2), numbers(3), numbers(4, 5), "words"),
        "id text_embedding* trajectory_latents* trajectory_timesteps* file_name caption media_type",
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_has_the_published_columns_and_types_one_sample_a_row_group(tmp_path: Path, name: str) -> None:
    sample, expected = SAMPLES[name]
    with PartWriter(tmp_path, rows_per_file=2) as writer:
        for _ in range(3):
            writer.write(sample)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    file = pq.ParquetFile(tmp_path / "part-00000.parquet")
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == columns(expected)
    assert file.metadata.num_rows == file.metadata.num_row_groups == 2
    assert file.metadata.row_group(0).column(1).compression == "ZSTD"


def test_arrays_are_c_order_little_endian_float32() -> None:
    row = SAMPLES["t2v"][0].row()
    assert row["vae_latent_bytes"] == numbers(2, 3, 1, 2).astype("<f4").tobytes()
    assert (row["vae_latent_shape"], row["vae_latent_dtype"], row["num_frames"]) == ([2, 3, 1, 2], "float32", 3)
    transposed = TextSample("a", numbers(4, 5).T, "").row()
    assert transposed["text_embedding_bytes"] == np.ascontiguousarray(numbers(4, 5).T).tobytes()
    trajectory = SAMPLES["ode_trajectory_text_only"][0].row()
    assert (trajectory["trajectory_latents_shape"], trajectory["trajectory_timesteps_shape"]) == ([3, 2, 4, 1, 2], [3])
    assert trajectory["media_type"] == "text"


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32"])
def test_any_stored_dtype_is_honoured(dtype: str) -> None:
    np.testing.assert_array_equal(decode_array(numbers(2, 3).astype(dtype).tobytes(), [2, 3], dtype), numbers(2, 3))


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    stored = (np.array([1.0, -2.5, 0.0]).astype("<f4").view("<u4") >> 16).astype("<u2")
    np.testing.assert_array_equal(decode_array(stored.tobytes(), [3], "bfloat16"), [1.0, -2.5, 0.0])


@pytest.mark.parametrize(
    ("array", "shape", "dtype", "message"),
    [
        (numbers(2, 3), [2, 4], "float32", "24 bytes, but its shape .* takes 32"),
        (numbers(2, 3), [2, 3], "complex64", "unknown dtype 'complex64'"),
        (numbers(2, 3), [-2, -3], "float32", "has the shape"),
        (np.array([np.nan], np.float32), [1], "float32", "not finite"),
        (np.array([1e300]), [1], "float64", "not finite"),
    ],
)
def test_what_cannot_be_right_says_why(array: np.ndarray, shape: list[int], dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_array(array.tobytes(), shape, dtype)


def test_a_writer_that_dies_leaves_no_half_file(tmp_path: Path) -> None:
    def write_and_die() -> None:
        with PartWriter(tmp_path, rows_per_file=2) as writer:
            for _ in range(3):
                writer.write(SAMPLES["text_only"][0])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_and_die()
    assert [p.name for p in tmp_path.iterdir()] == ["part-00000.parquet"]
