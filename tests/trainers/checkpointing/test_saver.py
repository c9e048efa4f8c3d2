"""Promises of Checkpointer: what is saved is what is loaded, at any number of ranks, and a misfit never passes silently."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from tests.support.paths import ROOT
from tests.support.rows import fault
from trainers.checkpointing import manifest as manifests
from trainers.checkpointing import store
from trainers.checkpointing.dcp_io import read_metadata
from trainers.checkpointing.loader import Expected
from trainers.checkpointing.saver import Checkpointer
from trainers.errors import UserError
from trainers.files import digest_file


def load_helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checkpoint_ranks", ROOT / "tests/support/trainers/checkpoint_ranks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helper = load_helper()


@pytest.fixture(scope="module")
def ranks() -> Iterator[Any]:
    server = helper.Ranks()
    yield server
    server.close()


@pytest.fixture
def control() -> Any:
    return helper.RecordingControl(0)


@pytest.fixture
def checkpointer(alone: None, tmp_path: Path, control: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkpointer]:
    monkeypatch.setattr(manifests, "REREAD_AFTER_S", 0.0)
    made = helper.make_checkpointer(str(tmp_path), control)
    yield made
    made.close()


def small(step: int) -> dict[str, Any]:
    return {"roles": {"student": {"net": {"weight": torch.full((4,), float(step))}}}, "schedulers": {"student": {"last_epoch": step}}}


def tree(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- several ranks


def test_a_checkpoint_of_two_ranks_is_the_same_state_on_two_one_and_four(ranks: Any, tmp_path: Path) -> None:
    saved = ranks.run(2, "save", tmp_path / "c", steps=[1, 2])
    assert [(result["failed"], result["last"]) for result in saved] == [(0, 2)] * 2
    for world, told in ((2, []), (1, ["resume is not bitwise: world size 2 -> 1"]), (4, ["resume is not bitwise: world size 2 -> 4"])):
        loaded = ranks.run(world, "load", tmp_path / "c")
        assert [(result["step"], result["equal"], result["roles"]) for result in loaded] == [(2, True, ["student"])] * world
        assert loaded[0]["warnings"] == told


def test_dawdling_ranks_agree_on_the_counts_at_every_step_and_never_wait_for_each_other_forever(ranks: Any, tmp_path: Path) -> None:
    pauses = [[0.0, 0.03, 0.0, 0.0], [0.02, 0.0, 0.0]]
    first, second = ranks.run(2, "skewed", tmp_path / "c", steps=12, every=3, pauses_s=pauses)
    assert first["seen"] == second["seen"]
    assert first["last"] == second["last"] == 12
    loaded = ranks.run(2, "load", tmp_path / "c")  # the loop overwrote its state as soon as `save` returned
    assert [result["equal"] for result in loaded] == [True, True]


def test_a_model_that_changed_is_refused_with_its_keys_on_all_ranks_and_nothing_is_renamed(ranks: Any, tmp_path: Path) -> None:
    ranks.run(2, "save", tmp_path, steps=[1, 2])
    renamed = ranks.run(2, "load_error", tmp_path, rename_role=True)
    assert renamed[0] == renamed[1]
    assert renamed[0]["type"] == "UserError"
    assert "missing in the checkpoint: roles.teacher.transformer.norm, roles.teacher.transformer.weight" in renamed[0]["text"]
    assert "unexpected in the checkpoint: roles.student.transformer.norm, roles.student.transformer.weight" in renamed[0]["text"]
    resized = ranks.run(2, "load_error", tmp_path, rows=34)
    assert "roles.student.transformer.weight (float32 [33, 7] in the checkpoint, float32 [34, 7] here)" in resized[1]["text"]
    assert tree(tmp_path) == ["step-00000001", "step-00000002"]


def test_save_keeps_the_loop_for_a_small_part_of_the_time_that_saving_takes(ranks: Any, tmp_path: Path) -> None:
    result = ranks.run(2, "timing", tmp_path, megabytes=100, saves=3)[0]
    print(f"100 MB over 2 ranks: blocked {result['blocked_s']} s of {result['save_s']} s")
    assert min(result["blocked_s"][1:]) < 0.5 * max(result["save_s"])


# --- a world of one: saving


def test_a_rank_alone_keeps_no_threads_of_a_save_or_load(ranks: Any, tmp_path: Path) -> None:
    """Where gloo's threads have helpers of their own, each later step of two OpenMP threads on two cores takes a third longer."""
    (found,) = ranks.run(1, "threads", tmp_path, tensors=500)
    assert found["step"] == 2
    if found["threads"][0] == 0:
        pytest.skip("this torch gives gloo's threads no name")
    assert found["threads"] == [found["threads"][0]] * 3


def test_what_was_staged_is_saved_even_if_the_loop_goes_on(checkpointer: Checkpointer) -> None:
    state = small(7)
    checkpointer.save(7, state)
    state["roles"]["student"]["net"]["weight"].zero_()
    state["schedulers"]["student"]["last_epoch"] = 0
    into = small(0)
    assert checkpointer.load(into) == 7
    assert into["roles"]["student"]["net"]["weight"].tolist() == [7.0] * 4
    assert into["schedulers"]["student"]["last_epoch"] == 7


def test_the_kept_stager_never_mixes_two_saves(checkpointer: Checkpointer, tmp_path: Path, control: Any) -> None:
    state = small(1)
    for step in (1, 2, 3):
        state["roles"]["student"]["net"]["weight"].fill_(float(step))
        checkpointer.save(step, state)
    checkpointer.wait()
    for step in (3, 2, 1):
        into = small(0)
        assert helper.make_checkpointer(str(tmp_path), control).load(into) == step
        assert into["roles"]["student"]["net"]["weight"].tolist() == [float(step)] * 4
        store.delete(store.folder_of(tmp_path, step))


def test_a_published_step_is_not_saved_again(checkpointer: Checkpointer, tmp_path: Path) -> None:
    checkpointer.save(5, small(5), wait=True)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "step-00000005").iterdir()}
    checkpointer.save(5, small(6), wait=True)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "step-00000005").iterdir()} == before
    assert checkpointer.last_published == 5


def test_a_publication_is_reported_with_its_step_and_time(checkpointer: Checkpointer, control: Any) -> None:
    checkpointer.save(5, small(5))
    checkpointer.wait()
    assert [(report["kind"], report["step"]) for report in control.reports] == [("checkpoint", 5)]
    assert 0 <= control.reports[0]["stall_s"] <= control.reports[0]["save_s"] < 60 and control.reports[0]["save_s"] > 0


def test_metrics_come_first_and_their_failure_fails_the_save(checkpointer: Checkpointer, tmp_path: Path, control: Any) -> None:
    seen: list[tuple[int, list[str]]] = []

    def look(step: int) -> dict[str, bytes]:
        seen.append((step, [name for name in tree(tmp_path) if not name.startswith(".")]))
        return {}

    checkpointer.before_publish = look
    checkpointer.save(1, small(1), wait=True)
    assert seen == [(1, [])]

    def full(_step: int) -> dict[str, bytes]:
        raise OSError(28, "No space left on device")

    checkpointer.before_publish = full
    checkpointer.save(2, small(2), wait=True)
    assert (checkpointer.failed_in_a_row, checkpointer.last_published) == (1, 1)
    assert tree(tmp_path) == ["step-00000001"]
    assert control.warnings() == ["the checkpoint of step 2 failed (1 in a row): OSError: [Errno 28] No space left on device"]


def test_what_a_checkpoint_carries_is_verified_with_it_and_given_back(checkpointer: Checkpointer, tmp_path: Path, control: Any) -> None:
    assert checkpointer.carried("notes") == b""
    checkpointer.before_publish = lambda step: {"notes": f"of step {step}".encode()}
    checkpointer.save(1, small(1), wait=True)
    checkpointer.save(2, small(2), wait=True)
    assert set(manifests.read(tmp_path / "step-00000002").files) == {".metadata", "__0_0.distcp", "notes"}
    assert checkpointer.load(small(0)) == 2 and checkpointer.carried("notes") == b"of step 2"
    (tmp_path / "step-00000002" / "notes").write_bytes(b"of step 3")
    assert checkpointer.load(small(0)) == 1 and checkpointer.carried("notes") == b"of step 1"
    assert checkpointer.carried("others") == b""


def test_a_directory_that_cannot_be_made_is_a_failed_save(alone: None, tmp_path: Path, control: Any) -> None:
    (tmp_path / "file").write_text("")
    checkpointer = helper.make_checkpointer(str(tmp_path / "file" / "checkpoints"), control)
    checkpointer.save(1, small(1))
    checkpointer.save(2, small(2))
    assert checkpointer.failed_in_a_row == 2
    checkpointer.close()


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.nn.Linear(1, 1), [lambda: 0], torch.float32])
def test_a_value_that_could_not_be_loaded_safely_is_a_programmers_error(checkpointer: Checkpointer, value: Any) -> None:
    with pytest.raises(TypeError, match=r"callbacks\.mine\.thing"):
        checkpointer.save(1, {"callbacks": {"mine": {"thing": value}}})


def test_old_checkpoints_go_and_the_loaded_one_stays(alone: None, tmp_path: Path, control: Any) -> None:
    first = helper.make_checkpointer(str(tmp_path), control, keep_last=2)
    for step in (1, 2, 3):
        first.save(step, small(step))
    first.close()
    assert store.steps(tmp_path) == [2, 3]
    second = helper.make_checkpointer(str(tmp_path), control, keep_last=2, keep_every=5)
    assert second.load(small(0)) == 3
    for step in (4, 5, 6, 7):
        second.save(step, small(step))
    second.close()
    assert store.steps(tmp_path) == [3, 5, 6, 7]


# --- a world of one: loading


def test_no_checkpoint_is_no_error(checkpointer: Checkpointer, alone: None, tmp_path: Path, control: Any) -> None:
    assert checkpointer.expected() == Expected()
    assert checkpointer.load(small(0)) is None
    assert helper.make_checkpointer(str(tmp_path / "none"), control).load(small(0)) is None


def test_leftovers_of_a_first_save_are_no_checkpoint(checkpointer: Checkpointer, tmp_path: Path) -> None:
    (store.new_temporary(tmp_path, 5) / "__0_0.distcp").write_bytes(b"half")
    assert checkpointer.load(small(0)) is None
    assert tree(tmp_path) == []


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over_silently(
    checkpointer: Checkpointer, tmp_path: Path, control: Any
) -> None:
    checkpointer.save(1, small(1), wait=True)
    (tmp_path / "step-00000001" / "__0_0.distcp").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match=r"none verifies: step-00000001\.bad") as caught:
            checkpointer.load(small(0))
        assert "from step 0" in caught.value.hint
    assert len(control.warnings()) == 1
    assert "damaged and now called step-00000001.bad: __0_0.distcp: 0 bytes, not" in control.warnings()[0]


def test_a_file_that_cannot_be_read_condemns_nothing(checkpointer: Checkpointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer.save(1, small(1), wait=True)

    def broken(*_arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifests, "digest_file", broken)
    with pytest.raises(OSError, match=r"step 1 cannot be read: rank 0: OSError: \[Errno 5\] Input/output error"):
        checkpointer.load(small(0))
    assert tree(tmp_path) == ["step-00000001"]


def test_roles_are_those_of_the_checkpoint_that_is_loaded_next(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, small(1))
    checkpointer.save(
        2, {"roles": {"critic": {"net": {"w": torch.ones(1)}}, "student": {"net": {"w": torch.ones(1)}}}, "callbacks": {}}, wait=True
    )
    assert checkpointer.expected() == Expected(2, frozenset({"critic", "student"}))


def test_callbacks_may_come_and_go_and_what_came_is_named(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, {**small(1), "callbacks": {"old": {"count": 3}}}, wait=True)
    state = {**small(0), "callbacks": {"ema": {"shadow": torch.full((2,), 9.0)}}}
    assert checkpointer.load(state) == 1
    assert checkpointer.absent == {"callbacks.ema.shadow"}
    assert state["callbacks"]["ema"]["shadow"].tolist() == [9.0, 9.0]


def test_a_changed_type_is_a_misfit_and_not_a_silent_cast(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, small(1), wait=True)
    state = small(0)
    state["roles"]["student"]["net"]["weight"] = torch.zeros(4, dtype=torch.bfloat16)
    state["schedulers"]["student"]["last_epoch"] = torch.zeros(())
    with pytest.raises(UserError) as caught:
        checkpointer.load(state)
    assert "roles.student.net.weight (float32 [4] in the checkpoint, bfloat16 [4] here)" in str(caught.value)
    assert "schedulers.student.last_epoch (a plain value in the checkpoint, float32 [] here)" in str(caught.value)


def test_what_keeps_a_resume_from_being_bitwise_is_told(alone: None, tmp_path: Path, control: Any) -> None:
    first = helper.make_checkpointer(str(tmp_path), control, threads=2, device="cpu", versions={"torch": "2.12"}, shape=(1, 2))
    first.save(1, small(1), wait=True)
    second = helper.make_checkpointer(str(tmp_path), control, threads=4, device="cpu", versions={"torch": "2.13"}, shape=(1, 2))
    second.load(small(0))
    assert control.warnings() == ["resume is not bitwise: threads 2 -> 4, versions.torch 2.12 -> 2.13"]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['CANARY']}",)


@fault("H4", "a .metadata that runs a program, its manifest agreeing")
def test_a_malicious_index_runs_nothing(checkpointer: Checkpointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a manifest that agrees with it."""
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    checkpointer.save(1, small(1), wait=True)
    folder = tmp_path / "step-00000001"
    (folder / ".metadata").write_bytes(pickle.dumps(Malicious()))
    sound = manifests.read(folder)
    (folder / "MANIFEST.json").unlink()
    files = {**sound.files, ".metadata": digest_file(folder / ".metadata")}
    manifests.write(folder, manifests.Manifest(1, 1, "c0ffee", sound.facts, files))
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        checkpointer.load(small(0))
    with pytest.raises(pickle.UnpicklingError):
        checkpointer.expected()
    assert tree(tmp_path) == ["step-00000001"]


class _Asked:
    """Written down as getattr(object, name)."""

    def __init__(self, object_: Any, name: str) -> None:
        self.arguments = (object_, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.arguments


def test_an_index_may_name_members_of_enums_as_early_pythons_3_11_do_and_nothing_else(tmp_path: Path) -> None:
    fields = {field.name: None for field in dataclasses.fields(Metadata)}
    index = Metadata(**{**fields, "planner_data": _Asked(_MEM_FORMAT_ENCODING, "TORCH_CHANNELS_LAST")})
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    assert read_metadata(tmp_path).planner_data is _MEM_FORMAT_ENCODING.TORCH_CHANNELS_LAST
    for object_, name in ((_MEM_FORMAT_ENCODING, "__class__"), (_MEM_FORMAT_ENCODING, "mro"), (Metadata, "__init__"), ("", "join")):
        (tmp_path / ".metadata").write_bytes(pickle.dumps(_Asked(object_, name)))
        with pytest.raises(pickle.UnpicklingError, match="asks for"):
            read_metadata(tmp_path)


def test_the_manifest_says_where_a_checkpoint_comes_from(checkpointer: Checkpointer, tmp_path: Path) -> None:
    checkpointer.save(12, small(12), wait=True)
    content = json.loads((tmp_path / "step-00000012" / "MANIFEST.json").read_text())
    assert {key: content[key] for key in ("format", "step", "world_size", "config_digest", "facts")} == {
        "format": 1,
        "step": 12,
        "world_size": 1,
        "config_digest": "c0ffee",
        "facts": {"threads": 1},
    }
    assert set(content["files"]) == {".metadata", "__0_0.distcp"}
