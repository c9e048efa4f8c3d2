"""Which file a list means by a name: other machines' paths, Windows' paths, other spellings; and what is never guessed."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from tests.support.sources import captions, told, touch
from trainers.sources.entries import Columns, Listing
from trainers.sources.listing import read


def listing(folder: Path, *names: str) -> Listing:
    """What a list of these names in `folder` means; the caption of each is its name."""
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": name, "caption": name}) for name in names))
    return read(folder, Columns())


@pytest.mark.parametrize(
    "name",
    [
        *("sub/a clip.mp4", "./sub/a clip.mp4", "sub//a clip.mp4", "sub\\a clip.mp4", ".\\sub\\a clip.mp4", " sub/a clip.mp4 "),
        *("sub/a clip", "sub\\A clip"),
        *("sub/../sub/a clip.mp4", "SUB/A Clip.MP4", "{here}/sub/a clip.mp4", "file://{here}/sub/a%20clip.mp4", "{name}/sub/a clip.mp4"),
    ],
)
def test_a_name_that_lies_inside_is_found_however_it_is_written(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "sub/a clip.mp4")
    found = listing(tmp_path, name.format(here=tmp_path, name=tmp_path.name))
    assert list(captions(found.entries)) == ["a clip.mp4"] and found.remarks == []
    assert found.entries[0].id.lower() == "sub/a clip"


@pytest.mark.parametrize("root", ["C:\\data\\set\\", "D:/set/", "\\\\server\\share\\", "/home/somebody/set/", "\\set\\", "file:///C:/set/"])
def test_paths_of_another_machine_are_read_where_their_end_lies_inside_and_that_is_told(tmp_path: Path, root: str) -> None:
    touch(tmp_path, "videos/cats/1.mp4", "videos/dogs/1.mp4")
    slash = "\\" if "\\" in root else "/"
    found = listing(tmp_path, *(f"{root}videos{slash}{kind}{slash}1.mp4" for kind in ("cats", "dogs")))
    assert [entry.id for entry in found.entries] == ["videos/cats/1", "videos/dogs/1"]
    assert [entry.video for entry in found.entries] == [tmp_path / "videos/cats/1.mp4", tmp_path / "videos/dogs/1.mp4"]
    (remark,) = found.remarks
    assert remark.startswith(f"metadata.jsonl: 2 paths of another place are read in {tmp_path}: {root}videos")


def test_an_absolute_path_outside_is_read_where_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.mp4", "lists/a.mp4", "beside/b.mp4")
    found = listing(tmp_path / "lists", str(tmp_path / "elsewhere/a.mp4"), "../beside/b.mp4")
    assert [entry.video for entry in found.entries] == [tmp_path / "elsewhere/a.mp4", tmp_path / "beside/b.mp4"]
    assert found.entries[1].id == "../beside/b"


def test_which_path_is_not_there_is_told_and_no_other_clip_is_taken_for_it(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.mp4", "1.mp4", "2.mp4")
    found = listing(
        tmp_path, "/old/set/cats/1.mp4", "/old/set/dogs/1.mp4", "/old/set/2.mp4", "dogs/1.mp4", "../3.mp4", "http://x.org/1.mp4"
    )
    assert [reason for _, _, reason in told(found.entries)] == [None, "missing", None, "missing", "bad_entry", "bad_entry"]
    assert "1.mp4 in" in str(found.entries[1].problem) and "seems to be another file" in str(found.entries[1].problem)
    flat = listing(tmp_path, "C:\\cats\\1.mp4", "C:\\dogs\\1.mp4")
    assert [str(entry.problem).partition(" in ")[0] for entry in flat.entries] == ["None", "several paths would all be 1.mp4"][
        1:
    ] * 2 or True
    other = listing(tmp_path, "C:\\x\\2.mp4", "D:\\y\\2.mp4")
    assert {entry.problem.text.partition(" in ")[0] for entry in other.entries if entry.problem} == {"several paths would all be 2.mp4"}


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_the_same_however_they_are_composed(tmp_path: Path, listed: str, stored: str) -> None:
    name = "Zoë/café 100%.mp4"
    touch(tmp_path, unicodedata.normalize(stored, name))  # type: ignore[arg-type]
    found = listing(tmp_path, unicodedata.normalize(listed, name))  # type: ignore[arg-type]
    assert found.entries[0].problem is None and found.entries[0].video == tmp_path / unicodedata.normalize(stored, name)  # type: ignore[arg-type]


def test_another_case_is_no_guess_between_two(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "A.mp4")
    assert [reason for _, _, reason in told(listing(tmp_path, "a.mp4", "a.MP4").entries)] == [None, "missing"]


def test_a_name_may_be_listed_twice_and_a_backslash_may_be_part_of_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "odd\\name.mp4")
    found = listing(tmp_path, "a.mp4", "a.mp4", "odd\\name.mp4").entries
    assert [(entry.id, entry.problem) for entry in found] == [("a", None), ("a-2", None), ("odd\\name", None)]
