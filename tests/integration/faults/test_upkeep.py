"""After a run: verified, pruned, forked, copied to another cluster and gone on with there. One real training, then what is made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.launcher import Workspace, losses

STEPS, EVERY = 40, 10


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("upkeep"))
    here = yaml.safe_load((made.folder / "clusters/here.yaml").read_text())
    script = made.write(
        "tell.sh", f"cat >{made.folder}/telling && mv -n {made.folder}/telling {made.folder}/told.json"
    )  # of the first one only
    made.write("clusters/telling.yaml", {**here, "notify": {"on": ["finished"], "command": ["sh", str(script)]}})
    sets = [f"train.max_steps={STEPS}", f"train.checkpoint={{every_steps: {EVERY}, keep_last: 4}}"]
    made.submit("first", "--ranks", "1", *(word for text in sets for word in ("--set", text)), cluster="telling")
    assert made.finish("first")["state"] == "finished"
    yield made


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit())


def copied(workspace: Workspace, name: str) -> Path:
    """A copy of the first run in a folder of its own, as rsync -a makes one."""
    target = workspace.folder / name / "first"
    shutil.copytree(workspace.runs / "first", target, symlinks=True)
    return target


def test_a_persons_command_was_told_that_it_finished(workspace: Workspace) -> None:
    workspace.until((workspace.folder / "told.json").exists, "the command is called")  # after the run's end is known
    told = json.loads((workspace.folder / "told.json").read_text())
    assert (told["event"], told["run"], told["last_checkpoint_step"]) == ("finished", "first", STEPS)


def test_every_byte_is_verified_and_what_is_wrong_is_named(workspace: Workspace) -> None:
    found = json.loads(workspace.call("verify", "first", "--json").stdout)
    assert [one["step"] for one in found] == [10, 20, 30, 40] and all(one["bytes"] and not one["problems"] for one in found)
    run = copied(workspace, "flipped")
    shard = next((run / "checkpoints/step-00000020").glob("*.distcp"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)
    done = workspace.call("verify", str(run), check=False)
    assert done.returncode == 1 and f"{shard.name}: wrong digest" in done.stdout and done.stdout.count("verified") == 3
    assert workspace.call("verify", str(run), "--step", "30").returncode == 0
    done = workspace.call("verify", str(run), "--step", "33", check=False)
    assert done.returncode == 1 and "no checkpoint of step 33" in done.stderr
    done = workspace.call("fork", str(run), "--step", "20", "--name", "from-damaged", check=False)
    assert done.returncode == 1 and "is damaged" in done.stderr and not (workspace.folder / "flipped/from-damaged").exists()


def test_pruning_keeps_the_newest_that_verifies_and_deletes_nothing_where_it_does_not(workspace: Workspace) -> None:
    run = copied(workspace, "pruned")
    done = workspace.call("prune", str(run), "--keep-last", "1", "--keep-every", "20", "--dry-run")
    assert steps(run) == [10, 20, 30, 40] and "would be deleted" in done.stdout
    workspace.call("prune", str(run), "--keep-last", "1", "--keep-every", "20")
    assert steps(run) == [20, 40]
    (run / "checkpoints/step-00000010.bad").mkdir()
    newest = next((run / "checkpoints/step-00000040").glob("*.distcp"))
    kept = newest.read_bytes()
    newest.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    done = workspace.call("prune", str(run), "--keep-last", "1", check=False)
    assert done.returncode == 1 and "nothing is deleted" in done.stdout and steps(run) == [20, 40]
    newest.write_bytes(kept)
    workspace.call("prune", str(run), "--keep-last", "1", "--bad")
    assert steps(run) == [40] and not (run / "checkpoints/step-00000010.bad").exists()


@pytest.mark.parametrize(
    ("step", "more", "words"),
    [("15", (), "there are: 10, 20, 30, 40"), ("40", (), "step 40 is done"), ("20", ("--set", "train.nothing=1"), "unknown key")],
)
def test_a_fork_that_cannot_be_is_refused_before_anything_is_made(
    workspace: Workspace, step: str, more: tuple[str, ...], words: str
) -> None:
    done = workspace.call("fork", "first", "--step", step, "--name", "never", *more, check=False)
    assert done.returncode == 1 and words in done.stderr and not (workspace.runs / "never").exists()


def test_what_a_fork_changes_is_told_before_it_is_submitted(workspace: Workspace) -> None:
    rate = ("--set", "train.optimizers.student.lr=0.5")
    done = workspace.call("fork", "first", "--step", "20", "--name", "first", *rate, check=False)
    assert done.returncode == 1 and -1 < done.stderr.find("learning rate") < done.stderr.find("exists already"), done.stderr


def test_a_fork_goes_on_from_the_step_with_what_is_set_and_leaves_the_old_run_alone(workspace: Workspace) -> None:
    before = losses(workspace.runs / "first")
    workspace.call("fork", "first", "--step", "20", "--name", "forked", "--set", "train.seed=5")  # which resume refuses
    assert workspace.finish("forked")["state"] == "finished"
    after = losses(workspace.runs / "forked")
    assert [step for step, _ in after] == list(range(1, STEPS + 1))
    assert after[:20] == before[:20] and all(one != two for one, two in zip(after[20:], before[20:], strict=True))
    assert losses(workspace.runs / "first") == before and steps(workspace.runs / "first") == [10, 20, 30, 40]
    lock = yaml.safe_load((workspace.runs / "forked/run.yaml").read_text())["lock"]
    assert lock["asked"] == {"fork": "first", "step": 20, "set": ["train.seed=5"]}


@pytest.mark.long
def test_a_smoke_test_saves_and_resumes_and_says_what_it_took(workspace: Workspace) -> None:
    done = workspace.call("submit", "tiny", "--cluster", "here", "--ranks", "1", "--smoke", "--json")
    found = json.loads(done.stdout)
    assert found["ok"] and found["resumed_from"] == 2 and len(found["losses"]) == 3 and found["save_s"] is not None
    assert found["losses"][:2] == [loss for _, loss in losses(workspace.runs / "first")[:2]] and steps(workspace.runs / "tiny-smoke") == [
        2,
        3,
    ]


def test_a_run_goes_on_at_another_cluster_after_a_copy(workspace: Workspace) -> None:
    """Its folder, its data and the profile are elsewhere; what it came from is gone."""
    other = copied(workspace, "other").parent
    shutil.move(workspace.folder / "data", other / "scratch")
    shutil.move(workspace.runs / "first", workspace.folder / "gone")
    here = yaml.safe_load((workspace.folder / "clusters/here.yaml").read_text())
    workspace.write("clusters/there.yaml", {**here, "paths": {"data": str(other / "scratch")}})
    try:
        path = str(other / "first")
        workspace.call("resume", path, "--cluster", "there", "--set", f"train.max_steps={STEPS + 5}", "--wait")
        told = losses(other / "first")
        assert told[:STEPS] == losses(workspace.folder / "gone") and [step for step, _ in told] == list(range(1, STEPS + 6))
        done = workspace.call("resume", path, "--cluster", "there", "--set", "train.max_steps=60", "--set", "train.seed=3", check=False)
        assert done.returncode == 1 and "cannot change at resume" in done.stderr
    finally:
        shutil.move(other / "scratch", workspace.folder / "data")
        shutil.move(workspace.folder / "gone", workspace.runs / "first")
