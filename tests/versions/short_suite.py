"""Promises that hold in every environment of versions that we admit: run by tests/versions/__main__.py with that environment's interpreter.

The command line answers; a killed run ends bitwise as an undisturbed one; what is trained from clips is loaded by diffusers and sampled.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import gates
from tests.support.launcher import RECIPE, Workspace, losses, rank_pids
from tests.support.paths import ROOT

STEPS, EVERY = 20, 5
TINY = ("--set", "tiny=true", "--set", "train.data.path=data/clips", "--set", "train.max_steps=2")
SAMPLED = ("--set", "train.callbacks.validation.num_steps=2")
DISTILLED = ("--set", "train.method.generator_update_interval=1")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")}
    made = Workspace(tmp_path, {key: value for key, value in environment.items() if key != "OMP_NUM_THREADS"})
    recipe: Any = copy.deepcopy(RECIPE)
    recipe["train"] |= {"max_steps": STEPS, "checkpoint": {"every_steps": EVERY, "every_minutes": None}}
    recipe["train"]["data"]["micro_batch_size"] = 4
    recipe["train"]["optimizers"]["student"]["schedule"] = {"kind": "cosine", "warmup_steps": 5, "decay_steps": STEPS}
    made.write("templates/recipes/tiny.yaml", recipe)
    made.write("templates/recipes/gated.yaml", {**recipe, "train": {**recipe["train"], "method": gates.METHOD}})
    return made


def test_every_module_can_be_imported() -> None:
    for package in map(importlib.import_module, ("fvlaunch", "trainers")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def test_the_command_line_answers(workspace: Workspace) -> None:
    assert "submit" in workspace.call("--help").stdout
    for command in ("submit", "status", "export", "sample", "doctor"):
        assert "Usage" in workspace.call(command, "--help").stdout
    assert {"dmd2", "self-forcing"} <= {entry["name"] for entry in json.loads(workspace.call("list", "recipes", "--json").stdout)}
    assert json.loads(workspace.call("schema", "recipe").stdout)["properties"]
    shown = workspace.call("submit", "dmd2", "--cluster", "here", "--set", "tiny=true", "--dry-run", check=False)
    assert "max_steps: 4000" in shown.stdout, shown.stderr
    assert json.loads(workspace.call("status", "--json").stdout) == []
    refused = workspace.call("submit", "tiny", "--cluster", "here", "--set", "train.max_step=3", check=False)
    assert refused.returncode == 1
    assert "did you mean" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_after_two_saves_ends_bitwise_as_an_undisturbed_one(workspace: Workspace, ranks: int) -> None:
    workspace.submit("whole", "--ranks", str(ranks))
    workspace.submit("killed", "--ranks", str(ranks), recipe="gated")
    gate = workspace.gate("killed")
    gate.reach(2 * EVERY + 2, ranks=ranks)
    workspace.until(lambda: (workspace.runs / f"killed/checkpoints/step-{2 * EVERY:08d}").is_dir(), "the second save is published")
    for pid in rank_pids(workspace.runs / "killed").values():
        os.kill(pid, signal.SIGKILL)
    gate.open()
    for name, attempts in (("whole", 1), ("killed", 2)):
        ended = workspace.finish(name)
        assert (ended["state"], ended["attempts"], ended["last_checkpoint_step"]) == ("finished", attempts, STEPS), workspace.told()
    assert losses(workspace.runs / "killed") == losses(workspace.runs / "whole")
    assert _shards(workspace.runs / "killed") == _shards(workspace.runs / "whole")
    assert workspace.call("verify", "killed").returncode == 0


def test_clips_are_learned_exported_loaded_by_diffusers_and_sampled(workspace: Workspace) -> None:
    _write_clips(workspace.folder / "clips")
    output = ("--set", "preprocess.source=clips", "--set", "preprocess.output=data/clips", "--ranks", "1")
    workspace.submit("clips", "--set", "tiny=true", *output, "--wait", recipe="preprocess")
    for name, more in {"lora": SAMPLED, "finetune": SAMPLED, "dmd2-vsa": DISTILLED, "self-forcing": DISTILLED}.items():
        workspace.submit(name, *TINY, *more, "--ranks", "1", "--wait", recipe=name)
    workspace.call("export", "lora", "--to", "adapter")
    workspace.call("export", "finetune", "--to", "whole")
    size = ("--num-frames", "9", "--height", "32", "--width", "32")
    workspace.call("sample", "whole", "--prompt", "grey", "--steps", "2", *size, "--to", "grey.mp4")
    assert (workspace.folder / "grey.mp4").is_file()
    program = (
        "import torch, diffusers; whole = diffusers.WanPipeline.from_pretrained('whole'); whole.load_lora_weights('adapter');"
        "whole.set_progress_bar_config(disable=True);"
        "print(whole('grey', height=32, width=32, num_frames=9, num_inference_steps=2, output_type='np').frames.shape)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=workspace.folder, env=workspace.env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 9, 32, 32, 3)", done.stderr


def _shards(run: Path) -> dict[str, str]:
    """Digests of the last checkpoint's shards."""
    manifest = json.loads((run / f"checkpoints/step-{STEPS:08d}/MANIFEST.json").read_text())
    return {name: entry["digest"] for name, entry in manifest["files"].items() if name.endswith(".distcp")}


def _write_clips(folder: Path) -> None:
    """Two clips of five seconds, with captions."""
    import av
    import numpy as np

    folder.mkdir()
    for name, speed in (("slow", 2), ("fast", 5)):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(40):
                image = np.full((48, 64, 3), speed * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        (folder / f"{name}.txt").write_text(f"grey that grows {name}")
