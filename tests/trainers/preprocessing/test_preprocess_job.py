"""Preprocessing jobs: what they write, what becomes of entries that cannot be used, and that cutting them short loses nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors
import torch

from tests.support.rows import fault
from tests.support.small_disk import small_disk
from tests.support.trainers.clip_files import Job, finish, rows, write_clip, write_merged, write_sound
from trainers.data.parquet_schema import T2V
from trainers.models.codecs.shapes import ShapesCodec
from trainers.preprocessing.clips import Settings, read_clip


def eventually(true: Callable[[], bool], job: Job) -> None:
    """Wait for what a job does."""
    while not true():
        assert job.ranks[0].is_alive() or true(), job.log()
        time.sleep(0.001)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips."""
    return write_merged(tmp_path_factory.mktemp("clips"), 12)


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job makes of the 12 clips that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "out"
    told = finish(clips, output, validation_prompts=["a cross moving right"])
    counts = {"entries": 12, "written": 12, "holdout": 0, "rejected": {}, "problems": [], "heavy_crops": []}
    assert told == {**counts, "latents": [4, 5, 4, 4]}
    return output


def test_a_sample_is_the_clip_and_its_caption_in_the_t2v_schema(clips: Path, whole: Path) -> None:
    file = pq.ParquetFile(whole / "combined_parquet_dataset/worker_0000/part-00000000.parquet")
    assert file.schema_arrow.equals(T2V)
    row = file.read_row_group(1).to_pylist()[0]
    codec, clip = ShapesCodec(), read_clip(clips / "videos/001.mp4", Settings(5, 8, 8, 8))
    latents = np.frombuffer(row.pop("vae_latent_bytes"), "<f4").reshape(row.pop("vae_latent_shape"))
    text = np.frombuffer(row.pop("text_embedding_bytes"), "<f4").reshape(row.pop("text_embedding_shape"))
    np.testing.assert_array_equal(latents, codec.encode_video(clip.frames))
    np.testing.assert_array_equal(text, codec.encode_text("a cross moving down"))
    assert row == {
        "id": "001",
        "vae_latent_dtype": "float32",
        "text_embedding_dtype": "float32",
        "file_name": "001.mp4",
        "caption": "a cross moving down",
        "media_type": "video",
        "width": 32,
        "height": 16,
        "num_frames": 5,
        "duration_sec": 5 / 8,
        "fps": 8.0,
    }


def test_prompts_stand_beside_the_samples_with_their_texts(whole: Path) -> None:
    with safetensors.safe_open(str(whole / "prompts.safetensors"), "pt") as file:
        texts = json.loads(file.metadata()["texts"])
        assert texts == {"empty": "", "negative": "", "validation.000": "a cross moving right"}
        assert file.metadata()["encoder"] == "ShapesCodec"
        for key, text in texts.items():
            assert torch.equal(file.get_tensor(key), ShapesCodec().encode_text(text))


def test_progress_counts_clips(clips: Path, tmp_path: Path) -> None:
    job = Job(clips, tmp_path / "out")
    assert job.join() == [0]
    counts = [(m["count"], m["max_steps"]) for m in job.sent() if m.get("phase") == "preprocessing"]
    assert counts[0] == (0, 12)
    assert sorted(counts) == counts


def test_two_ranks_write_what_one_does(clips: Path, whole: Path, tmp_path: Path) -> None:
    assert finish(clips, tmp_path / "out", world=2)["written"] == 12
    assert rows(tmp_path / "out") == rows(whole)
    workers = [p.name for p in sorted((tmp_path / "out/combined_parquet_dataset").iterdir())]
    assert workers == ["worker_0000", "worker_0001"]


def test_a_killed_job_goes_on_where_it_was_and_repeats_nothing(clips: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for world, kill_at in ((1, 2), (2, 3)):
        job = Job(clips, output, world)
        eventually(lambda job=job, kill_at=kill_at: job.records() >= kill_at, job)
        for rank in job.ranks:
            os.kill(rank.pid or 0, signal.SIGKILL)
        job.join()
        before = {path: path.stat().st_mtime_ns for path in output.rglob("part-*.parquet")}
        (output / ".preprocess/records/.00000000-00000001.json.1.tmp").write_text('{"written": 2}')  # as a kill just before a rename
        (output / ".prompts.safetensors.0a0a0a0a.tmp").touch()  # and here
    told = finish(clips, output)
    assert told["written"] == 12
    assert rows(output) == rows(whole)
    records = sum(json.loads(p.read_text())["written"] for p in (output / ".preprocess/records").iterdir())
    assert records == 12
    kept = [path for path, written in before.items() if path.exists() and path.stat().st_mtime_ns == written]
    assert len(kept) >= 3  # as many as there were records
    assert list(output.rglob(".*.tmp")) == []
    assert not list(output.rglob("*.tmp"))


def test_a_notice_publishes_the_open_part_and_asks_to_be_run_again(clips: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = Job(clips, output, rows_per_file=100, hold_at=5)
    eventually(Path(f"{output}.held-0").exists, job)
    assert list(output.rglob(".part-*.tmp")) and not list(output.rglob("part-*"))
    os.kill(job.ranks[0].pid or 0, signal.SIGTERM)
    assert job.join() == [75]
    assert len(rows(output)) == 5
    assert not (output / "report.json").exists()
    assert finish(clips, output, rows_per_file=100)["written"] == 12
    assert rows(output) == rows(whole)
    assert len(list(output.rglob("part-*.parquet"))) == 2


def test_damaged_and_uncounted_parts_are_made_again(clips: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    finish(clips, output)
    parts = sorted(output.rglob("part-*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    parts[1].unlink()
    (parts[0].parent / "part-00000099.parquet").write_bytes(b"half")
    job = Job(clips, output)
    assert job.join() == [0]
    assert "parts are missing or damaged, and made again" in job.log()
    assert rows(output) == rows(whole)


def test_a_finished_job_that_is_run_again_changes_nothing(clips: Path, tmp_path: Path) -> None:
    told = finish(clips, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}
    assert finish(clips, tmp_path / "out") == told
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")} == before


def test_an_output_of_other_settings_or_of_somebody_else_is_refused(clips: Path, tmp_path: Path) -> None:
    finish(clips, tmp_path / "out")
    job = Job(clips, tmp_path / "out", height=16)
    assert job.join() == [76]
    assert "was begun with other settings: height was 8, is now 16" in job.log()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/data.parquet").touch()
    job = Job(clips, tmp_path / "theirs")
    assert job.join() == [76]
    assert "holds parquet files that this preprocessing did not write" in job.log()


def test_a_holdout_is_never_trained_on_and_stays_the_same(clips: Path, whole: Path, tmp_path: Path) -> None:
    told = finish(clips, tmp_path / "out", holdout=0.25, world=2)
    assert (told["written"], told["holdout"]) == (12, 3)
    trained, held = rows(tmp_path / "out"), rows(tmp_path / "out", "holdout/combined_parquet_dataset")
    assert sorted([*trained, *held], key=lambda row: str(row["id"])) == rows(whole)
    finish(clips, tmp_path / "again", holdout=0.25)
    assert rows(tmp_path / "again", "holdout/combined_parquet_dataset") == held


@fault("22", "clips and captions that cannot be used, in 14 ways")
def test_clips_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    videos = tmp_path / "in/videos"
    good = write_clip(videos / "good.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(good[:-300])
    (videos / "garbage.mp4").write_bytes(b"no video at all" * 100)
    (videos / "empty.mp4").touch()
    (videos / "folder.mp4").mkdir()
    write_sound(videos / "sound.mp4")
    write_clip(videos / "short.mp4", frames=4)
    write_clip(videos / "long.mp4", frames=30)
    write_clip(videos / "unlisted.mp4")
    names = ["good", "cut", "garbage", "empty", "folder", "sound", "short", "long", "absent"]
    listed: list[Any] = [{"path": f"{name}.mp4", "cap": "a square moving right"} for name in names]
    listed += [{"path": "good.mp4"}, {"path": "good.mp4", "cap": " "}, {"cap": "a"}, 7, {"path": "../in/videos/good.mp4", "cap": "a"}]
    listed += [{"path": "good.mp4", "cap": "a dog"}, {"path": "good.mp4", "cap": "a cross moving down"}]
    (tmp_path / "in/videos2caption.json").write_text(json.dumps(listed))
    told = finish(tmp_path / "in", tmp_path / "out", decoders=1, max_rejected=1)
    assert (told["entries"], told["written"]) == (16, 2)
    assert told["rejected"] == {
        "bad_caption": 1,
        "bad_entry": 3,
        "missing": 1,
        "no_caption": 2,
        "too_long": 1,
        "too_short": 1,
        "unreadable": 5,
    }
    texts = {problem["name"]: problem["text"] for problem in told["problems"]}
    assert texts["short.mp4"] == "4 frames at 8 fps, 5 are needed for num_frames 5 at fps 8"
    assert texts["sound.mp4"] == "it has no video stream"
    assert texts["absent.mp4"].startswith("there is no such file in ")
    assert texts["../in/videos/good.mp4"] == "its path leaves the folder of the videos"
    assert [row["id"] for row in rows(tmp_path / "out")] == ["good", "good-5"]
    assert told["heavy_crops"] == []


def test_heavy_crops_are_told(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/wide.mp4", size=(16, 64))
    write_clip(tmp_path / "in/plain.mp4", size=(16, 16))
    for name in ("wide", "plain"):
        (tmp_path / f"in/{name}.txt").write_text("a square moving right\n")
    job = Job(tmp_path / "in", tmp_path / "out")
    assert job.join() == [0]
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["heavy_crops"] == [{"name": "wide.mp4", "kept": 0.25}]
    warned = [m["text"] for m in job.sent() if m["kind"] == "warning"]
    assert warned == ["most of the picture of 1 clip is lost to the wanted aspect ratio; the worst, wide.mp4, keeps 25%"]


@fault("22", "more rejected clips than max_rejected")
def test_too_many_that_cannot_be_used_end_the_job_with_the_first_of_them(clips: Path, tmp_path: Path) -> None:
    job = Job(clips, tmp_path / "out", num_frames=6, world=2)
    assert job.join() == [76, 76]
    assert "none of 12 entries can be used" in job.log()
    assert "000.mp4: 5 frames at 8 fps, 6 are needed" in job.log()
    assert len(json.loads((tmp_path / "out/report.json").read_text())["problems"]) == 12


def test_prompts_become_text_only_samples(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a square moving right\n\na cross moving down\n")
    told = finish(tmp_path / "prompts.txt", tmp_path / "out", kind="text")
    assert (told["entries"], told["rejected"]) == (2, {})
    found = rows(tmp_path / "out")
    assert [list(row) for row in found] == [["id", "text_embedding_bytes", "text_embedding_shape", "text_embedding_dtype", "caption"]] * 2
    assert [row["caption"] for row in found] == ["a square moving right", "a cross moving down"]
    text = np.frombuffer(found[1]["text_embedding_bytes"], "<f4").reshape(found[1]["text_embedding_shape"])
    np.testing.assert_array_equal(text, ShapesCodec().encode_text("a cross moving down"))
    assert (tmp_path / "out/prompts.safetensors").is_file()


def test_a_rewrite_never_takes_what_was_held_out(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "above/out"
    output.parent.mkdir()
    finish(clips, output, holdout=0.25)
    assert finish(output, tmp_path / "again", kind="rewrite", model=None)["written"] == 9
    assert (tmp_path / "again/prompts.safetensors").is_file()
    job = Job(tmp_path / "above", tmp_path / "high", kind="rewrite", model=None)
    assert job.join() == [76]
    assert "held out from training, in out/holdout" in job.log() and f"name the data in it: {output}" in job.log()
    part = next((output / "combined_parquet_dataset").rglob("*.parquet"))
    assert finish(part, tmp_path / "one", kind="rewrite", model=None)["written"] > 0
    assert (tmp_path / "one/prompts.safetensors").is_file()


def test_others_files_are_written_again_a_sample_a_row_group(whole: Path, tmp_path: Path) -> None:
    theirs, all_rows = tmp_path / "theirs", rows(whole)
    (theirs / "data").mkdir(parents=True)
    (theirs / "prompts.safetensors").write_bytes((whole / "prompts.safetensors").read_bytes())
    table = pq.read_table(whole / "combined_parquet_dataset")
    bad = table.slice(0, 4).to_pylist()
    for row in bad:  # half precision, as some write it; the first has a shape that its bytes do not fill
        row["vae_latent_bytes"] = np.frombuffer(row["vae_latent_bytes"], "<f4").astype("<f2").tobytes()
        row["vae_latent_dtype"] = "float16"
    bad[0]["vae_latent_shape"] = [4, 5, 4, 5]
    pq.write_table(type(table).from_pylist(bad, T2V), theirs / "data/a.parquet")
    pq.write_table(table.slice(4), theirs / "data/b.parquet")
    (theirs / "data/c.parquet").write_bytes((theirs / "data/b.parquet").read_bytes()[:-9])
    told = finish(theirs, tmp_path / "out", kind="rewrite", model=None, world=2)
    assert (told["written"], told["rejected"]) == (11, {"bad_array": 1, "unreadable": 1})
    assert [p["name"] for p in told["problems"]] == ["data/a.parquet: row group 0, row 0", "data/c.parquet"]
    again = rows(tmp_path / "out")
    assert [row["id"] for row in again] == [row["id"] for row in all_rows[1:]]
    assert again[3:] == all_rows[4:]
    np.testing.assert_allclose(
        np.frombuffer(again[0]["vae_latent_bytes"], "<f4"), np.frombuffer(all_rows[1]["vae_latent_bytes"], "<f4"), atol=1e-3
    )
    assert (tmp_path / "out/prompts.safetensors").read_bytes() == (whole / "prompts.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "/nowhere/clips"}, "the source /nowhere/clips does not exist"),
        (
            {"source": "nobody/clips"},
            "nobody/clips is no file or folder here, and the dataset nobody/clips is not in the Hugging",
        ),
        ({"model": "nobody/wan"}, "nobody/wan"),
        ({"model": "/nowhere/wan"}, "there is no model folder /nowhere/wan"),
    ],
)
def test_what_is_not_there_is_one_clear_error(clips: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    job = Job(Path(changes.pop("source", clips)), tmp_path / "out", **changes)
    assert job.join() == [76]
    assert message in job.log()
    assert "Traceback" not in job.log()


def test_a_full_disk_is_one_error_leaves_nothing_half_made_and_the_next_start_goes_on(clips: Path, whole: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kb=600) as disk:
        (tmp_path / "out").symlink_to(disk.path)
        for leave in (0, 8_192, 20_480, 32_768):
            disk.fill(leave=leave)
            job = Job(clips, tmp_path / "out", rows_per_file=2, validation_prompts=["a cross moving right"])
            assert job.join() == [76], (leave, job.log())
            assert "No space left on device" in job.log() and "room" in job.log() and "Traceback" not in job.log()
            assert not [path for path in disk.path.rglob(".*") if path.name not in (".filler", ".preprocess")], leave
            disk.empty()
        finish(clips, tmp_path / "out", rows_per_file=2, validation_prompts=["a cross moving right"])
        assert rows(tmp_path / "out") == rows(whole)
