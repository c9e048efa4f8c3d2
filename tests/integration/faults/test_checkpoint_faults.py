"""What is done to checkpoints: real ranks, damaged files, full disks, deaths, attempts that wake up late."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.rows import Figures, fault
from tests.support.small_disk import small_disk
from trainers.checkpointing import manifest as manifests
from trainers.checkpointing import store


@pytest.fixture(scope="module")
def ranks() -> Iterator[Any]:
    path = ROOT / "tests/support/trainers/checkpoint_ranks.py"
    spec = importlib.util.spec_from_file_location("checkpoint_ranks", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Ranks()
    yield server
    server.close()


def verifies(folder: Path) -> bool:
    manifest = manifests.read(folder)
    return not manifests.wrong_files(folder, manifest, manifest.files)


def until(condition: Callable[[], bool], limit_s: float = 240) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def random_damages(number: int) -> list[list[list[Any]]]:
    """Each kind at each file of step 3, then random ones; every fifth also hits step 2."""
    dice = random.Random(2)
    files, kinds = ["__0_0.distcp", "__1_0.distcp", ".metadata", "MANIFEST.json"], ["missing", "truncated", "zeroed", "flipped"]
    targets = [[name, kind] for kind in kinds for name in files]
    targets += [["MANIFEST.json", "garbage"]]
    targets += [[dice.choice(files[:3]), "flipped"] for _ in range(number - len(targets))]
    damages = [[[3, name, kind, dice.random()]] for name, kind in targets]
    for more in damages[::5]:
        more.append([2, dice.choice(files[:3]), dice.choice(kinds), dice.random()])
    return damages


@fault("2", "each kind of damage to each file, on two ranks")
def test_the_newest_sound_checkpoint_is_loaded_and_the_damaged_are_named(ranks: Any, tmp_path: Path, figure: Figures) -> None:
    ranks.run(2, "save", tmp_path / "c", steps=[1, 2, 3])
    damages = random_damages(24)
    results = ranks.run(2, "damage", tmp_path / "c", damages=damages)
    right = 0
    for targets, first, second in zip(damages, *results, strict=True):
        hit = {step for step, *_rest in targets}
        newest = max({1, 2, 3} - hit)
        folders = sorted([f"step-{step:08d}" for step in {1, 2, 3} - hit] + [f"step-{step:08d}.bad" for step in hit])
        assert (first["step"], first["equal"], second["step"], second["equal"]) == (newest, True, newest, True), targets
        assert first["folders"] == folders, targets
        assert len(first["warnings"]) == len(hit) and all(targets[0][1] in first["warnings"][0] for _ in hit), first["warnings"]
        right += 1
    figure.count("found, the newest sound one loaded", right, len(damages))


@fault("3", "a limit on file sizes for some of two ranks")
@pytest.mark.parametrize("broken_ranks", [[0], [1], [0, 1]])
def test_a_disk_that_is_full_for_some_ranks_fails_the_save_on_all_and_the_next_works(
    ranks: Any, tmp_path: Path, broken_ranks: list[int]
) -> None:
    (tmp_path / "c").mkdir()
    results = ranks.run(2, "full_disk", tmp_path / "c", broken_ranks=broken_ranks, limit_bytes=20_000, rows=2000)
    old = ["step-00000001"]
    for result in results:
        assert result["seen"] == [[0, 1, old], [1, 1, old], [2, 1, old], [0, 4, [*old, "step-00000004"]]]
    assert all("File too large" in warning for warning in results[0]["warnings"]), results[0]["warnings"]
    assert len(results[0]["warnings"]) == 2
    assert verifies(tmp_path / "c" / "step-00000001") and verifies(tmp_path / "c" / "step-00000004")


@fault("3", "a full tmpfs")
def test_a_full_file_system_costs_one_checkpoint_and_leaves_nothing_behind(ranks: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        results = ranks.run(2, "full_tmpfs", disk.path / "c", filler=str(disk.path / "filler"), rows=2000)
        old = ["step-00000001"]
        assert results == [[[0, 1, old], [1, 1, old], [0, 3, [*old, "step-00000003"]]]] * 2
        assert [result["step"] for result in ranks.run(2, "load", disk.path / "c", rows=2000)] == [3, 3]


@fault("13", "SIGKILL to one or both of two ranks that save without end")
def test_death_with_a_save_in_flight_leaves_only_whole_checkpoints(ranks: Any, tmp_path: Path, figure: Figures) -> None:
    dice, trials, right, in_flight, newest = random.Random(13), 8, 0, 0, 0
    for trial in range(trials):
        pids = ranks.start(2, "endless", tmp_path / "c", rows=40_000)
        until(lambda: max(store.steps(tmp_path / "c"), default=0) > newest)  # noqa: B023  called at once
        time.sleep(dice.random() * 0.1)
        for pid in pids if trial % 2 else pids[trial // 2 % 2 :][:1]:  # all, or one: then the others must end by themselves
            os.kill(pid, signal.SIGKILL)
        outcomes = ranks.join(pids)
        assert all(outcome["code"] in (1, -signal.SIGKILL) for outcome in outcomes), outcomes
        found = store.steps(tmp_path / "c")
        assert max(found) > newest
        complete = [step for step in found if (store.folder_of(tmp_path / "c", step) / manifests.MANIFEST).exists()]
        assert all(verifies(store.folder_of(tmp_path / "c", step)) for step in complete) and complete[-1] == found[-1]
        assert not store.quarantined(tmp_path / "c")
        newest, right = found[-1], right + 1
        in_flight += any(name.startswith(".step-") for name in names(tmp_path / "c"))
    loaded = ranks.run(2, "load", tmp_path / "c", rows=40_000)
    assert [(result["step"], result["equal"]) for result in loaded] == [(newest, True)] * 2
    assert not [name for name in names(tmp_path / "c") if name.startswith(".")]
    figure.count(f"only whole checkpoints left ({in_flight} with a save in flight)", right, trials)


@fault("21", "a manifest, or a shard, that may not be deleted")
@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_a_checkpoint_that_cannot_be_deleted_costs_one_place_on_the_disk_and_a_warning(ranks: Any, tmp_path: Path, kind: str) -> None:
    results = ranks.run(2, "undeletable", tmp_path, steps=[1, 2, 3, 4, 5], stuck=1, kind=kind)
    assert [result["failed"] for result in results] == [0, 0]
    held = [len(seen) for seen in results[0]["seen"]]
    assert held == [1, 2, 3, 3, 3, 2]  # keep_last 2, and the one that is stuck until the last save
    assert results[0]["warnings"] == ["an old checkpoint could not be deleted: step-00000001: Permission denied"]  # told once
    assert store.steps(tmp_path) == [5, 6]
    assert verifies(tmp_path / "step-00000005") and verifies(tmp_path / "step-00000006")


@fault("29", "SIGSTOP just before the rename of a checkpoint")
@pytest.mark.parametrize("successor_saves", [True, False])
def test_an_attempt_that_slept_through_its_successors_start_publishes_nothing(ranks: Any, tmp_path: Path, successor_saves: bool) -> None:
    """The old one is stopped when only the rename is left to do; the new one saves the same step, or has not got there yet."""
    current, hold, directory = tmp_path / "attempt.json", tmp_path / "hold", tmp_path / "c"
    current.write_text('{"generation": 1, "attempt": 1}')
    ranks.run(2, "attempt", directory, current=str(current), attempt=1, step=1)
    hold.touch()
    old = ranks.start(2, "attempt", directory, current=str(current), attempt=1, step=2, hold=str(hold))
    until((tmp_path / "hold.reached").exists)
    for pid in old:
        os.kill(pid, signal.SIGSTOP)
    current.write_text('{"generation": 1, "attempt": 2}')
    if successor_saves:
        new = ranks.run(2, "attempt", directory, current=str(current), attempt=2, step=2)
        assert new == [{"loaded": 1, "last": 2}] * 2
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if not path.parent.name.startswith(".")}
    hold.unlink()
    for pid in old:
        os.kill(pid, signal.SIGCONT)
    outcomes = ranks.join(old)
    assert [outcome["code"] for outcome in outcomes] == [1, 1], outcomes
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if not path.parent.name.startswith(".")} == before
    assert store.steps(directory) == ([1, 2] if successor_saves else [1])
    assert [name.startswith(".") for name in names(directory)] == ([False, False] if successor_saves else [True, False])
