"""From raw clips to a video of the finetuned model, each step a job of a real Slurm, with the code that loads real models."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace, metrics

ONE_JOB_GOES_ON = True  # the trainings, while the first test looks at their data
TINY = ("--cluster", "real", "--set", "tiny=true", "--set", "train.max_steps=3", "--set", "train.callbacks.validation.num_steps=2")
SIZE = ("--num-frames", "9", "--height", "32", "--width", "32")


def _write_clips(folder: Path) -> None:
    """Two clips of five seconds, one of them too short by far."""
    (folder / "videos").mkdir(parents=True)
    for name, frames in (("drift", 40), ("short", 3), ("pulse", 40)):
        with av.open(str(folder / f"videos/{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(frames):
                image = np.full((48, 64, 3), 5 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    captions = [{"path": f"{name}.mp4", "cap": f"grey that is of the kind {name}"} for name in ("drift", "short", "pulse")]
    (folder / "videos2caption.json").write_text(json.dumps(captions))


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Workspace:
    """Clips preprocessed, then a finetuning and a LoRA run of them side by side."""
    workspace.env["HF_HOME"] = str(workspace.folder / "hf")
    _write_clips(workspace.folder / "clips")
    workspace.call("submit", "preprocess", *TINY[:4], "--name", "pre", "--set", "preprocess.source=clips", "--wait")
    workspace.submit("tune", *TINY[2:], recipe="finetune", cluster="real")
    workspace.submit("adapter", *TINY[2:], recipe="lora", cluster="real")
    return workspace


def test_clips_become_samples_and_what_was_left_out_is_told(trained: Workspace) -> None:
    report = json.loads(next(trained.folder.glob("data/*-tiny/report.json")).read_text())
    assert (report["entries"], report["written"]) == (3, 2)
    assert [problem["name"] for problem in report["problems"]] == ["short.mp4"]


@pytest.mark.parametrize("name", ["tune", "adapter"])
def test_both_trainings_finish_with_samples_of_what_they_learn(trained: Workspace, name: str) -> None:
    assert trained.finish(name)["state"] == "finished", trained.told()
    assert [line["step"] for line in metrics(trained.runs / name)] == [1, 2, 3]
    assert (trained.runs / name / "samples/step-00000003/sheet.png").is_file()


def test_stock_diffusers_makes_a_video_of_the_finetuned_model_in_a_job(trained: Workspace, slurm: SlurmCluster) -> None:
    done = trained.call("export", "tune", "--to", "exported", "--cluster", "real")
    assert done.stdout == "exported\n" and "waiting for it" in done.stderr
    done = trained.call("sample", "exported", "--prompt", "a 'red' $car", "--steps", "2", *SIZE, "--to", "car.mp4", "--cluster", "real")
    assert "car.mp4: a 'red' $car" in done.stderr
    with av.open(str(trained.folder / "car.mp4")) as container:
        assert [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)] == [
            (64, 64, 3)
        ] * 9  # small ones are enlarged for the eye
    assert not list(trained.folder.glob(".fvlaunch-*"))
    assert slurm.jobs() == []


def test_a_mistake_is_told_before_anything_is_queued(trained: Workspace) -> None:
    done = trained.call("export", "adapter", "--to", "clips", "--cluster", "real", check=False)
    assert done.returncode == 1
    assert "clips exists already" in done.stderr and "waiting for it" not in done.stderr and "Traceback" not in done.stderr
