"""Promises of what is hashed ahead: it is not read twice, it condemns and excuses nothing, and no network is left without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.checkpointing import manifest as manifests
from trainers.checkpointing import store
from trainers.checkpointing.early_hashing import EarlyHashing, share
from trainers.checkpointing.loader import Expected
from trainers.checkpointing.saver import Checkpointer
from trainers.config.checkpoint import CheckpointConfig
from trainers.control import Control

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def _read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "REREAD_AFTER_S", 0.0)


def checkpointer(folder: Path, *, early: bool = False) -> Checkpointer:
    hashing = EarlyHashing(folder, 0, 1) if early else None
    if hashing is not None:
        hashing.join(lambda _bytes: None)
    return Checkpointer(folder, CheckpointConfig(), control=Control({}), facts={}, config_digest="", early=hashing)


def small(step: int, *roles: str) -> dict[str, Any]:
    return {"roles": {role: {"net": {"weight": torch.full((4,), float(step))}} for role in roles or ("student",)}}


def saved(folder: Path, *states: dict[str, Any]) -> None:
    writer = checkpointer(folder)
    for step, state in enumerate(states, 1):
        writer.save(step, state, wait=True)
    writer.close()


def spoil(folder: Path, step: int) -> None:
    shard = store.folder_of(folder, step) / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_file_is_hashed_once_by_a_rank_that_loads_it(ranks: int) -> None:
    names = [".metadata", *(f"__{rank}_{part}.distcp" for rank in range(4) for part in range(2))]
    shares = [share(names, rank, ranks) for rank in range(ranks)]
    assert sorted(name for mine in shares for name in mine) == sorted(names)
    if ranks >= 4:
        assert all(share(names, rank, ranks)[-2:] == [f"__{rank}_0.distcp", f"__{rank}_1.distcp"] for rank in range(4))


def test_what_was_hashed_ahead_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, small(1))
    loading = checkpointer(tmp_path, early=True)
    hashed: list[str] = []
    digest = manifests.digest_file
    monkeypatch.setattr(manifests, "digest_file", lambda path, *rest: (hashed.append(path.name), digest(path, *rest))[1])
    state = small(0)
    assert loading.load(state) == 1 and torch.equal(state["roles"]["student"]["net"]["weight"], torch.full((4,), 1.0))
    assert hashed == []
    assert checkpointer(tmp_path).load(small(0)) == 1 and sorted(hashed) == [".metadata", "__0_0.distcp"]


def test_a_damaged_shard_is_expected_and_never_loaded(tmp_path: Path) -> None:
    saved(tmp_path, small(1), small(2))
    spoil(tmp_path, 2)
    loading = checkpointer(tmp_path, early=True)
    assert loading.expected() == Expected(2, frozenset({"student"}))  # by its index, which is sound
    assert loading.load(small(0)) == 1
    assert (tmp_path / "step-00000002.bad").is_dir()


def test_a_damaged_index_is_passed_over_before_anything_is_built(tmp_path: Path) -> None:
    saved(tmp_path, small(1), small(2, "student", "critic"))
    (store.folder_of(tmp_path, 2) / ".metadata").write_bytes(b"")
    loading = checkpointer(tmp_path, early=True)
    assert loading.expected() == Expected(1, frozenset({"student"}))
    assert loading.load(small(0)) == 1


def test_a_role_that_was_built_without_weights_never_trains_without_them(tmp_path: Path) -> None:
    """Its checkpoint turned out to be damaged after the networks were built, or is gone; the older one lacks that role."""
    saved(tmp_path, small(1), small(2, "student", "critic"))
    spoil(tmp_path, 2)
    loading = checkpointer(tmp_path, early=True)
    assert loading.expected().roles == {"student", "critic"}
    with pytest.raises(RuntimeError, match=r"step 2, which was to be loaded, .* lacks critic: start again"):
        loading.load(small(0, "student", "critic"))
    following = checkpointer(tmp_path, early=True)
    assert following.expected() == Expected(1, frozenset({"student"}))
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path.parent / path.name)
    with pytest.raises(RuntimeError, match=r"step 1, which was to be loaded, .* lacks student: start again"):
        following.load(small(0))
