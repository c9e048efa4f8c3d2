"""A source that is mended between a job and its continuation: what is written stays, the rest is made, and a contradiction is named."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.trainers.clip_files import Job, finish, rows, write_clip, write_merged
from trainers.preprocessing import mended_source, output_shards
from trainers.preprocessing.output_shards import Record

Listed = list[dict[str, str]]


def listed(source: Path) -> Listed:
    found: Listed = json.loads((source / "videos2caption.json").read_text())
    return found


def relist(source: Path, entries: Listed) -> None:
    (source / "videos2caption.json").write_text(json.dumps(entries))


def cut_short(source: Path, output: Path, hold_at: int, **changes: Any) -> None:
    """Run a job that a stop notice meets after `hold_at` clips."""
    job = Job(source, output, hold_at=hold_at, **changes)
    while not Path(f"{output}.held-0").exists():
        assert job.ranks[0].is_alive(), job.log()
        time.sleep(0.001)
    os.kill(job.ranks[0].pid or 0, signal.SIGTERM)
    assert job.join() == [75], job.log()


def parts(output: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in output.rglob("part-*.parquet")}


def captions(output: Path, below: str = "combined_parquet_dataset") -> dict[str, str]:
    return {row["id"]: row["caption"] for row in rows(output, below)}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_merged(tmp_path / "clips", 8)


def test_entries_that_are_not_written_yet_may_come_go_and_change(clips: Path, tmp_path: Path) -> None:
    output, before = tmp_path / "out", listed(clips)
    cut_short(clips, output, 3, rows_per_file=2, holdout=0.2)
    kept = parts(output)
    written = {**captions(output), **(captions(output, "holdout/combined_parquet_dataset") if (output / "holdout").is_dir() else {})}
    assert sorted(written) == ["000", "001", "002"]
    write_clip(clips / "videos/new.mp4")
    changed = [{"path": "new.mp4", "cap": "a cross moving right a"}, before[1], *before[3:6], before[2], before[0]]
    changed[3] = {**changed[3], "cap": "a cross a moving down"}
    relist(clips, changed)
    told = finish(clips, output, rows_per_file=2, holdout=0.2, max_rejected=1)
    assert told["written"] == 7 and {path: parts(output)[path] for path in kept} == kept
    everything = {**captions(output), **captions(output, "holdout/combined_parquet_dataset")}
    assert everything == {Path(entry["path"]).stem: entry["cap"] for entry in changed}
    assert finish(clips, output, rows_per_file=2, holdout=0.2, max_rejected=1) == told
    assert told["holdout"] == len(rows(output, "holdout/combined_parquet_dataset")) > 0


def test_spaces_around_a_caption_make_it_no_other(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    cut_short(clips, output, 3, rows_per_file=1)
    for path in output.rglob("part-*.parquet"):  # as an earlier version wrote them
        table = pq.read_table(path)
        spaced = [f" {caption.as_py()}\n" for caption in table.column("caption")]
        pq.write_table(table.set_column(table.schema.get_field_index("caption"), "caption", [spaced]), path)
    for path in (output / ".preprocess/records").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "parts": {part: (output / part).stat().st_size for part in record["parts"]}}))
    relist(clips, listed(clips)[::-1])
    assert finish(clips, output, rows_per_file=1)["written"] == 8


def test_a_written_entry_that_has_changed_is_named_with_both_captions(clips: Path, tmp_path: Path) -> None:
    output, before = tmp_path / "out", listed(clips)
    cut_short(clips, output, 3)
    files, settings = parts(output), (output / ".preprocess/settings.json").read_text()
    relist(clips, [before[0], {**before[1], "cap": "a square a moving down"}, *before[3:]])
    job = Job(clips, output)
    assert job.join() == [76]
    assert "001.mp4 was 'a cross moving down', is now 'a square a moving down'; 002.mp4 is not listed any more" in job.log()
    assert "Traceback" not in job.log() and "000.mp4" not in job.log()
    assert (parts(output), (output / ".preprocess/settings.json").read_text()) == (files, settings)
    relist(clips, before)
    assert finish(clips, output)["written"] == 8


@pytest.mark.parametrize("first", ["nothing of it can be read", "too little of it can be used"])
def test_a_list_of_which_nothing_was_written_may_be_any_other(clips: Path, tmp_path: Path, first: str) -> None:
    before, output = listed(clips), tmp_path / "out"
    wrong = [{"nummer": entry["path"], "cap": entry["cap"]} for entry in before] if first.startswith("nothing") else before
    relist(clips, wrong if first.startswith("nothing") else [{**entry, "cap": ""} for entry in before])
    job = Job(clips, output)
    assert job.join() == [76]
    assert not list(output.rglob("*.parquet"))
    if first.startswith("too little"):
        report = json.loads((output / "report.json").read_text())
        assert (report["entries"], report["written"]) == (len(report["problems"]), 0)
    else:
        assert "'nummer', 'cap'" in job.log() and not output.exists()
    relist(clips, before)
    assert finish(clips, output, height=16)["written"] == 8  # nothing was written: other sizes hinder nobody


def test_a_clip_that_came_after_its_rejection_is_made(clips: Path, tmp_path: Path) -> None:
    output, clip = tmp_path / "out", (clips / "videos/004.mp4").read_bytes()
    (clips / "videos/004.mp4").unlink()
    (clips / "videos/005.mp4").write_bytes(b"no video")
    assert finish(clips, output, rows_per_file=4)["rejected"] == {"missing": 1, "unreadable": 1}
    kept = parts(output)
    assert finish(clips, output, rows_per_file=4)["written"] == 6 and parts(output) == kept
    (clips / "videos/004.mp4").write_bytes(clip)
    told = finish(clips, output, rows_per_file=4)
    assert (told["written"], told["rejected"]) == (7, {"unreadable": 1})
    assert {path: parts(output)[path] for path in kept} == kept
    assert sorted(captions(output)) == ["000", "001", "002", "003", "004", "006", "007"]
    (clips / "videos/005.mp4").write_bytes(clip)
    assert finish(clips, output, rows_per_file=4)["written"] == 8 and len(rows(output)) == 8


def test_prompts_are_known_by_their_words_wherever_they_stand(tmp_path: Path) -> None:
    source, output = tmp_path / "prompts.txt", tmp_path / "out"
    source.write_text("a square moving right\na cross moving down\na square moving right\na cross moving right a\n")
    cut_short(source, output, 3, kind="text")
    source.write_text("a cross a moving down\na square moving right\na square moving right\na square moving right a\na cross moving down\n")
    assert finish(source, output, kind="text")["written"] == 5
    assert sorted(row["caption"] for row in rows(output)) == sorted(source.read_text().splitlines())
    source.write_text("a cross a moving down\n")
    job = Job(source, output, kind="text")
    assert job.join() == [76] and "'a square moving right' is not listed any more" in job.log()


def test_a_file_that_was_damaged_is_written_again_once_it_is_whole(clips: Path, tmp_path: Path) -> None:
    theirs, output = tmp_path / "theirs", tmp_path / "out"
    finish(clips, theirs, rows_per_file=4)
    broken = theirs / "combined_parquet_dataset/worker_0000/part-00000000.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-9])
    assert finish(theirs, output, kind="rewrite", model=None)["written"] == 4
    kept = parts(output)
    broken.write_bytes(whole)
    told = finish(theirs, output, kind="rewrite", model=None)
    assert (told["entries"], told["written"], told["rejected"]) == (8, 8, {})
    assert {path: parts(output)[path] for path in kept} == kept and rows(output) == rows(theirs)


def test_a_larger_max_rejected_goes_on_where_a_smaller_one_ended(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for number in range(5):
        (clips / f"videos/{number:03d}.mp4").write_bytes(b"no video")
    job = Job(clips, output)
    assert job.join() == [76]
    assert "only 3 of 8 entries can be used: 5 rejected are more than max_rejected 0.5 of them" in job.log()
    assert "set max_rejected to 0.63 or more" in job.log()
    kept = parts(output)
    assert finish(clips, output, max_rejected=0.63)["written"] == 3 and parts(output) == kept


def test_a_job_that_dies_while_it_takes_over_loses_nothing(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    told = finish(clips, output)
    settings = json.loads((output / ".preprocess/settings.json").read_text())
    records = output_shards.settled(output, print)
    staged = output / f".preprocess/records-{settings['listing'][:16]}"
    (output / ".preprocess/records").rename(staged)  # as between the last two renames
    (output / ".preprocess/records-0123456789abcdef").mkdir()  # of settings that were never claimed
    (output / ".preprocess/.made.0a0a0a0a").mkdir()
    assert not output_shards.claim(output, settings) and output_shards.settled(output, print) == records
    assert finish(clips, output) == told
    assert sorted(path.name for path in (output / ".preprocess").iterdir()) == ["records", "settings.json"]


def test_a_record_is_cut_at_the_entries_that_are_tried_again() -> None:
    problems = [{"name": name, "reason": "unreadable", "text": "x"} for name in ("b", "d", "f")]
    record = Record(0, 5, {"part": 9}, 3, 1, problems, [{"name": "a", "kept": 0.1}], [4, 5, 4, 4])
    again = mended_source.without_mended([record], list("abcdef"), lambda _: 0.0, lambda _, number: number in (1, 5))
    assert [(r.first, r.last, r.written, r.holdout, [p["name"] for p in r.problems]) for r in again] == [
        (0, 0, 1, 1, []), (2, 4, 2, 0, ["d"]),
    ]  # fmt: skip
    assert all(r.parts == {"part": 9} for r in again) and [len(r.cropped) for r in again] == [1, 0]
    records = [record]
    assert mended_source.without_mended(records, list("abcdef"), lambda _: 0.0, lambda *_: False) is records


def test_parts_that_were_lost_are_made_again_after_a_list_was_mended(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    cut_short(clips, output, 4)
    first = min(output.rglob("part-*.parquet"))
    first.unlink()
    relist(clips, listed(clips)[::-1])
    assert finish(clips, output)["written"] == 8
    assert sorted(captions(output)) == [f"{number:03d}" for number in range(8)]
    assert sum(pq.read_metadata(path).num_rows for path in output.rglob("part-*.parquet")) == 8
