"""The examples of trainers/README.md are files that work: each trains, saves, is killed, and goes on bit by bit."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fvlaunch.config.compose import compose
from tests.support.pages.blocks import Block, blocks, run_shell, write_files
from tests.support.paths import ROOT
from tests.support.trainers.trainer_ranks import losses, metrics, read
from trainers.checkpointing.reader import open_checkpoint
from trainers.errors import UserError
from trainers.inference.export.folder import export
from trainers.inference.export.weights import ExportRequest
from trainers.sources.entries import Columns
from trainers.sources.listing import entries

PAGE = ROOT / "trainers/README.md"
GATE = """
import os
import signal
import time
from pathlib import Path

from trainers.methods import method_class


class Gated(method_class({kind!r})):
    '''The same, but each rank dies at step 7, once the checkpoint of step 4 is there.'''

    def single_train_step(self, batch, iteration):
        if iteration == 7:
            while not Path({run!r}, "checkpoints/step-00000004").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().single_train_step(batch, iteration)
"""


BLOCKS = blocks(PAGE)
SHELL = [block for block in BLOCKS if block.language == "bash" and not block.needs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the page, and what its two scripts make of them."""
    made = tmp_path_factory.mktemp("mine")
    write_files(BLOCKS, made)
    for script in ("make_clips.py", "write_latents.py"):
        subprocess.run([sys.executable, script], cwd=made, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    return made


def resolved(folder: Path, name: str, **sets: str) -> dict[str, Any]:
    """A recipe's train block as the launcher hands it to a rank."""
    composed = compose(str(folder / name), "local", cwd=folder, sets=[f"{key.replace('__', '.')}={value}" for key, value in sets.items()])
    assert composed.recipe.train is not None
    return composed.recipe.train.resolved()


def cut_alike(config: dict[str, Any]) -> dict[str, Any]:
    """With what a submission on two ranks fixes: noise belongs to micro-batches, so runs agree that cut theirs alike."""
    return config if config["method"]["kind"] != "finetune" else {**config, "data": {**config["data"], "micro_batch_size": 2}}


def killed(runs: Any, config: dict[str, Any], run: Path, world: int) -> None:
    run.mkdir()
    (run / "gate.py").write_text(GATE.format(kind=config["method"]["kind"], run=str(run)))
    gated = {**config, "method": {**config["method"], "kind": f"{run}/gate.py:Gated"}}
    assert runs.start(gated, run, world).join() == [-9] * world


Whole = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def whole(runs: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The undisturbed run of a recipe on so many ranks; made once."""

    @functools.cache
    def made(recipe: str, world: int) -> Path:
        run: Path = runs.finish(cut_alike(resolved(folder, recipe)), tmp_path_factory.mktemp("whole"), world)
        return run

    return made


@pytest.mark.parametrize(
    ("recipe", "world"), [("matching.yaml", 1), ("conv_video.yaml", 2), ("npz_clips.yaml", 1)], ids=["method", "family", "source"]
)
def test_an_example_that_is_killed_goes_on_bit_by_bit(
    runs: Any, folder: Path, whole: Whole, tmp_path: Path, recipe: str, world: int
) -> None:
    config, cut = cut_alike(resolved(folder, recipe)), tmp_path / "cut"
    killed(runs, config, cut, world)
    again = runs.start(config, cut, world, attempt=2)
    assert again.join() == [0] * world, again.log()
    assert [m["step"] for m in again.sent() if m["kind"] == "resumed"] == [4]
    assert losses(cut) == losses(whole(recipe, world)) and len(losses(cut)) == 12
    left, right = read(whole(recipe, world), 12), read(cut, 12)
    assert left.keys() == right.keys() and {key for key in left if key.startswith("callbacks.ema.student.")}
    for key, value in left.items():
        assert torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key], key


def test_the_method_reports_and_keeps_what_is_its_own(whole: Whole) -> None:
    run = whole("matching.yaml", 1)
    told = metrics(run)
    assert [line["seen"] for line in told] == list(range(1, 13))
    assert all(line["loss"] == pytest.approx(0.8 * line["teacher_loss"] + 0.2 * line["data_loss"]) for line in told)
    assert read(run, 12)["matching.seen"] == 12


def test_keys_of_an_example_with_mistakes_are_told_all_at_once(runs: Any, folder: Path, tmp_path: Path) -> None:
    config = resolved(folder, "matching.yaml")
    config["method"] |= {"data_share": 2, "sahre": 1}
    attempt = runs.start(config, tmp_path)
    assert attempt.join() == [76]
    (text,) = [m["text"] for m in attempt.sent() if m["kind"] == "failure"]
    assert "method.data_share: Input should be less than or equal to 1" in text and "method.sahre: Extra inputs" in text
    assert "keys of Matching: kind, data_share" in text


def test_a_loss_of_ones_own_needs_nothing_but_itself(runs: Any, folder: Path, whole: Whole, tmp_path: Path) -> None:
    own = resolved(folder, "conv_video.yaml", train__max_steps="2", train__method="{kind: ./huber.py:Huber}")
    run = runs.finish(own, tmp_path)
    assert len(losses(run)) == 2 and losses(run)[0] < losses(whole("conv_video.yaml", 2))[0]


def test_the_family_starts_from_a_folder_of_weights(runs: Any, folder: Path, whole: Whole, tmp_path: Path) -> None:
    config = resolved(folder, "conv_video.yaml", train__max_steps="1", train__callbacks__validation="null")
    first = tmp_path / "first"
    shutil.copytree(whole("conv_video.yaml", 2), first)
    (first / "attempts").mkdir()
    (first / "attempts/0001.config.json").write_text(json.dumps({"train": config}))
    (tmp_path / "weights").mkdir()
    save_file(open_checkpoint(first).weights("student", "live"), tmp_path / "weights/model.safetensors")
    config["models"]["student"]["init_from"] = str(tmp_path / "weights")
    config["optimizers"]["student"] |= {"lr": 1e-30, "weight_decay": 0.0}
    second = runs.finish(config, tmp_path / "second", 2)
    with pytest.raises(UserError, match="is not derived from a Wan"):
        export(ExportRequest(open_checkpoint(first), tmp_path / "export"))
    left, right = read(first, 12), read(second, 1)
    assert all(torch.equal(left[key], right[key]) for key in left if key.startswith("roles."))


def test_data_read_from_their_own_layout_are_those_written_as_parquet(whole: Whole) -> None:
    assert losses(whole("npz_clips.yaml", 1)) == pytest.approx(losses(whole("conv_video.yaml", 2)), rel=1e-5)


def test_a_list_of_clips_is_read_by_preprocessing(folder: Path, tmp_path: Path) -> None:
    for scene in ("a", "b"):
        (tmp_path / "scenes" / scene).mkdir(parents=True)
        (tmp_path / "scenes" / scene / "shot.mp4").touch()
        (tmp_path / "scenes" / scene / "about.json").write_text(json.dumps({"summary": f"scene {scene}"}))
    subprocess.run([sys.executable, folder / "list_clips.py"], cwd=tmp_path, check=True, timeout=60)
    found = entries(tmp_path / "scenes", Columns())
    assert [(entry.name, entry.caption, entry.problem) for entry in found] == [(f"{s}/shot.mp4", f"scene {s}", None) for s in "ab"]


@pytest.mark.parametrize("block", SHELL, ids=[f"line {block.line}" for block in SHELL])
def test_the_commands_of_the_page_run(block: Block, tmp_path: Path) -> None:
    write_files(BLOCKS, tmp_path)
    assert "finished" in run_shell(block, tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "code/own_code").is_dir() and len(metrics(run)) == 12
