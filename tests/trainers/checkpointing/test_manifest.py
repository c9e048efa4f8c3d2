"""Promises of trainers/checkpointing/manifest.py and trainers/checkpointing/store.py, on plain files: no torch, no ranks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rows import Figures, fault
from trainers import files
from trainers.checkpointing import manifest as manifests
from trainers.checkpointing import store
from trainers.checkpointing.manifest import MANIFEST, BadManifest, Manifest, NewerFormat
from trainers.files import FileEntry

FILES = {".metadata": b"index", "__0_0.distcp": bytes(range(256)) * 40, "__1_0.distcp": b""}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "REREAD_AFTER_S", 0.0)


def write_files(folder: Path) -> Manifest:
    """The manifest that belongs to FILES in `folder`, which may be a temporary one of step 500."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    entries = {name: files.digest_file(folder / name) for name in FILES}
    return Manifest(500, 2, "c0ffee", {"threads": 1, "versions": {"torch": "2.13"}}, entries)


def publish(directory: Path, step: int) -> Path:
    temporary = store.new_temporary(directory, step)
    manifest = write_files(temporary)
    store.publish(temporary, Manifest(step, 2, "c0ffee", {}, manifest.files))
    return store.folder_of(directory, step)


def tree(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_manifest_needs_no_torch() -> None:
    program = "import sys, trainers.checkpointing.manifest, trainers.checkpointing.store; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_digest_is_blake2b_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # more than two chunks
    (tmp_path / "shard").write_bytes(content)
    heard: list[int] = []
    entry = files.digest_file(tmp_path / "shard", heard.append)
    assert entry == FileEntry(10_240_000, hashlib.blake2b(content, digest_size=32).hexdigest())
    assert sum(heard) == 10_240_000 and len(heard) > 2


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = store.new_temporary(tmp_path / "checkpoints", 500)
    manifest = write_files(folder)
    manifests.write(folder, manifest)
    assert manifests.read(folder) == manifest
    assert manifests.is_complete(folder)
    assert manifests.wrong_files(folder, manifest, manifest.files) == []


@fault("2", "a bit of each byte of a manifest flipped")
def test_every_flipped_bit_of_a_manifest_is_noticed_or_harmless(tmp_path: Path, figure: Figures) -> None:
    """One bit in each byte: either the manifest is refused, or it says the same as before (spacing, a letter's case in \\u)."""
    folder = publish(tmp_path, 500)
    original, sound = manifests.read(folder), (folder / MANIFEST).read_bytes()
    harmless = 0
    for position in range(len(sound)):
        content = bytearray(sound)
        content[position] ^= 1 << (position % 7)
        (folder / MANIFEST).write_bytes(content)
        try:
            assert manifests._read_once(folder) == original
            harmless += 1
        except (BadManifest, NewerFormat) as error:
            assert isinstance(error, BadManifest)
    assert harmless < len(sound) / 4
    figure.count("refused, or meant the same", len(sound), len(sound))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"self": 1}', "[" * 100_000, '{"format": 1', "\x00" * 50])
def test_a_manifest_that_is_no_manifest_is_bad(tmp_path: Path, text: str) -> None:
    folder = publish(tmp_path, 500)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BadManifest):
        manifests.read(folder)
    assert not manifests.is_complete(folder)


@pytest.mark.parametrize(
    "change",
    [{"step": 501}, {"files": {}}, {"files": {"../x": {"size": 1, "digest": "0"}}}, {"files": 3}, {"world_size": None}, {"facts": 1}],
)
def test_a_manifest_of_something_else_is_bad_even_with_the_right_digest(tmp_path: Path, change: dict[str, object]) -> None:
    folder = publish(tmp_path, 500)
    content = {**json.loads((folder / MANIFEST).read_text()), **change}
    del content["self"]
    (folder / MANIFEST).write_text(json.dumps({**content, "self": manifests._self_digest(content)}))
    with pytest.raises(BadManifest):
        manifests.read(folder)


def test_a_later_format_is_not_called_damaged(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    content = {**json.loads((folder / MANIFEST).read_text()), "format": 2}
    del content["self"]
    (folder / MANIFEST).write_text(json.dumps({**content, "self": manifests._self_digest(content)}))
    with pytest.raises(NewerFormat, match="format 2"):
        manifests.read(folder)


def test_a_file_that_is_right_at_the_second_reading_is_not_condemned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path, 500)
    manifest = manifests.read(folder)
    sound = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(b"stale")
    monkeypatch.setattr(manifests.time, "sleep", lambda _s: (folder / "__0_0.distcp").write_bytes(sound))
    assert manifests.wrong_files(folder, manifest, manifest.files) == []


def test_a_file_that_cannot_be_read_is_an_error_and_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path, 500)
    manifest = manifests.read(folder)

    def broken(_path: Path, _tick: object) -> FileEntry:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifests, "digest_file", broken)
    with pytest.raises(OSError, match="Input/output error"):
        manifests.wrong_files(folder, manifest, manifest.files)


def test_a_published_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    folder = publish(tmp_path, 500)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    temporary = store.new_temporary(tmp_path, 500)
    assert not store.publish(temporary, write_files(temporary))
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert tree(tmp_path) == ["step-00000500"]


def test_a_damaged_folder_in_the_way_is_put_aside_and_not_deleted(tmp_path: Path) -> None:
    (publish(tmp_path, 500) / "__0_0.distcp").write_bytes(b"short")
    publish(tmp_path, 500)
    assert tree(tmp_path) == ["step-00000500", "step-00000500.bad"]
    assert (tmp_path / "step-00000500.bad" / "__0_0.distcp").read_bytes() == b"short"
    assert manifests.is_complete(tmp_path / "step-00000500")


def test_quarantined_names_are_unique(tmp_path: Path) -> None:
    for _ in range(3):
        store.quarantine(publish(tmp_path, 500))
    assert tree(tmp_path) == ["step-00000500.2.bad", "step-00000500.3.bad", "step-00000500.bad"] == store.quarantined(tmp_path)
    assert store.steps(tmp_path) == []


class Crash(BaseException):
    pass


def crash_at(number: int) -> Callable[[], None]:
    """Make the `number`-th call that changes the disk raise instead of happening; returns the undoing."""
    left = [number]

    def guarded(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return original(*args, **kwargs)

        return call

    context = pytest.MonkeyPatch()
    for owner, name in ((os, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (json, "dump")):
        context.setattr(owner, name, guarded(getattr(owner, name)))
    for name in ("rename", "unlink", "rmdir", "mkdir"):
        context.setattr(Path, name, guarded(getattr(Path, name)))
    return context.undo


@fault("13", "death before each operation that publishes")
def test_death_at_any_operation_leaves_a_whole_checkpoint_or_a_temporary_folder(tmp_path: Path, figure: Figures) -> None:
    points = 0
    for number in range(1, 40):
        directory = tmp_path / str(number)
        publish(directory, 400)
        undo = crash_at(number)
        try:
            publish(directory, 500)
            break
        except Crash:
            points += 1
        finally:
            undo()
        published = store.steps(directory)
        assert published in ([400], [400, 500])
        assert all(manifests.is_complete(store.folder_of(directory, step)) for step in published)
        store.remove_leftovers(directory)
        assert len(tree(directory)) == len(published)
    assert points >= 5  # mkdir, the manifest and its two fsyncs, rename, fsync of the parent
    figure.count("only whole checkpoints left", points, points)


@fault("21", "death before each operation that prunes")
def test_death_at_any_operation_of_pruning_never_leaves_something_that_looks_whole_and_is_not(tmp_path: Path, figure: Figures) -> None:
    points = 0
    for number in range(1, 40):
        directory = tmp_path / str(number)
        for step in (100, 200, 300):
            publish(directory, step)
        undo = crash_at(number)
        try:
            store.prune(directory, keep_last=2, keep_every=None, protected=None)
            break
        except Crash:
            points += 1
        finally:
            undo()
        for step in store.steps(directory):
            folder = store.folder_of(directory, step)
            assert manifests.is_complete(folder) or not (folder / MANIFEST).exists()
        assert store.prune(directory, keep_last=2, keep_every=None, protected=None) == []
        assert tree(directory) == ["step-00000200", "step-00000300"]  # what had begun is finished
    assert points >= 5
    figure.count("nothing left that only looks whole", points, points)


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "protected", "left"),
    [
        (2, None, None, [500, 600]),
        (3, None, None, [400, 500, 600]),
        (1, None, None, [500, 600]),  # never below two
        (2, 300, None, [300, 500, 600]),
        (2, None, 100, [100, 500, 600]),  # the one that was loaded
        (9, None, None, [100, 200, 300, 400, 500, 600]),
    ],
)
def test_pruning_keeps_what_the_policy_says(
    tmp_path: Path, keep_last: int, keep_every: int | None, protected: int | None, left: list[int]
) -> None:
    for step in range(100, 700, 100):
        publish(tmp_path, step)
    assert store.prune(tmp_path, keep_last=keep_last, keep_every=keep_every, protected=protected) == []
    assert store.steps(tmp_path) == left


def test_pruning_does_not_count_a_damaged_checkpoint_as_kept(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        publish(tmp_path, step)
    (tmp_path / "step-00000400" / "__0_0.distcp").write_bytes(b"short")
    (tmp_path / "step-00000300" / MANIFEST).write_text("{}")
    store.prune(tmp_path, keep_last=2, keep_every=None, protected=None)
    assert store.steps(tmp_path) == [100, 200, 300, 400]


def test_a_manifest_that_cannot_be_deleted_leaves_its_checkpoint_whole(tmp_path: Path) -> None:
    folder = publish(tmp_path, 100)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    assert store.delete(folder, refuse) == ["step-00000100: Permission denied"]
    assert manifests.wrong_files(folder, manifests.read(folder), FILES) == []


def test_a_folder_without_permission_is_named_and_the_others_are_pruned(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        publish(tmp_path, step)
    (tmp_path / "step-00000100").chmod(0o500)
    if os.access(tmp_path / "step-00000100", os.W_OK):
        pytest.skip("root may delete anything")
    problems = store.prune(tmp_path, keep_last=2, keep_every=None, protected=None)
    assert problems == ["step-00000100: Permission denied"]
    assert store.steps(tmp_path) == [100, 300, 400]
    (tmp_path / "step-00000100").chmod(0o700)
    assert store.prune(tmp_path, keep_last=2, keep_every=None, protected=None) == []
    assert store.steps(tmp_path) == [300, 400]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    publish(tmp_path, 100)
    for name in (".step-00000200.0a1b2c3d", ".step-00000200.x", ".other", "step-00000100.bad", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__0_0.distcp").write_bytes(b"half")
    assert store.remove_leftovers(tmp_path) == []
    assert tree(tmp_path) == [".other", "notes", "step-00000100", "step-00000100.bad"]


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert store.steps(tmp_path / "none") == store.quarantined(tmp_path / "none") == store.remove_leftovers(tmp_path / "none") == []


def test_steps_are_ordered_by_number_past_eight_digits(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 3):
        publish(tmp_path, step)
    assert store.steps(tmp_path) == [3, 99_999_999, 100_000_000]
